"""Spoilt recordings of every format: each decodes or fails with a stable code, in bounded time, and the next is served.

CALLMILL_FUZZ_CASES sets the number of cases (default 400).
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_jobs.errors import CallError
from ray_jobs.records import RawCoding
from spark_etl.decode import MAX_CHANNELS, Block
from spark_etl.helper import Decoder
from spark_etl.parts import side_by_side
from spark_etl.recording import Recording
from tests.spark_etl.audio_samples import FORMATS, amr_wb, encoded, gsm, gsm_wav, speech, wav

NUM_CASES = int(os.environ.get("CALLMILL_FUZZ_CASES", "400"))
MAX_S = 60.0
WAVS = {
    "pcm8": {"bits": 8},
    "pcm16": {"bits": 16},
    "pcm24": {"bits": 24},
    "pcm32": {"bits": 32},
    "float32": {"format_tag": 3, "bits": 32},
    "float64": {"format_tag": 3, "bits": 64},
    "mu_law": {"format_tag": 7, "bits": 8},
    "a_law_extensible": {"format_tag": 6, "bits": 8, "extensible": True},
    "rf64": {"riff": b"RF64"},
}
MADE = {"gsm_wav": gsm_wav, "gsm": gsm, "amr_wb": amr_wb}
RAW = {
    "raw_mulaw": RawCoding(encoding="mulaw", sample_rate_hz=8000, num_channels=1),
    "raw_alaw": RawCoding(encoding="alaw", sample_rate_hz=16000, num_channels=2),
    "raw_u8": RawCoding(encoding="pcm_u8", sample_rate_hz=11025, num_channels=1),
    "raw_s16le": RawCoding(encoding="pcm_s16le", sample_rate_hz=48000, num_channels=3),
    "raw_s16be": RawCoding(encoding="pcm_s16be", sample_rate_hz=8000, num_channels=8),
}
EDGES = (0, 1, 0x7F, 0x80, 0xFF)


@dataclass(frozen=True, kw_only=True)
class Spoilt:
    """A damaged recording, and how the spec would have it read."""

    name: str
    data: bytes = field(repr=False)
    raw: RawCoding | None


@lru_cache
def sound_file(name: str) -> bytes:
    if name in RAW:
        return speech(1.0, num_channels=2).tobytes()
    if name in MADE:
        return MADE[name]()
    if name in WAVS:
        return wav(speech(1.0, num_channels=2), **WAVS[name])
    return encoded(name, 1.0, num_channels=1 if "amr" in FORMATS[name][1] else 2)


@st.composite
def spoilt(draw: st.DrawFn) -> Spoilt:
    name = draw(st.sampled_from([*WAVS, *FORMATS, *MADE, *RAW]))
    data = bytearray(sound_file(name))
    for _ in range(draw(st.integers(1, 4))):
        # Most damage near the start: that is where the lengths, rates and channel counts are.
        reach = min(draw(st.sampled_from([48, 200, len(data)])), len(data))
        at = draw(st.integers(0, max(0, reach - 1)))
        match draw(st.sampled_from(["byte", "word", "cut", "remove", "repeat", "noise"])):
            case "byte":
                data[at : at + 1] = bytes([draw(st.sampled_from(EDGES) | st.integers(0, 255))])
            case "word":
                value = draw(st.sampled_from([0, 1, 17, 2**16, 2**31 - 1, 2**32 - 1]))
                data[at : at + 4] = struct.pack(draw(st.sampled_from(["<I", ">I"])), value)
            case "cut":
                del data[at:]
            case "remove":
                del data[at : at + draw(st.integers(1, 64))]
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
            case "noise":
                data[at : at + 16] = draw(st.binary(min_size=16, max_size=16))
    return Spoilt(name=name, data=bytes(data), raw=RAW.get(name))


@pytest.fixture(scope="module")
def decoders():
    with Decoder(max_s=MAX_S, timeout_s=30) as first, Decoder(max_s=MAX_S, timeout_s=30) as second:
        yield first, second


def check(stream: Iterator[Block]) -> None:
    """Audio of one form and bounded length, or a Failure of a stable code: no crash, no hang."""
    blocks: list[Block] = []
    failure = None
    try:
        blocks.extend(stream)
    except CallError as error:
        failure = error
    for block in blocks:
        assert block.pcm.dtype == np.int16
        assert 1 <= len(block.pcm) <= MAX_CHANNELS
        assert block.sample_rate_hz in (8000, 16000)
    assert len({(block.sample_rate_hz, len(block.pcm)) for block in blocks}) <= 1
    if failure is None:
        assert 0 < sum(block.pcm.shape[1] for block in blocks) <= MAX_S * blocks[0].sample_rate_hz
    else:
        assert failure.reason
        assert failure.code in {"empty", "unreadable", "truncated", "unsupported_codec", "too_long"}


BY_CASES = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


@settings(max_examples=NUM_CASES, **BY_CASES)
@given(file=spoilt())
def test_a_spoilt_recording_is_audio_or_a_failure(decoders, file):
    with Recording.holding(file.data) as recording:
        check(decoders[0].decode(recording, file.raw))


@settings(max_examples=NUM_CASES // 4, **BY_CASES)
@given(files=st.tuples(spoilt(), spoilt()))
def test_so_are_the_spoilt_parts_of_a_call(decoders, files):
    with Recording.holding(files[0].data) as one, Recording.holding(files[1].data) as other:
        parts = zip(decoders, (one, other), files, strict=True)
        check(side_by_side([decoder.decode(recording, file.raw) for decoder, recording, file in parts]))


def test_the_decoder_still_works_after_all_that(decoders):
    assert sum(block.pcm.shape[1] for block in decoders[0].decode(Recording.holding(sound_file("flac")))) == 16000
