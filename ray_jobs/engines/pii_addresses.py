"""Finds postal addresses: a house number, a street, and what follows of town, state and postcode.

"forty two Juniper Lane, Springfield, Illinois, six two seven zero four" is one address. A street without a house
number ("a cable on Mercer Street") and a town alone ("at home in Leeds") are not. Where an address was just asked
for, a house number and the words after it are one even if the kind of street was lost or comes later ("18 orchard
clothes Bristol").
"""

import re
from collections.abc import Iterator, Sequence

from ray_jobs.engines.conversation import Match, Turn
from ray_jobs.engines.pii_cues import Cue
from ray_jobs.engines.pii_vocabulary import NOT_IN_STREETS, STATE_CODES, STATES, STREETS
from ray_jobs.engines.spoken_dates import dates
from ray_jobs.engines.spoken_numbers import NUMBER, NUMBER_WORD, Number, is_amount, numbers

_ASKED_WITHIN_TURNS = 2
_ANSWER_WITHIN_CHARS = 60
_MAX_HOUSE_NUMBER_DIGITS = 5

_FIGURES = rf"(?:\d+[a-z]?\b|{NUMBER})"
_NUMBERS = rf"{_FIGURES}(?:[\s,.-]+{_FIGURES})*"
_STREET_KIND = rf"(?:{'|'.join(sorted(STREETS, key=len, reverse=True))})\b"
_COMPASS = r"(?:north|south|east|west)"
_WORD = rf"(?!{NUMBER_WORD}|(?:{'|'.join(sorted(NOT_IN_STREETS))})\b)[a-z][\w'’-]*"
_STREET = re.compile(
    rf"[\s,]+(?:(?:{_COMPASS}|[nsew])\.?\s+)?(?P<street>(?:{_WORD}|\d+(?:st|nd|rd|th))(?:\s+{_WORD}){{0,2}}\s+{_STREET_KIND}\.?)"
    rf"(?:\s+{_COMPASS}\b)?",
    re.IGNORECASE,
)
_ANSWER = re.compile(rf"[\s,]+{_WORD}(?:[\s,]+[\w'’-]+){{0,16}}", re.IGNORECASE)
_UNIT_KIND = r"(?:apartment|apt|flat|unit|suite|floor|room|number|building|lot|po box)"
_UNIT = re.compile(rf"[\s,.]+(?:{_UNIT_KIND}\b\.?|#)(?:\s*{_NUMBERS})?(?:\s*[a-z]\b)?", re.IGNORECASE)
_UNIT_BEFORE = re.compile(rf"{_UNIT_KIND}\.?\s+(?:{_NUMBERS})?\s*[a-z]?[\s,]*\Z", re.IGNORECASE)
_LETTER_AFTER = re.compile(r"[A-Za-z]\b|\s[A-Z]\b(?=\s)")

_POSTCODE = r"\b[a-z]{1,2}\d[a-z\d]?\s?\d[a-z]{2}\b"  # British
_SPELLED_POSTCODE = (
    rf"\b(?:[a-z]\b[\s,.-]*){{1,2}}(?:{NUMBER}[\s,.-]*){{1,2}}(?:[a-z]\b[\s,.-]*)?(?:{NUMBER}[\s,.-]*)(?:[a-z]\b[\s,.-]*){{1,2}}"
    r"(?<![\s,.-])"
)
_POSTCODE_NAME = r"(?:(?:zip(?: code)?|postcode|post code)\s+(?:is\s+)?)?"
_STATE = rf"(?:(?i:{'|'.join(STATES)})\b|\b(?:{'|'.join(sorted(STATE_CODES))})\b)"
_PLACE_END = rf"(?:{_STATE}|(?i:{_POSTCODE}|{_SPELLED_POSTCODE}|{_POSTCODE_NAME}{_NUMBERS}))"
_TOWN = r"(?:in\s+)?(?:St\.\s+)?[A-Z][\w'’-]*(?:\s+(?:(?:upon|on|under|le|of)\s+)?[A-Z][\w'’-]*){0,2}"
_UNCASED_TOWN = r"[a-z][a-z'’-]+\b(?:\s+[a-z][a-z'’-]+\b){0,2}"
_PLACES = re.compile(rf"(?:[\s,]+(?:and\s+)?(?:the\s+)?(?:{_PLACE_END}|{_TOWN}))*")
_UNCASED_PLACES = re.compile(rf"[\s,]+(?:in\s+)?{_UNCASED_TOWN}[\s,]+{_PLACE_END}(?:[\s,.]+{_PLACE_END})?")
_UNCASED_LAST = re.compile(rf",\s+{_UNCASED_TOWN}(?=\s*(?:[.?!]|\Z))")
_SENTENCE_AFTER = re.compile(
    r"[\s,]+(?:I|I'm|I've|It's|And|But|So|Yes|Okay|Thanks|Thank|Please|My|The|That's|Is|Do|Can|Could|What)\b"
)
_POSTCODE_AFTER = re.compile(rf"[\s,.]+{_POSTCODE_NAME}(?:{_POSTCODE}|{_SPELLED_POSTCODE}|{_NUMBERS})", re.IGNORECASE)

_BOX = re.compile(rf"\bp\.?\s?o\.?\s+box\s+{_NUMBERS}", re.IGNORECASE)
_WRITTEN_POSTCODE = re.compile(r"\b[A-Z]{1,2}\d[A-Z\d]?\s?\d[A-Z]{2}\b")
_READ_POSTCODE = re.compile(_SPELLED_POSTCODE, re.IGNORECASE)


def find_addresses(turns: Sequence[Turn], cues: Sequence[Cue]) -> list[Match]:
    """ADDRESS matches of a conversation."""
    matches: list[Match] = []
    for index, turn in enumerate(turns):
        answered = max(((match.turn, match.end) for match in matches), default=(-1, 0))
        asked = [
            cue
            for cue in cues
            if cue.entity == "ADDRESS"
            and 0 <= index - cue.turn <= _ASKED_WITHIN_TURNS
            and answered <= (cue.turn, cue.end)
        ]
        asked_from = min((cue.end if cue.turn == index else 0 for cue in asked), default=len(turn.text))
        matches += _in_turn(index, turn.text, asked_from)
    return matches


def street_of(address: str) -> str:
    """The street's name inside an address, lower case; "" where there is none."""
    first = next(iter(numbers(address)), None)
    match = _STREET.match(address, _number_end(address, first)) if first is not None else None
    return match["street"].lower().rstrip(".") if match else ""


def _in_turn(index: int, text: str, asked_from: int) -> Iterator[Match]:
    """`asked_from`: the place from which on an address is awaited."""
    position = 0
    dated = [(date.start, date.end) for date in dates(text)]
    for number in numbers(text):
        if number.start < position or any(start <= number.start < end for start, end in dated):
            continue
        asked = asked_from <= number.start <= asked_from + _ANSWER_WITHIN_CHARS
        end = _end_of_address(text, number, asked=asked)
        if end:
            position = end
            yield _match(index, text, _start(text, number), end, 0.9)
    for match in (*_BOX.finditer(text), *_WRITTEN_POSTCODE.finditer(text), *_READ_POSTCODE.finditer(text, asked_from)):
        yield _match(index, text, match.start(), match.end(), 0.8)


def _end_of_address(text: str, number: Number, *, asked: bool) -> int:
    """Where the address that starts with this house number ends; 0 where there is none."""
    after_number = _number_end(text, number)
    street = _STREET.match(text, after_number)
    if street is None:
        if not asked or len(number.digits) > _MAX_HOUSE_NUMBER_DIGITS or is_amount(text, [number]):
            return 0
        answer = _ANSWER.match(text, after_number)
        return answer.end() if answer and re.search(r"[^\W\d]{3}", answer.group()) else 0
    end = _end_of(_UNIT.match(text, street.end()), street.end())
    uncased = _UNCASED_PLACES.match(text, end) or (_UNCASED_LAST.match(text, end) if asked else None)
    if uncased is not None:
        end = uncased.end()
    elif not _SENTENCE_AFTER.match(text, end):
        end = _end_of(_PLACES.match(text, end), end)
    return _end_of(_POSTCODE_AFTER.match(text, end), end)


def _end_of(match: re.Match[str] | None, otherwise: int) -> int:
    return match.end() if match is not None else otherwise


def _number_end(text: str, number: Number) -> int:
    """The end of a house number with its letter ("12B", "12 B")."""
    return _end_of(_LETTER_AFTER.match(text, number.end), number.end)


def _start(text: str, number: Number) -> int:
    """The start of a house number read out as several ("one twenty three Oak Street"), or of the flat before it."""
    start = number.start
    for earlier in reversed([other for other in numbers(text) if other.end <= start]):
        if text[earlier.end : start].strip(" -"):
            break
        start = earlier.start
    unit = _UNIT_BEFORE.search(text[:start])
    return unit.start() if unit is not None else start


def _match(turn: int, text: str, start: int, end: int, score: float) -> Match:
    secret = " ".join(re.findall(r"\w+", text[start:end].lower()))
    return Match(
        turn=turn, start=start, end=end, entity="ADDRESS", secret=secret, recogniser="spoken_address", score=score
    )
