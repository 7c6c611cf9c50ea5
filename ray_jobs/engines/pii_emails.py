"""Finds e-mail addresses as written, as dictated, and as ASR writes what was dictated.

"jane.doe@example.com", "jane dot doe at example dot com", "Helen.Abernathy at example.com", and, where an address was
just asked for, "Nathan.caldwell.itexample.com": the "at" is lost, the shape is not.
"""

import re
from collections.abc import Iterator, Sequence

from ray_jobs.engines.conversation import Match, Turn
from ray_jobs.engines.pii_cues import Cue
from ray_jobs.engines.pii_vocabulary import NOT_LOCAL_PARTS
from ray_jobs.engines.spoken_numbers import NUMBER_WORDS

_COMMON_ENDING = r"(?:com|org|net|edu|gov|co(?:\.|\s+dot\s+)uk)"
_ENDING = (
    r"(?:com|org|net|edu|gov|io|info|biz|mail|dev|app|co|us|uk|ca|au|de|fr|ie|in|me|nz|es|it|nl|eu|test|example)"
    r"(?:(?:\.|\s+dot\s+)(?:uk|au|nz|in|za|jp))?"
)
_PART = r"[^\W_]+"
_DOT_ENDING = rf"(?:\.{_ENDING}|\s*\.\s*{_COMMON_ENDING}|\s+(?:dot|point)\s+{_ENDING})\b"
_JOINT = r"(?:\s*[._+-]\s*(?=\w)|\s+(?:dot|period|point|underscore|under score|dash|hyphen|minus|plus)\s+)"
_AT = r"(?:\s*@\s*|[\s,.]+at(?:\s+sign)?[\s,.]+|\s*\(at\)\s*)"
_DOMAIN = rf"{_PART}(?:(?:\s*[.-]\s*|\s+(?:dot|point|dash|hyphen)\s+|\s){_PART}){{0,3}}?{_DOT_ENDING}"
_EMAIL = re.compile(rf"(?P<local>{_PART}(?:{_JOINT}{_PART})*){_AT}{_DOMAIN}", re.IGNORECASE)
_WITHOUT_AT = re.compile(rf"\b{_PART}(?:{_JOINT}{_PART})*?{_DOT_ENDING}", re.IGNORECASE)
_WORD_BEFORE = re.compile(r"(?<!['’])\b([^\W_]+)[\s-]+\Z")

_JOINT_WORDS = frozenset({"dot", "period", "point", "underscore", "dash", "hyphen", "minus", "plus"})
_MAX_WORDS_BEFORE = 40  # a long name spelled letter by letter
_MAX_PLAIN_WORDS_BEFORE = 2
_ASKED_WITHIN_TURNS = 2


def find_emails(turns: Sequence[Turn], cues: Sequence[Cue]) -> list[Match]:
    """EMAIL matches of a conversation."""
    return [match for index, turn in enumerate(turns) for match in _in_turn(index, turn.text, cues)]


def _in_turn(index: int, text: str, cues: Sequence[Cue]) -> Iterator[Match]:
    end_of_last = 0
    for match in _EMAIL.finditer(text):
        start = max(_start(text, match.start()), end_of_last)
        if match["local"].lower() in NOT_LOCAL_PARTS and start == match.start():
            continue
        end_of_last = match.end()
        yield _match(index, text, start, match.end(), 0.95)
    asked = any(cue.entity == "EMAIL" and 0 <= index - cue.turn <= _ASKED_WITHIN_TURNS for cue in cues)
    if asked and end_of_last == 0:
        for match in _WITHOUT_AT.finditer(text):
            yield _match(index, text, match.start(), match.end(), 0.7)


def _start(text: str, start: int) -> int:
    """Takes in what stands before the local part: spelled letters and digits, and at most two plain words of a name."""
    num_plain = 0
    for _ in range(_MAX_WORDS_BEFORE):
        before = _WORD_BEFORE.search(text[:start])
        if before is None:
            break
        word = before[1].lower()
        if word in _JOINT_WORDS:
            num_plain = 0  # what stands before the joint is a part of its own
        elif len(word) > 1 and word not in NUMBER_WORDS and not word.isdigit():
            num_plain += 1
            if word in NOT_LOCAL_PARTS or num_plain > _MAX_PLAIN_WORDS_BEFORE:
                break
        start = before.start(1)
    return start


def _match(turn: int, text: str, start: int, end: int, score: float) -> Match:
    secret = re.sub(r"\s+at\s+", "@", text[start:end].lower())
    secret = re.sub(r"\s+(?:dot|point|period)\s+|[\s.,]+", ".", secret)
    return Match(turn=turn, start=start, end=end, entity="EMAIL", secret=secret, recogniser="spoken_email", score=score)
