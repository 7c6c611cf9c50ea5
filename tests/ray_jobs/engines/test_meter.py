"""What an engine counts, and when it counts as busy."""

import contextlib

import numpy as np
import pytest

from ray_jobs.engines import meter
from ray_jobs.engines.asr import Window
from ray_jobs.engines.meter import REQUIRED, Meter


class Clock:
    """A clock that a test sets."""

    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(meter, "time", clock)
    return clock


def test_a_new_engine_has_done_nothing(clock: Clock) -> None:
    stats = Meter(2.5, "num_retries").read()
    assert stats == {**dict.fromkeys((*REQUIRED, "num_retries", "up_s", "busy_s"), 0.0), "load_s": 2.5}


def test_calls_that_overlap_are_busy_once(clock: Clock) -> None:
    counts = Meter(0.0)
    with counts.at_work():
        clock.now_s += 2
        with counts.at_work():
            clock.now_s += 3
        clock.now_s += 1
    clock.now_s += 10
    assert (counts.read()["busy_s"], counts.read()["up_s"]) == (6.0, 16.0)


def test_a_call_under_way_counts_so_far_and_one_that_raises_is_over(clock: Clock) -> None:
    counts = Meter(0.0)
    with counts.at_work():
        clock.now_s += 2
        assert counts.read()["busy_s"] == 2.0
    with contextlib.suppress(ValueError), counts.at_work():
        clock.now_s += 1
        raise ValueError
    clock.now_s += 5
    assert counts.read()["busy_s"] == 3.0


def test_windows_count_with_what_they_are_padded_to() -> None:
    counts = Meter(0.0)
    windows = [
        Window(pcm=np.zeros(length, np.int16), sample_rate_hz=8_000, language=None) for length in (80_000, 8_000)
    ]
    counts.add_windows(windows)
    counts.add_windows(windows[1:], None)
    stats = counts.read()
    assert (stats["num_windows"], stats["audio_s"], stats["window_s"]) == (3, 12.0, 61.0)
