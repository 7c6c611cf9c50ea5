"""Calls made of numbers, for the stages that take speech: see fake_asr."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from ray_jobs.records import CallAudio, Span

RATE_HZ = 100  # a clock of whole hundredths, and arrays small enough to try many

Spoken = tuple[int, float, Sequence[int]]
"""A span: its channel, its start in seconds, its samples."""


def a_call(*spoken: Spoken, call_id: str = "a", duration_s: float = 100.0, num_channels: int = 2) -> CallAudio:
    spans = [Span(channel=c, start_sample=round(s * RATE_HZ), num_samples=len(samples)) for c, s, samples in spoken]
    pcm = np.concatenate([np.asarray(samples, "<i2") for _, _, samples in spoken]) if spoken else np.zeros(0, "<i2")
    return CallAudio(
        call_id=call_id,
        uri=f"{call_id}.wav",
        duration_s=duration_s,
        sample_rate_hz=RATE_HZ,
        num_channels=num_channels,
        spans=tuple(spans),
        pcm=pcm.tobytes(),
    )


def a_word(number: int, length_s: float = 0.5) -> list[int]:
    return [number] * round(length_s * RATE_HZ)


@st.composite
def calls(draw: st.DrawFn) -> CallAudio:
    """Up to two channels of spans in order, from one sample to longer than a window, each span one number."""
    spoken: list[Spoken] = []
    end = 0
    for channel in range(draw(st.integers(1, 2))):
        at = 0
        for length in draw(st.lists(st.one_of(st.integers(1, 900), st.integers(1, 7000)), max_size=12)):
            at += draw(st.integers(0, 400))
            spoken.append((channel, at / RATE_HZ, [len(spoken) + 1] * length))
            at += length
        end = max(end, at)
    return a_call(*spoken, duration_s=end / RATE_HZ)
