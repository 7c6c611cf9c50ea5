"""Takes redacted speech out of the audio."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ray_jobs.records import Redaction

PAD_S = 0.15
"""Silence before and after a secret: the times of its words are known no better."""


def mute(pcm: npt.NDArray[np.int16], sample_rate_hz: int, redactions: Iterable[Redaction]) -> npt.NDArray[np.int16]:
    """A copy of a call's audio (int16, shape (num_channels, num_samples)) with silence where redactions were spoken."""
    muted = pcm.copy()
    for redaction in redactions:
        start = max(0, round((redaction.start_s - PAD_S) * sample_rate_hz))
        muted[redaction.channel, start : round((redaction.end_s + PAD_S) * sample_rate_hz)] = 0
    return muted
