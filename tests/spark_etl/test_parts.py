"""Several recordings of one call: their channels side by side, from a common start, the shorter ones padded."""

from collections.abc import Iterator

import numpy as np
import pytest

from ray_jobs.errors import CallError
from spark_etl.decode import Block
from spark_etl.parts import side_by_side
from tests.spark_etl.audio_samples import Samples, noise, speech


def blocks(pcm: Samples, rate_hz: int = 8000, size: int = 3000) -> Iterator[Block]:
    for start in range(0, pcm.shape[1], size):
        yield Block(sample_rate_hz=rate_hz, pcm=pcm[:, start : start + size])


def joined(*parts: Iterator[Block]) -> tuple[int, Samples]:
    found = list(side_by_side(parts))
    assert len({(block.sample_rate_hz, len(block.pcm)) for block in found}) == 1
    return found[0].sample_rate_hz, np.concatenate([block.pcm for block in found], axis=1)


def test_channels_lie_in_the_order_of_the_parts_and_the_shorter_goes_on_in_silence():
    long, short = noise(2.0), speech(1.5, num_channels=2)
    rate, pcm = joined(blocks(long, size=3000), blocks(short, size=1999))
    assert (rate, pcm.shape) == (8000, (3, 16_000))
    assert np.array_equal(pcm[0], long[0])
    assert np.array_equal(pcm[1:, :12_000], short)
    assert not pcm[1:, 12_000:].any()


def test_the_higher_rate_is_kept_and_the_other_raised_to_it():
    narrow, wide = speech(2.0), speech(2.0, sample_rate_hz=16_000)
    rate, pcm = joined(blocks(narrow), blocks(wide, 16_000))
    assert (rate, len(pcm)) == (16_000, 2)
    assert abs(pcm.shape[1] - 32_000) < 100
    both = pcm[:, :32_000].astype(float)
    assert np.corrcoef(both)[0, 1] > 0.98, "neither is shifted against the other"


def test_more_than_eight_channels_are_refused():
    with pytest.raises(CallError, match="9 channels in 2 files; 8 are taken"):
        joined(blocks(noise(1.0, num_channels=8)), blocks(noise(1.0)))


def test_what_a_part_raises_is_raised():
    def broken() -> Iterator[Block]:
        yield from blocks(noise(1.0))
        raise CallError("truncated", "cut short")

    with pytest.raises(CallError, match="truncated"):
        joined(blocks(noise(2.0)), broken())


def test_where_one_part_fails_the_others_are_closed():
    """Their decoders are free for the next call, and not amid an answer that nobody reads."""

    def empty() -> Iterator[Block]:
        raise CallError("empty", "no bytes")
        yield

    part = blocks(noise(2.0))
    with pytest.raises(CallError, match="empty"):
        joined(part, empty())
    assert list(part) == []
