"""A conversation as recognisers read it: lines of text by speaker, joined into turns.

ASR cuts speech at pauses, so a card number arrives as four utterances with an "okay" of the other party between them.
Lines of one speaker that only such acknowledgements or echoed digits interrupt are one turn: recognisers work on
turns and never see the cuts.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ray_jobs.engines.pii_vocabulary import ACKNOWLEDGEMENTS
from ray_jobs.engines.spoken_numbers import NUMBER

MAX_INTERRUPTIONS = 3
"""Most acknowledging lines in a row that leave the other party's turn open."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_ANY_NUMBER = re.compile(rf"\b{NUMBER}", re.IGNORECASE)
_ENDS_IN_NUMBER = re.compile(rf"{NUMBER}\W*\Z", re.IGNORECASE)
_STARTS_WITH_NUMBER = re.compile(rf"\W*(?:(?:and|then|um|uh)\W+)*{NUMBER}", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One utterance; `speaker` is its channel."""

    speaker: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Lines of one speaker joined by blanks; line `lines[i]` begins at `starts[i]` in `text`."""

    speaker: int
    text: str
    lines: tuple[int, ...]
    starts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A secret found in `turns[turn].text[start:end]`.

    `secret` is its normalised value (digits, lower-case words), by which repetitions are known to be the same.
    """

    turn: int
    start: int
    end: int
    entity: str
    secret: str
    recogniser: str
    score: float


def turns_of(lines: Sequence[Line]) -> list[Turn]:
    """Join the lines (in time order) into turns, in order of their first lines.

    On one channel nothing tells the parties apart: there a turn is a line, and the lines that read on its digits.
    """
    if len({line.speaker for line in lines}) == 1:
        return _turns_of_one_channel(lines)
    members: list[list[int]] = []
    open_turn: dict[int, int] = {}  # speaker -> the turn that may go on
    num_interruptions: dict[int, int] = {}
    for index, line in enumerate(lines):
        if line.speaker not in open_turn:
            open_turn[line.speaker] = len(members)
            members.append([])
        members[open_turn[line.speaker]].append(index)
        num_interruptions[line.speaker] = 0
        for other in [speaker for speaker in open_turn if speaker != line.speaker]:
            num_interruptions[other] += 1
            said = lines[members[open_turn[other]][-1]].text
            if num_interruptions[other] > MAX_INTERRUPTIONS or not _leaves_open(said, line.text):
                del open_turn[other]
    return [_join(lines, indices) for indices in members]


def is_acknowledgement(text: str) -> bool:
    """Whether a line only acknowledges or echoes digits: it asks nothing and adds nothing."""
    said = [word.lower().replace("’", "'") for word in _WORD.findall(text)]
    return all(word in ACKNOWLEDGEMENTS or _ANY_NUMBER.fullmatch(word) for word in said)


def _leaves_open(said: str, interruption: str) -> bool:
    """Whether the other party's words let a speaker go on: an "okay", or digits echoed while a number is read out."""
    if not is_acknowledgement(interruption):
        return False
    return _ANY_NUMBER.search(interruption) is None or _ENDS_IN_NUMBER.search(said) is not None


def _turns_of_one_channel(lines: Sequence[Line]) -> list[Turn]:
    members: list[list[int]] = []
    for index, line in enumerate(lines):
        if members and _ENDS_IN_NUMBER.search(lines[index - 1].text) and _STARTS_WITH_NUMBER.match(line.text):
            members[-1].append(index)
        else:
            members.append([index])
    return [_join(lines, indices) for indices in members]


def _join(lines: Sequence[Line], indices: Sequence[int]) -> Turn:
    starts, position = [], 0
    for index in indices:
        starts.append(position)
        position += len(lines[index].text) + 1
    text = " ".join(lines[index].text for index in indices)
    return Turn(speaker=lines[indices[0]].speaker, text=text, lines=tuple(indices), starts=tuple(starts))
