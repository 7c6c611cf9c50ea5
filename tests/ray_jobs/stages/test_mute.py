import numpy as np
import pytest

from ray_jobs.records import Redaction
from ray_jobs.stages.mute import PAD_S, mute

RATE_HZ = 8000


def redaction(start_s: float, end_s: float, channel: int) -> Redaction:
    return Redaction(
        entity="CVV", placeholder="[CVV_1]", channel=channel, start_s=start_s, end_s=end_s, recogniser="test", score=1.0
    )


def test_only_the_secrets_stretch_of_its_channel_is_silent() -> None:
    pcm = np.ones((2, 4 * RATE_HZ), np.int16)
    muted = mute(pcm, RATE_HZ, [redaction(1.0, 2.0, channel=1)])
    silent = np.flatnonzero(muted[1] == 0) / RATE_HZ
    assert silent[0] == pytest.approx(1.0 - PAD_S)
    assert silent[-1] == pytest.approx(2.0 + PAD_S, abs=1 / RATE_HZ)
    assert muted[0].all()
    assert pcm.all(), "the input is left as it was"


def test_a_secret_at_the_edges_of_the_call() -> None:
    muted = mute(np.ones((1, RATE_HZ), np.int16), RATE_HZ, [redaction(0.0, 9.0, channel=0)])
    assert not muted.any()
