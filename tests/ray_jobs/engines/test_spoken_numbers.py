from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.engines.spoken_dates import dates
from ray_jobs.engines.spoken_numbers import digit_strings, numbers


@pytest.mark.parametrize(
    ("said", "digits"),
    [
        ("four one one one", "4111"),
        ("double seven oh one, triple three", "7701333"),
        ("nineteen eighty four", "1984"),
        ("forty-two", "42"),
        ("one twenty three", "123"),
        ("one eight hundred five five five zero one four two", "18005550142"),
        ("twelve hundred", "1200"),
        ("two thousand and one", "2001"),
        ("4-1-1-1.", "4111"),
        ("217-5550142", "2175550142"),
        ("6-2-704", "62704"),
        ("+44 20 7946 0958", "442079460958"),
    ],
)
def test_a_number_as_spoken_or_as_asr_writes_it_becomes_digits(said: str, digits: str) -> None:
    assert "".join(number.digits for number in numbers(f"well {said} then")) == digits


def test_digits_read_out_over_pauses_and_fillers_are_one_string() -> None:
    (card,) = digit_strings("It's 4-1-1-1. 1-1-1-1. And then, um, 1-1-1-1. 1-1-1-1.")
    assert card.digits == "4111111111111111"


def test_groups_are_cut_where_the_speaker_paused() -> None:
    (ssn,) = digit_strings("zero zero zero, one two, three four five six")
    assert ssn.groups == ("000", "12", "3456")


@pytest.mark.parametrize(
    "amount",
    [
        "two hundred and twelve dollars",
        "£24.50",
        "thirty eight pounds",
        "12 days",
        "40%",
        "ten digits",
        "at 10.15",
        "at five forty five",
        "two hundred",
    ],
)
def test_amounts_and_times_of_day_are_no_digit_strings(amount: str) -> None:
    assert digit_strings(f"it was {amount}.") == []


def test_hundreds_that_nothing_is_counted_in_may_be_four_digits_of_a_card() -> None:
    assert [found.digits for found in digit_strings("and the code is sixty four hundred.")] == ["6400"]
    assert digit_strings("it was sixty four hundred dollars") == []


def test_an_unrelated_number_does_not_join_the_one_before() -> None:
    strings = digit_strings("the account is 614 229 and it cost 38 pounds in 2019")
    assert [string.digits for string in strings] == ["614229", "2019"]


@pytest.mark.parametrize("text", ["Oh no", "m²", "②", "the 12th of", "a 5G phone", "oh, I see"])
def test_interjections_ordinals_and_names_of_things_are_no_numbers(text: str) -> None:
    assert numbers(text) == []


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("March ninth, nineteen eighty four", "mar-09-84"),
        ("the 9th of March 1984", "mar-09-84"),
        ("March 9, 1984", "mar-09-84"),
        ("twenty second of June two thousand and one", "jun-22-01"),
        ("September 2028", "sep--28"),
        ("1984, March 9th", "mar-09-84"),
        ("eighty four, in March 1984", "mar--84"),
        ("the ninth of twenty eight", "sep--28"),
        ("the twelfth of March", "mar-12-"),
    ],
)
def test_a_date_has_one_value_however_it_is_said(said: str, value: str) -> None:
    assert [date.value for date in dates(f"on {said}.")] == [value]


def test_may_is_a_month_only_beside_a_day() -> None:
    assert list(dates("May I have your name? I may call.")) == []


@given(st.text(max_size=200))
def test_places_lie_inside_any_text_and_do_not_overlap(text: str) -> None:
    found = numbers(text)
    assert all(0 <= number.start < number.end <= len(text) for number in found)
    assert all(a.end <= b.start for a, b in pairwise(found))
    assert all(string.digits.isdigit() for string in digit_strings(text))
    list(dates(text))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_digits_spoken_one_by_one_are_read_back(digits: list[int]) -> None:
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    said = " ".join(names[digit] for digit in digits)
    assert "".join(number.digits for number in numbers(said)) == "".join(map(str, digits))
