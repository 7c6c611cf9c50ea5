"""What every ASR engine does with its text: how words join, and the guards against invented ones."""

import re
import zlib
from collections.abc import Sequence

UNSPACED_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages written without blanks between words; a "word" there is one character or so."""

MAX_COMPRESSION_RATIO = 2.4
MAX_NO_SPEECH_PROB = 0.6
MIN_AVG_LOGPROB = -1.0

_MAX_LOOP_WORDS = 12
_MIN_REPEATS = 4
# Four times on end, or three and nothing after; in characters, for not every language has blanks, and so many of them
# that "1111 1111 1111 1111" is none.
_ON_END = re.compile(r"(.{8,}?)\1\1(?:\1|$)")


def join_words(words: Sequence[str], language: str) -> str:
    """The sentence that words make in a language (ISO 639-1)."""
    return ("" if language in UNSPACED_LANGUAGES else " ").join(words)


def compression_ratio(text: str) -> float:
    """Bytes of `text` per byte of its zlib form: about 1.5 for speech, far more where a model repeats itself."""
    encoded = text.encode()
    return len(encoded) / len(zlib.compress(encoded))


def is_looping(text: str) -> bool:
    """Whether a model got stuck: a text that compresses too well because it says a phrase over and over on end.

    The Whisper paper takes compression alone for it. But callers and scripts do repeat themselves, sentences apart or
    up to three times on end, and a model that is sure of such a text says the same at every temperature.
    """
    return compression_ratio(text) > MAX_COMPRESSION_RATIO and _ON_END.search(f"{text.strip()} ".casefold()) is not None


def is_invented(avg_logprob: float, no_speech_prob: float) -> bool:
    """Whether a text is taken for silence: section 4.5 of the Whisper paper (Radford et al., 2022), same thresholds."""
    return no_speech_prob > MAX_NO_SPEECH_PROB and avg_logprob < MIN_AVG_LOGPROB


def without_loops(words: Sequence[str]) -> list[int]:
    """Indices of the words to keep: of a phrase said four times or more on end, the first time.

    Texts that compress normally are left alone, and so are repeats that carry a digit: "one one one one" happens in
    speech, "4111 1111 1111 1111" is a card number.
    """
    if compression_ratio(" ".join(words)) <= MAX_COMPRESSION_RATIO:
        return list(range(len(words)))
    plain = [re.sub(r"\W", "", word).casefold() for word in words]
    kept: list[int] = []
    position = 0
    while position < len(words):
        size, repeats = _loop_at(plain, position)
        kept.extend(range(position, position + size))
        position += size * repeats
    return kept


def _loop_at(words: Sequence[str], start: int) -> tuple[int, int]:
    """The shortest phrase that repeats from `start` on: its length in words and how often it is said; else (1, 1)."""
    for size in range(1, _MAX_LOOP_WORDS + 1):
        phrase = words[start : start + size]
        if any(character.isdigit() for word in phrase for character in word):
            break
        repeats = 1
        while words[start + repeats * size : start + (repeats + 1) * size] == phrase:
            repeats += 1
        if repeats >= _MIN_REPEATS:
            return size, repeats
    return 1, 1
