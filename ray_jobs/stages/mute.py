"""Takes redacted speech out of the audio."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ray_jobs.records import Redaction

PAD_S = 0.15
"""Silence before and after a secret: the times of its words are known no better."""

SAME_VOICE = 0.5
"""Correlation from which another channel holds the same speech, as both channels of a mixed recording do."""

Samples = npt.NDArray[np.int16]


def mute(pcm: Samples, sample_rate_hz: int, redactions: Iterable[Redaction], *, start_sample: int = 0) -> Samples:
    """A copy of a stretch of a call's audio with silence where redactions were spoken.

    `pcm`: int16, shape (num_channels, num_samples); its first sample is the call's sample `start_sample`. A secret is
    silenced on its own channel and on those that carry the same voice.
    """
    muted = pcm.copy()
    for redaction in redactions:
        first = round((redaction.start_s - PAD_S) * sample_rate_hz) - start_sample
        last = round((redaction.end_s + PAD_S) * sample_rate_hz) - start_sample
        stretch = pcm[:, max(0, first) : max(0, last)]
        for channel, samples in enumerate(stretch):
            if channel == redaction.channel or _correlation(samples, stretch[redaction.channel]) >= SAME_VOICE:
                muted[channel, max(0, first) : max(0, last)] = 0
    return muted


def _correlation(a: Samples, b: Samples) -> float:
    """Normalised, at no delay, of either sign: a recorder may turn one channel's polarity."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    power = float(x @ x) * float(y @ y)
    return abs(float(x @ y)) / power**0.5 if power else 0.0
