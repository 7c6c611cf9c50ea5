"""Finds dates that name their month: "March ninth, nineteen eighty four", "the 9th of March 1984", "September 2028",
"the ninth of the third, eighty four", "1984, March 9th"; and tells which dates digits may be."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ray_jobs.engines.pii_vocabulary import MONTHS
from ray_jobs.engines.spoken_numbers import NUMBER_WORD, numbers

_TO_TENTH = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_TO_TWENTIETH = (
    "eleventh",
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
    "eighteenth",
    "nineteenth",
)
_DAYS = {word: day for day, word in enumerate((*_TO_TENTH, *_TO_TWENTIETH, "twentieth"), start=1)}
_DAYS |= {f"twenty {word}": 20 + day for day, word in enumerate(_TO_TENTH[:9], start=1)} | {
    "thirtieth": 30,
    "thirty first": 31,
}

_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NUM_MONTHS, _MAX_DAY = 12, 31
_MONTH = rf"(?:{'|'.join(MONTHS)})\b"
_ORDINAL = rf"(?:{'|'.join(sorted((day.replace(' ', '[ -]') for day in _DAYS), key=len, reverse=True))})\b"
_SPOKEN_DAY = (
    rf"(?:(?:twenty|thirty)[ -]{NUMBER_WORD}|(?<!ty )(?<!ty-){NUMBER_WORD})"  # not the "four" of "eighty four"
)
_DAY = rf"(?:\d{{1,2}}(?:st|nd|rd|th)?\b|{_ORDINAL}|{_SPOKEN_DAY})"
_YEAR = rf"(?:\d{{4}}\b|'?\d{{2}}\b|{NUMBER_WORD}(?:(?: and)?[ -]{NUMBER_WORD}){{0,5}})"
_FULL_YEAR = (
    rf"(?:\d{{4}}\b|(?:nineteen|twenty)[ -]{NUMBER_WORD}(?:[ -]{NUMBER_WORD})?"
    rf"|two thousand(?: and)? {NUMBER_WORD}(?:[ -]{NUMBER_WORD})?)"
)
_GAP = r"(?:[\s,./-]+|\s+of\s+|,?\s+the\s+|,?\s+in\s+)"
_MONTH_BY_NUMBER = rf"(?P<month_ordinal>{'|'.join((*_TO_TENTH, *_TO_TWENTIETH[:2]))})\b"
_CARD_YEAR = rf"(?:{_FULL_YEAR}|(?:twenty|thirty)(?:[ -]{NUMBER_WORD})?|'?[23]\d\b)"
_BY_NUMBER = re.compile(
    # "the ninth of the third, nineteen eighty four", "the ninth month of twenty twenty eight", "the ninth of 28"
    rf"\b(?:the\s+)?(?:(?P<day>{_ORDINAL}|\d{{1,2}}(?:st|nd|rd|th)\b)\s+(?:of\s+)?the\s+{_MONTH_BY_NUMBER}"
    rf"(?:{_GAP}(?P<year>{_YEAR}))|{_MONTH_BY_NUMBER.replace('month_ordinal', 'month_named')}\s+month"
    rf"(?:\s+of|,)?\s+(?P<year_of_month>{_FULL_YEAR})"
    rf"|{_MONTH_BY_NUMBER.replace('month_ordinal', 'month_alone')}(?:,|\s+of)\s+(?P<year_of_alone>{_CARD_YEAR}))",
    re.IGNORECASE,
)
_DATE = re.compile(
    rf"\b(?P<year_first>{_FULL_YEAR}),?\s+{_MONTH}\.?{_GAP}{_DAY}"
    rf"|(?<!\bthat )(?<!\bthis )\b(?:the\s+)?{_DAY}{_GAP}{_MONTH}\.?(?:{_GAP}(?P<year_last>{_YEAR}))?"
    rf"|\b{_MONTH}\.?{_GAP}(?:{_DAY}{_GAP}(?P<year_after_day>{_YEAR})|(?P<year_after_month>{_FULL_YEAR})|{_DAY})",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenDate:
    """`value` is month, day and the year's last two digits ("mar-09-84"), with nothing for a part that was not said."""

    start: int
    end: int
    value: str

    @property
    def has_day(self) -> bool:
        return "--" not in self.value

    @property
    def has_year(self) -> bool:
        return not self.value.endswith("-")


def dates(text: str) -> Iterator[SpokenDate]:
    """The dates of a text that name their month, those that name it by its number last."""
    named = list(_DATE.finditer(text))
    for match in named:
        year = match["year_first"] or match["year_last"] or match["year_after_day"] or match["year_after_month"] or ""
        day, two_digit_year = _day(match.group().removeprefix(year).removesuffix(year)), _two_digit_year(year)
        counted = [number.digits for number in numbers(match.group())]
        if year and not two_digit_year and counted and len(counted[-1]) == 2:  # "twenty six" was cut in two
            day, two_digit_year = [*counted, ""][:2]
        value = "-".join((_month(match.group()), day, two_digit_year))
        yield SpokenDate(start=match.start(), end=match.end(), value=value)
    for match in _BY_NUMBER.finditer(text):
        if any(match.start() < other.end() and other.start() < match.end() for other in named):
            continue  # "March ninth, nineteen eighty four" holds no month but March
        ordinal = match["month_ordinal"] or match["month_named"] or match["month_alone"]
        month = _MONTH_NAMES[_DAYS[ordinal.lower()] - 1]
        year = _two_digit_year(match["year"] or match["year_of_month"] or match["year_of_alone"])
        value = "-".join((month, _day(match["day"] or ""), year))
        yield SpokenDate(start=match.start(), end=match.end(), value=value)


def dates_of_digits(digits: str) -> frozenset[str]:
    """The values (see SpokenDate) that digits may stand for: month and year, or day and month in either order and year.

    "0928" is September 2028, "03091984" the 9th of March or the 3rd of September.
    """
    values = set()
    for year_length in (2, 4):
        front, year = digits[:-year_length], digits[-2:]
        if len(front) in (1, 2) and 1 <= int(front) <= _NUM_MONTHS:
            values.add(f"{_MONTH_NAMES[int(front) - 1]}--{year}")
        for cut in (1, 2):
            if 0 < len(front) - cut <= 2:
                first, second = int(front[:cut]), int(front[cut:])
                values |= {
                    f"{_MONTH_NAMES[month - 1]}-{day:02d}-{year}"
                    for month, day in ((first, second), (second, first))
                    if 1 <= month <= _NUM_MONTHS and 1 <= day <= _MAX_DAY
                }
    return frozenset(values)


def readings(value: str) -> frozenset[str]:
    """A SpokenDate's value, and the month of a year it may be: "August twenty twenty six", "April thirty"."""
    month, day, year = value.split("-")
    if year:
        return frozenset({value, f"{month}--{year}"} if day == "20" else {value})
    return frozenset({value, f"{month}--{day}"})


def _month(text: str) -> str:
    month = re.search(rf"\b{_MONTH}", text, re.IGNORECASE)
    return month.group()[:3].lower() if month is not None else ""


def _day(text: str) -> str:
    """The day of the month in "March ninth" or "the 9th of March", two digits; "" where there is none."""
    ordinal = re.search(rf"\b{_ORDINAL}", text, re.IGNORECASE)
    if ordinal is not None:
        return f"{_DAYS[ordinal.group().lower().replace('-', ' ')]:02d}"
    figures = re.search(r"\d{1,2}", text)
    spoken = next((number.digits for number in numbers(text)), "")
    day = figures.group() if figures is not None else spoken
    return f"{int(day):02d}" if day else ""


def _two_digit_year(text: str) -> str:
    digits = "".join(number.digits for number in numbers(text))
    return digits[-2:] if len(digits) in (2, 4) else ""
