"""Telephone speech in its own eight bits, where they lose nothing."""

import numpy as np
import pytest

from ray_jobs.g711 import DECODED, decode, encode_exactly


@pytest.mark.parametrize("coding", ["mulaw", "alaw"])
def test_what_was_g711_takes_a_byte_a_sample_and_comes_back_the_same(coding: str) -> None:
    samples = DECODED[coding][np.random.default_rng(1).integers(0, 256, 100_000)]
    encoded = encode_exactly(samples)
    assert encoded is not None
    assert encoded[0] == coding
    assert encoded[1].dtype == np.uint8
    assert np.array_equal(decode(coding, encoded[1].tobytes()), samples)


@pytest.mark.parametrize("at", [0, 99_999])
def test_one_sample_that_no_code_stands_for_is_enough_to_leave_all_as_they_are(at: int) -> None:
    samples = np.zeros(100_000, np.int16)
    samples[at] = 1
    assert encode_exactly(samples) is None


def test_the_tables_are_those_of_the_recommendation() -> None:
    assert [DECODED["mulaw"][code] for code in (0x00, 0x80, 0x7F, 0xFF)] == [-32124, 32124, 0, 0]
    assert [DECODED["alaw"][code] for code in (0x2A, 0xAA, 0x55, 0xD5)] == [-32256, 32256, -8, 8]
