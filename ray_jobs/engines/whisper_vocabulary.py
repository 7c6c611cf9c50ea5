"""Whisper's tokens: the control tokens, the languages, and text from token ids."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from ray_jobs.errors import ModelError

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Vocabulary:
    """The token ids of one model; `languages` maps ISO 639-1 codes to tokens and is empty for an English-only model.

    Ids below `end` are text, `end` closes a text, the control tokens and, last, `timestamps` follow it.
    """

    def __init__(self, folder: Path, vocab_size: int) -> None:
        """Read tokenizer.json. Raises ModelError where it is missing, broken or not Whisper's."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"{path}: is missing; give a whole Whisper folder")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no type of its own
            raise ModelError(f"{path}: is no tokenizer ({error}); download the model again") from None
        ids = self._tokenizer.get_vocab()
        try:
            self.end = ids["<|endoftext|>"]
            self._start, self._transcribe = ids["<|startoftranscript|>"], ids["<|transcribe|>"]
            self._no_timestamps, translate = ids["<|notimestamps|>"], ids["<|translate|>"]
        except KeyError as error:
            raise ModelError(f"{path}: lacks the token {error}; it is not Whisper's tokenizer") from None
        self.no_speech = self._no_timestamps - 1
        self.timestamps = range(self._no_timestamps + 1, vocab_size)
        # Models whose vocabulary ends two tokens earlier know English only, and take no language token.
        multilingual = vocab_size >= 51865
        codes = {token[2:-2]: i for token, i in ids.items() if re.fullmatch(r"<\|[a-z]{2,3}\|>", token)}
        self.languages = {code: i for code, i in codes.items() if self._start < i < translate} if multilingual else {}

    @property
    def start(self) -> int:
        return self._start

    def prompt(self, language: str, *, timestamps: bool = False) -> list[int]:
        """The tokens before the text: transcribe `language`, with or without timestamps."""
        mode = [] if timestamps else [self._no_timestamps]
        task = [self.languages[language], self._transcribe] if self.languages else []
        return [self._start, *task, *mode]

    def text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))

    def iter_pieces(self, tokens: Sequence[int]) -> Iterator[tuple[str, int]]:
        """Stretches of whole characters with the number of their tokens; a character may take several tokens."""
        held: list[int] = []
        for token in tokens:
            held.append(token)
            piece = self.text(held)
            if _REPLACEMENT not in piece:
                yield piece, len(held)
                held = []
        if held:
            yield self.text(held), len(held)
