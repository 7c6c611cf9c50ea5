"""What may be written next, and how likely it is: the step that every way of decoding Whisper repeats."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ray_jobs.engines.whisper_graphs import GraphDecoder
from ray_jobs.engines.whisper_model import Decoder, DecoderState
from ray_jobs.engines.whisper_timestamps import TimestampRules
from ray_jobs.engines.whisper_vocabulary import Vocabulary

MAX_TOKENS = 224
"""Of one text: half of the text context, as in the reference decoder."""

MAX_LENGTH = 4 + MAX_TOKENS
"""Of a prompt and the text behind it."""

_NUM_EXACT = 8


class Scorer:
    """Scores of the next token, minus infinity where it may not come: suppressed ones, and times out of order."""

    def __init__(
        self,
        model: Decoder | GraphDecoder,
        vocabulary: Vocabulary,
        suppressed: Sequence[int],
        suppressed_first: Sequence[int],
        *,
        timestamps: bool = False,
    ) -> None:
        """Without `timestamps` no control token can be chosen, so none is scored."""
        self.model, self.vocabulary = model, vocabulary
        times = vocabulary.timestamps
        self._timestamps = timestamps
        self._rules = TimestampRules(times, vocabulary.end) if timestamps else None
        self._vocab_size = times.stop if timestamps else vocabulary.end + 1
        control = range(vocabulary.end + 1, times.start)
        self._bias = self._penalties([*suppressed, *control])
        self._first_bias = self._penalties([*suppressed, *control, *suppressed_first])

    def detect_languages(self, audio: Tensor) -> list[tuple[str, float]]:
        """The most probable language of each window of `audio`, the encoder's output, and its probability."""
        if not self.vocabulary.languages:
            return [("en", 1.0)] * len(audio)
        codes = list(self.vocabulary.languages)
        starts = torch.full((len(audio), 1), self.vocabulary.start, device=audio.device)
        hidden, _ = self.model.step(starts, self.model.start(audio, 1))
        scores = self.model.logits(hidden[:, -1])[:, list(self.vocabulary.languages.values())]
        best = scores.softmax(-1).max(-1)
        return [(codes[i], prob) for prob, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]

    def begin(self, audio: Tensor, languages: Sequence[str]) -> tuple[DecoderState, Tensor, Tensor, Tensor]:
        """Read the prompts of windows of `audio`: shape (num_windows, audio_positions, width).

        Returns the caches, the scores of the first token (num_windows, vocab_size), the prompt's last row of attention
        (num_windows, num_heads, audio_positions), and the probabilities that there is no speech (num_windows,).
        """
        prompts = self._prompts(languages, audio.device)
        state = self.model.start(audio, prompts.shape[1] + MAX_TOKENS)
        hidden, attention = self.model.step(prompts, state)
        no_speech = self.model.logits(hidden[:, 0]).softmax(-1)[:, self.vocabulary.no_speech]
        return state, self.scores(hidden[:, -1], prompts[:, :0]), attention[:, :, -1], no_speech

    def advance(self, history: Tensor, state: DecoderState) -> tuple[Tensor, Tensor]:
        """Scores after one more token, and the attention it looked with; `history` (rows, n): the texts so far."""
        hidden, attention = self.model.step(history[:, -1:], state)
        return self.scores(hidden[:, -1], history), attention[:, :, -1]

    def attention(self, audio: Tensor, languages: Sequence[str], texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """The attention with which each token of a text, and its end, is chosen: (num_tokens + 1, num_heads, ...)."""
        prompts = self._prompts(languages, audio.device)
        longest = max(len(text) for text in texts)
        padded = [[*text, *[self.vocabulary.end] * (longest - len(text))] for text in texts]
        tokens = torch.cat([prompts, torch.tensor(padded, dtype=torch.long, device=audio.device)], 1)
        _, attention = self.model.step(tokens, self.model.start(audio, tokens.shape[1]))
        rows = attention[:, :, prompts.shape[1] - 1 :].transpose(1, 2)
        return [row[: len(text) + 1] for row, text in zip(rows, texts, strict=True)]

    def scores(self, hidden: Tensor, history: Tensor) -> Tensor:
        """The next token's scores, float32 (rows, vocab_size), the best of them unrounded.

        They lie near 16, where bfloat16 steps by 0.06: choosing by rounded ones doubled the errors in spoken digits.
        """
        bias = self._bias if history.shape[1] else self._first_bias
        logits = self.model.logits(hidden, self._vocab_size).add_(bias)
        best = logits.topk(_NUM_EXACT).indices
        logits.scatter_(1, best, self.model.exact_logits(hidden, best) + bias[best])
        return self._rules(logits, history) if self._rules else logits

    def _prompts(self, languages: Sequence[str], device: torch.device) -> Tensor:
        prompts = [self.vocabulary.prompt(language, timestamps=self._timestamps) for language in languages]
        return torch.tensor(prompts, device=device)

    def _penalties(self, suppressed: Sequence[int]) -> Tensor:
        bias = torch.zeros(self._vocab_size, device=self.model.device)
        bias[[token for token in suppressed if token < self._vocab_size]] = -torch.inf
        return bias
