"""Reads numbers as people say them and as ASR writes them, and says where they are.

"four one one one", "4-1-1-1.", "double seven", "oh", "nineteen eighty four", "eight hundred": each becomes digits with
its place in the text. Numbers that stand side by side form a run; runs of one turn with nothing but pauses and
fillers between them ("... 1-1-1-1. And then, um, 1-1-1-1.") form one string of digits. Amounts (money, durations,
counts, times of day: a unit or a sign says so) are set apart, for they are nobody's secret.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ONES = {
    **{word: digit for digit, word in enumerate("zero one two three four five six seven eight nine".split())},
    "oh": 0, "o": 0, "nought": 0, "naught": 0, "nil": 0, "niner": 9,
}  # fmt: skip
TEENS = {
    word: 10 + offset
    for offset, word in enumerate(
        "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
    )
}
TENS = {
    word: 20 + 10 * offset
    for offset, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split())
} | {"fourty": 40}
REPEATS = {"double": 2, "triple": 3, "treble": 3, "quadruple": 4}
MULTIPLIERS = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
NUMBER_WORDS = frozenset((*ONES, *TEENS, *TENS, *REPEATS, *MULTIPLIERS))

_UNITS = frozenset(
    "dollar dollars buck bucks pound pounds quid euro euros cent cents pence p percent per degrees "
    "second seconds minute minutes min mins hour hours day days night nights week weeks month months year years "
    "times time mile miles kilometers kilometres meters metres feet foot inch inches gig gigs gigabytes megabytes "
    "megabits mb gb mbps kilowatt kilowatts kwh units people person persons guests adults kids children items boxes lines "
    "things ways options payments instalments installments digits digit numbers calls bars lights steps "
    "am pm o'clock business working more of other others different free separate channels devices rooms bedrooms "
    "copies pieces bags tickets seats bottles tablets pills milligrams".split()
)
_FILLERS = frozenset(
    "um uh er erm ah and then dash hyphen space slash dot point stroke sorry no wait i mean actually okay ok yes yeah so "
    "correction scratch that that's it's is next then again right let me see like well comma plus".split()
)
_MAX_FILLERS = 5
_TOKEN = re.compile(r"\d+|[^\W\d_]+(?:['’][^\W\d_]+)*")
_WITHIN_RUN = re.compile(r"(?!.*[.?!]\s)[\s,;:.\-‐-—/()+]*\Z", re.DOTALL)
_SPELLED_LETTER = re.compile(r"[b-hj-np-z]\Z", re.IGNORECASE)
_INTERJECTIONS = frozenset({"o", "oh", "nil"})
_CURRENCY_BEFORE = re.compile(r"[£$€]\s*\Z")
_CLOCK_BEFORE = re.compile(r"\b(?:at|by|before|after|until|till|around|about|from|to|between|says)\s+\Z", re.IGNORECASE)
_CLOCK = re.compile(r"\d{1,2}(?:[.:]\d{2})?")
_MAX_HOUR, _MAX_MINUTE = 24, 59
_PERCENT_AFTER = re.compile(r"\s*[%°]")
_ORDINAL_AFTER = re.compile(r"(?:st|nd|rd|th)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    text: str  # lower case
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
    """Numbers read out one after the other: one string of digits, cut into `groups` where the speaker paused."""

    start: int
    end: int
    groups: tuple[str, ...]

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
        number, used = _number_at(text, tokens, index)
        if number is not None:
            found.append(number)
        index += used
    return [number for position, number in enumerate(found) if not _is_interjection(text, found, position)]


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
    return [_digit_string(text, string) for string in strings]


def is_amount(text: str, run: Sequence[Number]) -> bool:
    """Whether a run of numbers counts something: money, time, things."""
    before, after = text[: run[0].start], text[run[-1].end :]
    if _CURRENCY_BEFORE.search(before) or _PERCENT_AFTER.match(after):
        return True
    if len(run) == 1 and run[0].counted and run[0].digits[:2] not in ("19", "20"):  # "two thousand and one" is a year
        return True
    if _CLOCK_BEFORE.search(before) and _is_clock(text[run[0].start : run[-1].end], run):
        return True
    following = _TOKEN.search(after[:24])
    unit_follows = following is not None and not after[: following.start()].strip(" -")
    return unit_follows and following is not None and following.group().lower() in _UNITS


def _is_interjection(text: str, found: Sequence[Number], position: int) -> bool:
    """Whether an "oh" stands alone: it is a zero only beside another number."""
    number = found[position]
    if text[number.start : number.end].lower() not in _INTERJECTIONS:
        return False
    before = position > 0 and _WITHIN_RUN.match(text[found[position - 1].end : number.start])
    after = position + 1 < len(found) and _WITHIN_RUN.match(text[number.end : found[position + 1].start])
    return not (before or after)


def _is_clock(said: str, run: Sequence[Number]) -> bool:
    """Whether numbers can be a time of day: "10.15", "five forty five", not "five four five"."""
    if said[0].isdigit():
        return _CLOCK.fullmatch(said) is not None
    hour, *minutes = [number.digits for number in run]
    minute = "".join(minutes) or "0"
    told_by_digit = minutes != [] and len(minutes[-1]) == 1 and len(minute) != 2
    return int(hour) <= _MAX_HOUR and len(minute) <= 2 and int(minute) <= _MAX_MINUTE and not told_by_digit


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
    words = [token.text for token in tokenise(gap)]
    return len(words) <= _MAX_FILLERS and all(word in _FILLERS or _SPELLED_LETTER.match(word) for word in words)


def _digit_string(text: str, members: Sequence[Number]) -> DigitString:
    groups = [members[0].digits]
    for before, number in zip(members, members[1:], strict=False):
        gap = text[before.end : number.start]
        figures = min(len(before.digits), len(number.digits)) > 1 and text[number.start].isdigit()
        if figures or re.search(r"[^\s]", gap):
            groups.append(number.digits)
        else:
            groups[-1] += number.digits
    return DigitString(start=members[0].start, end=members[-1].end, groups=tuple(groups))


def _number_at(text: str, tokens: Sequence[Token], index: int) -> tuple[Number | None, int]:
    """The number that starts at a token, and how many tokens to move on by."""
    token = tokens[index]
    if token.text.isdigit():
        return _figures(text, token), 1
    repeat = REPEATS.get(token.text)
    if repeat is not None and index + 1 < len(tokens) and (digit := _one_digit(tokens[index + 1].text)):
        return _spoken(tokens[index : index + 2], digit * repeat), 2
    value, used = _below_hundred(text, tokens, index)
    if value is None:
        return None, 1
    if not _joined(text, tokens, index + used) or tokens[index + used].text not in MULTIPLIERS:
        zero_padded = token.text in ONES and used == 1
        return _spoken(tokens[index : index + used], str(value) if not zero_padded else str(ONES[token.text])), used
    value *= MULTIPLIERS[tokens[index + used].text]
    used += 1
    rest_at = index + used
    if rest_at < len(tokens) and tokens[rest_at].text == "and":
        rest_at += 1
    rest, rest_used = _below_hundred(text, tokens, rest_at) if _joined(text, tokens, rest_at) else (None, 0)
    if rest is not None and (rest_at > index + used or not _is_number_word(tokens, rest_at + rest_used)):
        value, used = value + rest, rest_at + rest_used - index
    return _spoken(tokens[index : index + used], str(value), counted=True), used


def _below_hundred(text: str, tokens: Sequence[Token], index: int) -> tuple[int | None, int]:
    if index >= len(tokens):
        return None, 0
    word = tokens[index].text
    if word in TENS:
        following = tokens[index + 1].text if _joined(text, tokens, index + 1) else ""
        if ONES.get(following, 0) > 0:
            return TENS[word] + ONES[following], 2
        return TENS[word], 1
    if word in TEENS:
        return TEENS[word], 1
    if word in ONES:
        return ONES[word], 1
    return None, 0


def _joined(text: str, tokens: Sequence[Token], index: int) -> bool:
    """Whether only a blank or a hyphen lies between a token and the one before it."""
    return 0 < index < len(tokens) and text[tokens[index - 1].end : tokens[index].start].strip() in ("", "-")


def _is_number_word(tokens: Sequence[Token], index: int) -> bool:
    return index < len(tokens) and (tokens[index].text in NUMBER_WORDS or tokens[index].text.isdigit())


def _one_digit(word: str) -> str:
    return word if len(word) == 1 and word.isdigit() else str(ONES[word]) if word in ONES else ""


def _figures(text: str, token: Token) -> Number | None:
    glued_before = token.start > 0 and text[token.start - 1].isalpha()
    glued_after = token.end < len(text) and text[token.end].isalpha()
    if _ORDINAL_AFTER.match(text, token.end) or ((glued_before or glued_after) and len(token.text) < 4):
        return None
    return Number(start=token.start, end=token.end, digits=token.text, counted=False)


def _spoken(tokens: Sequence[Token], digits: str, *, counted: bool = False) -> Number:
    return Number(start=tokens[0].start, end=tokens[-1].end, digits=digits, counted=counted)
