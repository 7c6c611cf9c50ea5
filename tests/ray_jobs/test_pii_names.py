import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.pii_names import looks_personal, passes_luhn


@pytest.mark.parametrize(
    "name",
    [
        "jane.doe@example.com",
        "voicemail_jane.doe_at_example.com",
        "2175550142",
        "rec+12175550142",
        "(217) 555-0142",
        "out_217_555_0142_agent7",
        "+44 20 7946 0958",
        "020 7946 0958",
        "20240309101522_2175550142",
        "4111111111111111",
        "card 4111 1111 1111 1111",
    ],
)
def test_names_with_somebodys_data(name: str) -> None:
    assert looks_personal(name)


@pytest.mark.parametrize(
    "name",
    [
        "01_billing_dispute",
        "call-000123",
        "20240309",
        "202403091015",
        "20240309101522",
        "20240309101522123",
        "2024-03-09_10-15-22",
        "2024-03-09 10.15.22",
        "1710000000",
        "1710000000123",
        "550e8400-e29b-41d4-a716-446655440000",
        "RE5d41402abc4b2a76b9719d911017c592",
        "agent_12_2024_03_09",
    ],
)
def test_sequence_numbers_timestamps_and_ids_are_nobodys(name: str) -> None:
    assert not looks_personal(name)


@given(st.text(st.sampled_from("0123456789"), min_size=1, max_size=18))
def test_one_check_digit_in_ten_passes(digits: str) -> None:
    assert sum(passes_luhn(digits + check) for check in "0123456789") == 1


@given(st.text(max_size=60))
def test_any_name_gets_an_answer(name: str) -> None:
    looks_personal(name)
