"""Spoilt recordings of every format: each decodes or fails with a stable code, in bounded time, and the next is served.

CALLMILL_FUZZ_CASES sets the number of cases (default 400).
"""

import os
import struct
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_jobs.errors import CallError
from spark_etl.decode import MAX_CHANNELS, Block
from spark_etl.helper import Decoder
from spark_etl.recording import Recording
from tests.spark_etl.audio_samples import FORMATS, encoded, speech, wav

NUM_CASES = int(os.environ.get("CALLMILL_FUZZ_CASES", "400"))
MAX_S = 60.0
WAVS = {
    "pcm16": {"bits": 16},
    "pcm24": {"bits": 24},
    "float32": {"format_tag": 3, "bits": 32},
    "mu_law": {"format_tag": 7, "bits": 8},
    "a_law_extensible": {"format_tag": 6, "bits": 8, "extensible": True},
    "rf64": {"riff": b"RF64"},
}
EDGES = (0, 1, 0x7F, 0x80, 0xFF)


@lru_cache
def sound_file(name: str) -> bytes:
    if name in WAVS:
        return wav(speech(1.0, num_channels=2), **WAVS[name])
    return encoded(name, 1.0, num_channels=1 if name == "amr_nb" else 2)


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    data = bytearray(sound_file(draw(st.sampled_from([*WAVS, *FORMATS]))))
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
    return bytes(data)


@pytest.fixture(scope="module")
def decoder():
    with Decoder(max_s=MAX_S, timeout_s=30) as decoder:
        yield decoder


@settings(max_examples=NUM_CASES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(data=spoilt())
def test_a_spoilt_recording_is_audio_or_a_failure(decoder, data):
    blocks: list[Block] = []
    failure = None
    try:
        blocks.extend(decoder.decode(Recording.holding(data)))
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
        assert failure.code in {"empty", "unreadable", "truncated", "unsupported_codec", "too_long"}, (
            "no crash, no hang"
        )


def test_the_decoder_still_works_after_all_that(decoder):
    assert sum(block.pcm.shape[1] for block in decoder.decode(Recording.holding(sound_file("flac")))) == 16000
