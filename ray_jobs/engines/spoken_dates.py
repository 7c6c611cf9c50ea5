"""Finds dates with a month name: "March ninth, nineteen eighty four", "the 9th of March 1984", "September 2028"."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ray_jobs.engines.spoken_numbers import NUMBER_WORDS, numbers

_ORDINAL_WORDS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth"
).split()
_DAYS = (
    {word: day for day, word in enumerate(_ORDINAL_WORDS, start=1)}
    | {"twentieth": 20, "thirtieth": 30}
    | {f"twenty {word}": 20 + day for day, word in enumerate(_ORDINAL_WORDS[:9], start=1)}
    | {"thirty first": 31}
)
_MONTHS = (
    "january|february|march|april|may|june|july|august|september|october|november|december|"
    "jan|feb|mar|apr|jun|jul|aug|sept|sep|oct|nov|dec"
)
_ORDINALS = "|".join(sorted((word.replace(" ", "[ -]") for word in _DAYS), key=len, reverse=True))
_SPOKEN = "|".join(sorted(NUMBER_WORDS, key=len, reverse=True))
_DAY = rf"(?:\d{{1,2}}(?:st|nd|rd|th)?\b|(?:{_ORDINALS})\b|(?:(?:twenty|thirty)[ -])?(?:{_SPOKEN})\b)"
_YEAR = rf"(?:\d{{4}}\b|'?\d{{2}}\b|(?:{_SPOKEN})\b(?:(?: and)?[ -](?:{_SPOKEN})\b){{0,5}})"
_GAP = r"(?:[\s,./-]+|\s+of\s+|,?\s+the\s+|,?\s+in\s+)"
_DATE = re.compile(
    rf"\b(?:the\s+)?{_DAY}{_GAP}(?:{_MONTHS})\b\.?(?:{_GAP}(?P<year_a>{_YEAR}))?"
    rf"|\b(?:{_MONTHS})\b\.?{_GAP}(?:{_DAY}{_GAP}(?P<year_b>{_YEAR})|(?P<year_c>\d{{4}}\b|(?:nineteen|twenty)[ -](?:{_SPOKEN})\b"
    rf"(?:[ -](?:{_SPOKEN})\b)?|two thousand(?: and)? (?:{_SPOKEN})\b(?:[ -](?:{_SPOKEN})\b)?)|{_DAY})",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenDate:
    """`value` is month, day and the year's last two digits ("mar-09-84"), "" for a part that was not said."""

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
    """The dates of a text that name their month, in order."""
    for match in _DATE.finditer(text):
        year_text = match["year_a"] or match["year_b"] or match["year_c"] or ""
        month = re.search(rf"\b(?:{_MONTHS})\b", match.group(), re.IGNORECASE)
        before_year = match.group().removesuffix(year_text)
        year = "".join(number.digits for number in numbers(year_text))
        value = f"{month.group()[:3].lower() if month else ''}-{_day(before_year)}-{year[-2:] if len(year) in (2, 4) else ''}"
        yield SpokenDate(start=match.start(), end=match.end(), value=value)


def _day(text: str) -> str:
    """The day of the month in "March ninth" or "the 9th of March", two digits; "" where there is none."""
    ordinal = re.search(rf"\b(?:{_ORDINALS})\b", text, re.IGNORECASE)
    if ordinal is not None:
        return f"{_DAYS[ordinal.group().lower().replace('-', ' ')]:02d}"
    figures = re.search(r"\d{1,2}", text)
    spoken = next((number.digits for number in numbers(text)), "")
    return f"{int(figures.group() if figures else spoken or 0):02d}" if figures or spoken else ""
