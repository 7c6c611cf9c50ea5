"""Reads numbers as people say them and as ASR writes them, and says where they are.

"four one one one", "4-1-1-1.", "double seven", "oh", "nineteen eighty four", "eight hundred": each becomes digits
with its place in the text. Numbers side by side form a run; runs of one turn with nothing but pauses and fillers
between them ("... 1-1-1-1. And then, um, 1-1-1-1.") form one string of digits. Amounts (money, durations, counts,
times of day) are set apart, for they are nobody's secret.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ray_jobs.engines.pii_vocabulary import FILLERS, UNITS

_ONES = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}
_ONES |= {"oh": 0, "o": 0, "nought": 0, "naught": 0, "nil": 0, "niner": 9}
_TEENS = {"ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16}
_TEENS |= {"seventeen": 17, "eighteen": 18, "nineteen": 19}
_TENS = {
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fourty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}
_REPEATS = {"double": 2, "triple": 3, "treble": 3, "quadruple": 4}
_HUNDRED = 100
_MULTIPLIERS = {"hundred": _HUNDRED, "thousand": 1000, "million": 1_000_000}
_INTERJECTIONS = frozenset({"o", "oh", "nil"})

NUMBER_WORDS = frozenset((*_ONES, *_TEENS, *_TENS, *_REPEATS, *_MULTIPLIERS))

NUMBER_WORD = rf"(?:{'|'.join(sorted(NUMBER_WORDS, key=len, reverse=True))})\b"
"""A pattern of any word a number is made of."""

NUMBER = rf"(?:\d+|{NUMBER_WORD})"
"""A pattern of figures or a number word."""

_MAX_FILLERS = 5
_MAX_HOUR, _MAX_MINUTE = 24, 59
_MIN_GLUED_DIGITS = 4  # "5G" is no number; "AB123456" holds one
_TOKEN = re.compile(r"\d+|[^\W\d_]+(?:['’][^\W\d_]+)*")
_WITHIN_RUN = re.compile(r"(?!.*[.?!]\s)[\s,;:.\-‐-—/()+]*\Z", re.DOTALL)
_SPELLED_LETTER = re.compile(r"[b-hj-np-z]\Z", re.IGNORECASE)
_CURRENCY_BEFORE = re.compile(r"[£$€]\s*\Z")
_CLOCK_BEFORE = re.compile(
    r"\b(?:at|by|before|after|(?<!valid )(?<!good )(?:until|till)|around|about|from|to|between)\s+\Z",
    re.IGNORECASE,
)
_CLOCK = re.compile(r"\d{1,2}(?:[.:]\d{2})?")
_CORRECTION = re.compile(r"\b(?:sorry|no|wait|mean|correction|scratch|actually)\b", re.IGNORECASE)
_PRONOUN_BEFORE = re.compile(
    r"\b(?:that|this|the|which|other|another|new|old|right|wrong|good|last|first|next|each|every|any|no|only|same)\s+\Z",
    re.IGNORECASE,
)
_HUNDREDS = re.compile(r"[1-9]\d00")  # "sixty four hundred" may be four digits of a card; whoever means money says so
_YEAR = re.compile(r"(?:19|20)\d\d")  # "two thousand and one" is counted, and no amount
_PERCENT_AFTER = re.compile(r"\s*[%°]")
_ORDINAL_AFTER = re.compile(r"(?:st|nd|rd|th)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A word (lower case) or figures, and where they stand."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One spoken or written number: its digits, and whether it was counted ("two hundred and twelve")."""

    start: int
    end: int
    digits: str
    counted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitString:
    """Numbers read out one after the other: one string of digits, cut into `groups` where the speaker paused.

    `corrected` holds the digits after the last "no, sorry", which may take the place of all before; else "".
    """

    start: int
    end: int
    groups: tuple[str, ...]
    corrected: str

    @property
    def digits(self) -> str:
        return "".join(self.groups)


def tokenise(text: str) -> list[Token]:
    """Words and figures with their places; punctuation is what lies between them."""
    return [
        Token(text=match.group().lower().replace("’", "'"), start=match.start(), end=match.end())
        for match in _TOKEN.finditer(text)
    ]


def numbers(text: str) -> list[Number]:
    """Every number of the text in order; ordinals ("12th") and figures glued to letters ("5G") are not numbers."""
    tokens = tokenise(text)
    found, index = [], 0
    while index < len(tokens):
        number, num_tokens = _number_at(text, tokens, index)
        if number is not None:
            found.append(number)
        index += num_tokens
    return [number for position, number in enumerate(found) if not _is_no_digit(text, found, position)]


def digit_strings(text: str) -> list[DigitString]:
    """The strings of digits read out in one turn's text, amounts left out."""
    strings: list[list[Number]] = []
    for run in _runs(text):
        if is_amount(text, run):
            continue
        if strings and _continues(text[strings[-1][-1].end : run[0].start]):
            strings[-1].extend(run)
        else:
            strings.append(list(run))
    return [_digit_string(text, members) for members in strings]


def is_amount(text: str, run: Sequence[Number]) -> bool:
    """Whether a run of numbers counts something: money, time, things."""
    before, after = text[: run[0].start], text[run[-1].end :]
    if _CURRENCY_BEFORE.search(before) or _PERCENT_AFTER.match(after):
        return True
    if len(run) == 1 and run[0].counted and not _may_be_digits(text[run[0].start : run[0].end], run[0].digits):
        return True
    if _CLOCK_BEFORE.search(before) and _is_clock(text[run[0].start : run[-1].end], run):
        return True
    following = _TOKEN.search(after[:24])
    return following is not None and not after[: following.start()].strip(" -") and following.group().lower() in UNITS


def _may_be_digits(said: str, digits: str) -> bool:
    return bool(_YEAR.fullmatch(digits) or (_HUNDREDS.fullmatch(digits) and "thousand" not in said.lower()))


# -------------------------------------------------------------------------------------------------- runs and strings


def _runs(text: str) -> Iterator[list[Number]]:
    run: list[Number] = []
    for number in numbers(text):
        if run and not _WITHIN_RUN.match(text[run[-1].end : number.start]):
            yield run
            run = []
        run.append(number)
    if run:
        yield run


def _continues(gap: str) -> bool:
    said = [token.text for token in tokenise(gap)]
    return len(said) <= _MAX_FILLERS and all(word in FILLERS or _SPELLED_LETTER.match(word) for word in said)


def _digit_string(text: str, members: Sequence[Number]) -> DigitString:
    groups, corrected = [members[0].digits], ""
    for before, number in pairwise(members):
        is_correction = _CORRECTION.search(text, before.end, number.start) is not None
        corrected = number.digits if is_correction else corrected and corrected + number.digits
        separate_figures = min(len(before.digits), len(number.digits)) > 1 and text[number.start].isdecimal()
        if separate_figures or text[before.end : number.start].strip():
            groups.append(number.digits)
        else:
            groups[-1] += number.digits
    return DigitString(start=members[0].start, end=members[-1].end, groups=tuple(groups), corrected=corrected)


def _is_no_digit(text: str, found: Sequence[Number], position: int) -> bool:
    """Whether an "oh" or a "that one" stands alone: they are digits only beside another number."""
    number = found[position]
    word = text[number.start : number.end].lower()
    if word == "one":
        if not _PRONOUN_BEFORE.search(text[: number.start]):
            return False
    elif word not in _INTERJECTIONS:
        return False
    before = position > 0 and _WITHIN_RUN.match(text[found[position - 1].end : number.start])
    if word == "one" and text[number.end :].lstrip()[:1].isdecimal():
        return True
    after = position + 1 < len(found) and _WITHIN_RUN.match(text[number.end : found[position + 1].start])
    return not (before or after)


def _is_clock(said: str, run: Sequence[Number]) -> bool:
    """Whether numbers can be a time of day: "10.15", "five forty five", not "five four five"."""
    if said[0].isdecimal():
        return _CLOCK.fullmatch(said) is not None
    hour, *minutes = [number.digits for number in run]
    minute = "".join(minutes) or "0"
    read_by_digit = minutes != [] and minutes[0] != "0" and max(map(len, minutes)) == 1
    return int(hour) <= _MAX_HOUR and len(minute) <= 2 and int(minute) <= _MAX_MINUTE and not read_by_digit


# ---------------------------------------------------------------------------------------------------- single numbers


def _number_at(text: str, tokens: Sequence[Token], index: int) -> tuple[Number | None, int]:
    """The number that starts at a token, and how many tokens to move on by."""
    token = tokens[index]
    if token.text.isdecimal():
        return _figures(text, token), 1
    if token.text in _REPEATS and index + 1 < len(tokens) and (digit := _one_digit(tokens[index + 1].text)):
        return _spoken(tokens[index : index + 2], digit * _REPEATS[token.text]), 2
    value, num_tokens = _below_hundred(text, tokens, index)
    if value is None:
        return None, 1
    if not _is_joined(text, tokens, index + num_tokens) or tokens[index + num_tokens].text not in _MULTIPLIERS:
        return _spoken(tokens[index : index + num_tokens], str(value)), num_tokens
    multiplier = _MULTIPLIERS[tokens[index + num_tokens].text]
    value *= multiplier
    num_tokens += 1
    if multiplier > _HUNDRED:
        hundreds, num_hundreds = _hundreds(text, tokens, index + num_tokens)
        value += hundreds
        num_tokens += num_hundreds
    rest, num_rest = _rest(text, tokens, index + num_tokens)
    return _spoken(
        tokens[index : index + num_tokens + num_rest], str(value + rest), counted=True
    ), num_tokens + num_rest


def _hundreds(text: str, tokens: Sequence[Token], index: int) -> tuple[int, int]:
    """The "three hundred" of "two thousand three hundred": its value and its tokens, (0, 0) where there is none."""
    value, num_tokens = _below_hundred(text, tokens, index) if _is_joined(text, tokens, index) else (None, 0)
    after = index + num_tokens
    if not value or not _is_joined(text, tokens, after) or tokens[after].text != "hundred":
        return 0, 0
    return value * _HUNDRED, num_tokens + 1


def _rest(text: str, tokens: Sequence[Token], index: int) -> tuple[int, int]:
    """What follows "two hundred" or "two thousand": its value and its tokens, (0, 0) where nothing does.

    Digits after "eight hundred" that go on ("eight hundred five five five") are no rest of it.
    """
    has_and = _is_joined(text, tokens, index) and tokens[index].text == "and"
    first = index + has_and
    value, num_tokens = _below_hundred(text, tokens, first) if _is_joined(text, tokens, first) else (None, 0)
    goes_on = first + num_tokens < len(tokens) and (
        tokens[first + num_tokens].text in NUMBER_WORDS or tokens[first + num_tokens].text.isdecimal()
    )
    if value is None or (goes_on and not has_and):
        return 0, 0
    return value, first + num_tokens - index


def _below_hundred(text: str, tokens: Sequence[Token], index: int) -> tuple[int | None, int]:
    if index >= len(tokens):
        return None, 0
    word = tokens[index].text
    if word in _TENS:
        ones = _ONES.get(tokens[index + 1].text, 0) if _is_joined(text, tokens, index + 1) else 0
        return (_TENS[word] + ones, 2) if ones else (_TENS[word], 1)
    value = _TEENS.get(word, _ONES.get(word))
    return (None, 0) if value is None else (value, 1)


def _is_joined(text: str, tokens: Sequence[Token], index: int) -> bool:
    """Whether only a blank or a hyphen lies between a token and the one before it."""
    return 0 < index < len(tokens) and text[tokens[index - 1].end : tokens[index].start].strip() in ("", "-")


def _one_digit(word: str) -> str:
    return word if len(word) == 1 and word.isdecimal() else str(_ONES[word]) if word in _ONES else ""


def _figures(text: str, token: Token) -> Number | None:
    glued = (token.start > 0 and text[token.start - 1].isalpha()) or text[token.end : token.end + 1].isalpha()
    if _ORDINAL_AFTER.match(text, token.end) or (glued and len(token.text) < _MIN_GLUED_DIGITS):
        return None
    return Number(start=token.start, end=token.end, digits=token.text, counted=False)


def _spoken(tokens: Sequence[Token], digits: str, *, counted: bool = False) -> Number:
    return Number(start=tokens[0].start, end=tokens[-1].end, digits=digits, counted=counted)
