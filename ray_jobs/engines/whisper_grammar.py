"""What Whisper may write next where it writes everything itself, language and timestamps included.

The rules are those of whisper_timestamps.py, one text at a time: in vLLM's running batch no two are equally long. A
text starts from the token `<|startoftranscript|>` alone, so that its first step shows both the language and how likely
there is no speech.
"""

from collections.abc import Sequence

from ray_jobs.engines.whisper_vocabulary import Vocabulary

_MAX_FIRST_TIMESTAMP = 50  # text starts in the first second, as in the reference: later, speech was passed over


class Grammar:
    """Which tokens may follow: a function of the tokens so far."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.end = vocabulary.end
        self.first_timestamp = vocabulary.timestamps.start
        self._last_timestamp = vocabulary.timestamps.stop - 1
        self._languages = vocabulary.languages
        task = vocabulary.prompt("en", timestamps=True)[1:]  # language and task, but for a model of English only
        self.num_header_tokens, self._task = len(task), task[-1:]

    def next(self, tokens: Sequence[int], language: str | None) -> tuple[int, int, int]:
        """(lowest, first, last): allowed are the text tokens from `lowest` to the end token, and first to last."""
        said = tokens[self.num_header_tokens :]
        if len(tokens) < self.num_header_tokens:
            return (self.end + 1, *self._header(len(tokens), language))
        if not said:
            return self.end + 1, self.first_timestamp, self.first_timestamp + _MAX_FIRST_TIMESTAMP
        latest = next(token for token in reversed(said) if token >= self.first_timestamp)
        if said[-1] < self.first_timestamp:  # in the text: it goes on, or is closed by a later time
            return 0, latest + 1, self._last_timestamp
        if len(said) == 1 or said[-2] >= self.first_timestamp:  # a text has been opened
            return 0, self.end, self.end
        return self.end, latest, self._last_timestamp  # a text has been closed: another one, or the end

    def _header(self, step: int, language: str | None) -> tuple[int, int]:
        languages = list(self._languages.values()) if language is None else [self._languages[language]]
        choice = self._task if step else languages
        return min(choice), max(choice)
