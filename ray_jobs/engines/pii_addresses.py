"""Finds postal addresses: a house number, a street, and what follows of town, state and postcode.

"forty two Juniper Lane, Springfield, Illinois, six two seven zero four" is one address. A street without a house
number ("a cable on Mercer Street") and a town alone ("at home in Leeds") are not. Where an address was just asked
for, a house number and the words after it are one even if the kind of street was lost or comes later ("18 orchard
clothes Bristol"), and a street needs no number ("Rose Cottage, Church Lane").
"""

import re
from collections.abc import Iterator, Sequence

from ray_jobs.engines.conversation import Match, Turn
from ray_jobs.engines.pii_cues import Cue
from ray_jobs.engines.pii_vocabulary import NOT_IN_STREETS, SPELLING_WORDS, STATE_CODES, STATES, STREETS
from ray_jobs.engines.spoken_dates import dates
from ray_jobs.engines.spoken_numbers import NUMBER, NUMBER_WORD, Number, is_amount, numbers

_ASKED_WITHIN_TURNS = 2
_ANSWER_WITHIN_CHARS = 60
_HOUSE_NUMBER_WITHIN_CHARS = 20
_MAX_HOUSE_NUMBER_DIGITS = 5

_FIGURES = rf"(?:\d+[a-z]?\b|{NUMBER})"
_NUMBERS = rf"{_FIGURES}(?:[\s,.-]+{_FIGURES})*"
_STREET_KIND = rf"(?:{'|'.join(sorted(STREETS, key=len, reverse=True))})\b"
_COMPASS = r"(?:north|south|east|west)"
_WORD = rf"(?!{NUMBER_WORD}|(?:{'|'.join(sorted(NOT_IN_STREETS))})\b)[a-z][\w'’-]*"
_STREET = re.compile(
    rf"[\s,]+(?:(?:{_COMPASS}|[nsew])\.?\s+)?(?P<street>(?:st\.\s+)?(?:{_WORD}|\d+(?:st|nd|rd|th))(?:\s+{_WORD}){{0,2}}\s+{_STREET_KIND}\.?)"
    rf"(?:\s+{_COMPASS}\b)?",
    re.IGNORECASE,
)
_NAMED_HOUSE = r"(?:(?:[Tt]he\s+)?[A-Z][\w'’-]*(?:\s+[A-Z][\w'’-]*){0,2},\s+)?"
_STREET_WITHOUT_NUMBER = re.compile(
    rf"\b{_NAMED_HOUSE}[A-Z][\w'’-]*(?:\s+[A-Z][\w'’-]*){{0,2}}\s+(?=[A-Z])(?i:{_STREET_KIND})"
)
_ANSWER = re.compile(rf"[\s,]+(?:(?-i:The)\s+)?{_WORD}(?:[\s,]+[\w'’-]+){{0,16}}", re.IGNORECASE)
_UNIT_KIND = r"(?:apartment|apt|flat|unit|suite|floor|room|number|building|lot|po box)"
_UNIT = re.compile(rf"[\s,.]+(?:{_UNIT_KIND}\b\.?|#)(?:\s*{_NUMBERS})?(?:\s*[a-z]\b)?", re.IGNORECASE)
_UNIT_BEFORE = re.compile(rf"{_UNIT_KIND}\.?\s+(?:{_NUMBERS})?\s*[a-z]?[\s,]*\Z", re.IGNORECASE)
_LETTER_AFTER = re.compile(r"[A-Za-z]\b|\s[A-HJ-Z]\b(?=[\s,.]|\Z)")

_POSTCODE = r"\b[a-z]{1,2}\d[a-z\d]?\s?\d[a-z]{2}\b"  # British
_LETTER = rf"(?:(?:[a-z]\b(?:\s+(?:for|as in|like)\s+[a-z]+\b)?|(?:{'|'.join(sorted(SPELLING_WORDS))})\b)[\s,.-]*)"
_SPELLED_POSTCODE = (
    rf"\b{_LETTER}{{1,2}}(?:{NUMBER}[\s,.-]*){{1,2}}{_LETTER}?(?:{NUMBER}[\s,.-]*){_LETTER}{{1,2}}(?<![\s,.-])"
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

_BOX = re.compile(rf"\b(?:p\.?\s?o\.?|post office)\s+box\s+{_NUMBERS}", re.IGNORECASE)
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
        if any(turns[cue.turn].text[cue.start : cue.end].lower() == "house number" for cue in asked):
            matches += _house_number(index, turn.text, asked_from)
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
    for match in _STREET_WITHOUT_NUMBER.finditer(text, asked_from, asked_from + _ANSWER_WITHIN_CHARS):
        yield _match(index, text, match.start(), _end_of_places(text, match.end(), asked=True), 0.7)
    for match in _BOX.finditer(text):
        yield _match(index, text, match.start(), _end_of_places(text, match.end(), asked=False), 0.8)
    for match in (*_WRITTEN_POSTCODE.finditer(text), *_READ_POSTCODE.finditer(text, asked_from)):
        yield _match(index, text, match.start(), match.end(), 0.8)


def _house_number(index: int, text: str, asked_from: int) -> Iterator[Match]:
    """The number that answers "Your house number?" by itself."""
    for number in numbers(text):
        near = asked_from <= number.start <= asked_from + _HOUSE_NUMBER_WITHIN_CHARS
        if near and len(number.digits) <= _MAX_HOUSE_NUMBER_DIGITS and not is_amount(text, [number]):
            yield _match(index, text, number.start, _number_end(text, number), 0.6)


def _end_of_address(text: str, number: Number, *, asked: bool) -> int:
    """Where the address that starts with this house number ends; 0 where there is none."""
    after_number = _number_end(text, number)
    street = _STREET.match(text, after_number)
    if street is None:
        if not asked or len(number.digits) > _MAX_HOUSE_NUMBER_DIGITS or is_amount(text, [number]):
            return 0
        answer = _ANSWER.match(text, after_number)
        return answer.end() if answer and re.search(r"[^\W\d]{3}", answer.group()) else 0
    return _end_of_places(text, street.end(), asked=asked)


def _end_of_places(text: str, end: int, *, asked: bool) -> int:
    """The end of an address of which the street ends at `end`: with its flat, town, state and postcode."""
    end = _end_of(_UNIT.match(text, end), end)
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
