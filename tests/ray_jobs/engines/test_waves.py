"""Windows of several rates and lengths as one batch at 16 kHz."""

import numpy as np
import numpy.typing as npt
import torch

from ray_jobs.engines.asr import Window
from ray_jobs.engines.waves import num_samples, to_waves

CPU = torch.device("cpu")


def tone(rate_hz: int, length_s: float) -> npt.NDArray[np.int16]:
    return (10_000 * np.sin(2 * np.pi * 440 * np.arange(round(rate_hz * length_s)) / rate_hz)).astype(np.int16)


def a_window(rate_hz: int, length_s: float) -> Window:
    return Window(pcm=tone(rate_hz, length_s), sample_rate_hz=rate_hz, language=None)


def test_each_is_the_same_sound_at_16_khz_and_silence_behind() -> None:
    windows = [a_window(rate_hz, 0.1 * (i + 1)) for i, rate_hz in enumerate([8_000, 16_000, 8_000, 11_025])]
    waves = to_waves(windows, CPU)
    assert waves.shape == (4, 6_400)
    for i, (wave, window) in enumerate(zip(waves.numpy(), windows, strict=True)):
        length = num_samples(window)
        assert length == 1_600 * (i + 1)
        inner = slice(200, length - 200)
        np.testing.assert_allclose(wave[inner], tone(16_000, 0.1 * (i + 1))[inner] / 32_768, atol=0.01)
        assert not wave[length:].any()


def test_a_window_is_the_same_alone_as_among_others() -> None:
    windows = [a_window(8_000, 0.3), a_window(8_000, 1.0), a_window(16_000, 0.7)]
    together = to_waves(windows, CPU)
    for row, window in zip(together, windows, strict=True):
        (alone,) = to_waves([window], CPU)
        torch.testing.assert_close(row[: len(alone)], alone)


def test_thirty_seconds_are_the_longest() -> None:
    assert to_waves([a_window(8_000, 31.0)], CPU).shape == (1, 480_000)
