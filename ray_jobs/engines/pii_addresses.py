"""Finds postal addresses: a house number, a street, and what follows of town, state and postcode.

"forty two Juniper Lane, Springfield, Illinois, six two seven zero four" is one address. A street without a house number
("a cable on Mercer Street") and a town alone ("at home in Leeds") are not. Where an address was just asked for, a
house number and the words after it are one even if ASR lost the kind of street ("18 orchard clothes Bristol").
"""

import re
from collections.abc import Iterator, Sequence

from ray_jobs.engines.conversation import Cue, Match, Turn
from ray_jobs.engines.spoken_dates import dates
from ray_jobs.engines.spoken_numbers import NUMBER_WORDS, Number, is_amount, numbers

_STREET = (
    "street|st|avenue|ave|road|rd|lane|ln|drive|dr|court|ct|close|way|boulevard|blvd|place|pl|terrace|crescent|parkway|pkwy|square|"
    "gardens|hill|grove|row|mews|highway|hwy|circle|cir|trail|loop|walk|park|green|view|rise|alley|plaza|heights|ridge|quay|wharf|"
    "turnpike|pike|path|run|crossing|point|broadway|embankment|causeway"
)
_STATES = (
    "alabama|alaska|arizona|arkansas|california|colorado|connecticut|delaware|florida|georgia|hawaii|idaho|illinois|indiana|iowa|"
    "kansas|kentucky|louisiana|maine|maryland|massachusetts|michigan|minnesota|mississippi|missouri|montana|nebraska|nevada|"
    "new hampshire|new jersey|new mexico|new york|north carolina|north dakota|ohio|oklahoma|oregon|pennsylvania|rhode island|"
    "south carolina|south dakota|tennessee|texas|utah|vermont|virginia|washington|west virginia|wisconsin|wyoming|d\\.?c\\.?|"
    "england|scotland|wales|northern ireland|ireland"
)
_STATE_CODES = (
    "AL|AK|AZ|AR|CA|CO|CT|DE|FL|GA|HI|ID|IL|IN|IA|KS|KY|LA|ME|MD|MA|MI|MN|MS|MO|MT|NE|NV|NH|NJ|NM|NY|NC|ND|OH|OK|OR|PA|RI|SC|SD|"
    "TN|TX|UT|VT|VA|WA|WV|WI|WY|DC"
)
_NUMBER_WORD = "|".join(sorted(NUMBER_WORDS, key=len, reverse=True))
_NUMBER = rf"(?:\d+[a-z]?|(?:{_NUMBER_WORD}))"
_NUMBERS = rf"{_NUMBER}(?:[\s,.-]+{_NUMBER})*"
_NAME_WORD = (
    rf"(?!(?:{_NUMBER_WORD}|is|the|and|on|in|at|to|of|for|my|your|a|i|it|that|this|from|with|we|you|was|dollars|pounds|last|by|she|he|"
    r"they|won't|if|or|so|but|works?|please|because|when|then|as|be|can|will|today|tomorrow)\b)[a-z][\w'’-]*"
)
_STREET_NAME = re.compile(
    rf"[\s,]+(?:(?:north|south|east|west|n|s|e|w)\.?\s+)?"
    rf"(?P<street>(?:{_NAME_WORD}|\d+(?:st|nd|rd|th))(?:\s+{_NAME_WORD}){{0,2}}\s+(?:{_STREET})\b\.?)(?:\s+(?:north|south|east|west)\b)?",
    re.IGNORECASE,
)
_UNIT = re.compile(
    rf"[\s,.]+(?:apartment|apt|flat|unit|suite|floor|room|number|#|building|lot|po box)\.?\s*(?:{_NUMBERS}\s*)?(?:[a-z]\b)?", re.IGNORECASE
)
_POSTCODE = r"[a-z]{1,2}\d[a-z\d]?\s?\d[a-z]{2}\b"
_SPELLED_POSTCODE = (
    rf"(?:[a-z]\b[\s,.-]*){{1,2}}(?:{_NUMBER}[\s,.-]*){{1,2}}(?:[a-z]\b[\s,.-]*)?(?:{_NUMBER}[\s,.-]*)(?:[a-z]\b[\s,.-]*){{1,2}}(?<![\s,.-])"
)
_PLACE_END = rf"(?:(?i:{_STATES})\b|\b(?:{_STATE_CODES})\b|(?i:{_POSTCODE})|(?i:{_SPELLED_POSTCODE})|(?:(?i:zip(?: code)?|postcode|post code)\s+)?(?i:{_NUMBERS}))"
_TOWN = r"(?:in\s+)?(?:St\.\s+)?[A-Z][\w'’-]*(?:\s+(?:(?:upon|on|under|le|of)\s+)?[A-Z][\w'’-]*){0,2}"
_LOWER_TOWN = r"[a-z][\w'’-]*(?:\s+[a-z][\w'’-]*){0,2}"
_PLACES = re.compile(
    rf"(?:[\s,]+(?:and\s+)?(?:the\s+)?(?:{_PLACE_END}|{_TOWN}))*"  # cased
)
_LOWER_PLACES = re.compile(rf"[\s,]+(?:in\s+)?{_LOWER_TOWN}[\s,]+{_PLACE_END}(?:[\s,.]+{_PLACE_END})?")
_LOWER_LAST = re.compile(rf",\s+{_LOWER_TOWN}(?=\s*(?:[.?!]|\Z))")
_TAIL = re.compile(rf"(?:[\s,.]+(?:(?:zip(?: code)?|postcode|post code)\s+(?:is\s+)?)?(?:{_POSTCODE}|{_SPELLED_POSTCODE}|{_NUMBERS}))", re.IGNORECASE)
_ANSWER = re.compile(rf"[\s,]+{_NAME_WORD}(?:[\s,]+[\w'’-]+){{0,9}}", re.IGNORECASE)
_BOX = re.compile(rf"\bp\.?\s?o\.?\s+box\s+{_NUMBERS}", re.IGNORECASE)
_UK_POSTCODE = re.compile(r"\b[A-Z]{1,2}\d[A-Z\d]?\s\d[A-Z]{2}\b|\b[A-Z]{1,2}\d[A-Z\d]?\d[A-Z]{2}\b")
_SPELLED_ALONE = re.compile(rf"\b{_SPELLED_POSTCODE}", re.IGNORECASE)
_ASKED_WITHIN_TURNS = 2
_ANSWER_WITHIN_CHARS = 60
_MAX_HOUSE_NUMBER_DIGITS = 5
_NOT_A_TOWN = re.compile(r"[\s,]+(?:I|I'm|I've|It's|And|But|So|Yes|Okay|Thanks|Thank|Please|My|The|That's|Is|Do|Can|Could|What)\b")


def find_addresses(turns: Sequence[Turn], cues: Sequence[Cue]) -> list[Match]:
    """ADDRESS matches of a conversation."""
    matches: list[Match] = []
    for index, turn in enumerate(turns):
        answered = max(((match.turn, match.end) for match in matches), default=(-1, 0))
        asked = [
            cue
            for cue in cues
            if cue.entity == "ADDRESS" and answered <= (cue.turn, cue.end) and 0 <= index - cue.turn <= _ASKED_WITHIN_TURNS
        ]
        open_from = min((cue.end if cue.turn == index else 0 for cue in asked), default=len(turn.text))
        matches += _in_turn(index, turn.text, open_from)
    return matches


def street_of(address: str) -> str:
    """The street's name inside an address, lower case; "" where there is none."""
    first = next(iter(numbers(address)), None)
    match = _STREET_NAME.match(address, _number_end(address, first)) if first is not None else None
    return match["street"].lower().rstrip(".") if match else ""


def _in_turn(index: int, text: str, open_from: int) -> Iterator[Match]:
    """`open_from`: the place from which on an address is awaited."""
    position = 0
    dated = [(date.start, date.end) for date in dates(text)]
    for number in numbers(text):
        if number.start < position or any(start <= number.start < end for start, end in dated):
            continue
        end = _end_of_address(text, number, asked=open_from <= number.start <= open_from + _ANSWER_WITHIN_CHARS)
        if end:
            position = end
            yield _match(index, text, _with_earlier_numbers(text, number), end, 0.9)
    for match in (*_BOX.finditer(text), *_UK_POSTCODE.finditer(text), *_SPELLED_ALONE.finditer(text, open_from)):
        yield _match(index, text, match.start(), match.end(), 0.8)


def _end_of_address(text: str, number: Number, *, asked: bool) -> int:
    """Where the address that starts with this house number ends; 0 where there is none."""
    after_number = _number_end(text, number)
    street = _STREET_NAME.match(text, after_number)
    if street is None:
        if not asked or len(number.digits) > _MAX_HOUSE_NUMBER_DIGITS or is_amount(text, [number]):
            return 0
        answer = _ANSWER.match(text, after_number)
        return answer.end() if answer and re.search(r"[^\W\d]{3}", answer.group()) else 0
    end = street.end()
    unit = _UNIT.match(text, end)
    end = unit.end() if unit else end
    lower = _LOWER_PLACES.match(text, end) or (_LOWER_LAST.match(text, end) if asked else None)
    if lower is not None:
        end = lower.end()
    elif not _NOT_A_TOWN.match(text, end):
        places = _PLACES.match(text, end)
        end = places.end() if places else end
    tail = _TAIL.match(text, end)
    return tail.end() if tail else end


def _number_end(text: str, number: Number) -> int:
    """The end of a house number with its letter ("12B", "12 B")."""
    letter = re.compile(r"[A-Za-z]\b|\s[A-Z]\b(?=\s)").match(text, number.end)
    return letter.end() if letter else number.end


def _with_earlier_numbers(text: str, number: Number) -> int:
    """The start of a house number read out as several: "one twenty three Oak Street", "flat two, 18 ..."."""
    start = number.start
    for earlier in reversed([other for other in numbers(text) if other.end <= start]):
        if text[earlier.end : start].strip(" -"):
            break
        start = earlier.start
    unit = re.search(rf"(?:apartment|apt|flat|unit|suite)\.?\s+(?:{_NUMBERS})?\s*[a-z]?[\s,]+\Z", text[:start], re.IGNORECASE)
    return unit.start() if unit else start


def _match(turn: int, text: str, start: int, end: int, score: float) -> Match:
    while end > start and not text[end - 1].isalnum():
        end -= 1
    secret = " ".join(re.findall(r"\w+", text[start:end].lower()))
    return Match(turn=turn, start=start, end=end, entity="ADDRESS", secret=secret, recogniser="spoken_address", score=score)
