"""Rows of speech as tables and back."""

from dataclasses import replace

import numpy as np
import pytest

from ray_jobs.g711 import DECODED
from ray_jobs.records import CallAudio, Span, audio_to_table, table_to_audio

AUDIO = CallAudio(
    call_id="a",
    uri="/a.wav",
    duration_s=10.0,
    sample_rate_hz=8000,
    num_channels=1,
    spans=(Span(channel=0, start_sample=0, num_samples=256),),
    pcm=b"",
)


@pytest.mark.parametrize(
    ("samples", "num_bytes"),
    [(DECODED["mulaw"], 256), (DECODED["alaw"], 256), (np.arange(256, dtype=np.int16), 512)],
    ids=["mulaw", "alaw", "linear"],
)
def test_speech_that_was_g711_travels_in_eight_bits(samples: np.ndarray, num_bytes: int) -> None:
    audio = replace(AUDIO, pcm=samples.astype("<i2").tobytes())
    table = audio_to_table([audio])
    assert len(table["pcm"][0].as_py()) == num_bytes
    assert table_to_audio(table) == [audio]
