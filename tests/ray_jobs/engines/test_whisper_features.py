"""The front end: transformers' own spectra, whatever the window's length, rate and company."""

import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import WhisperFeatureExtractor

from ray_jobs.engines.asr import Window
from ray_jobs.engines.waves import num_samples
from ray_jobs.engines.whisper_features import LogMel

SAMPLE = Path(__file__).parents[2] / "data" / "sample_calls" / "03_internet_outage.wav"


@pytest.fixture(scope="module")
def speech() -> npt.NDArray[np.int16]:
    """30 s of a real recording; its rate is left aside."""
    with wave.open(str(SAMPLE)) as file:
        return np.frombuffer(file.readframes(480_000), "<i2").reshape(-1, 2).T.reshape(-1)[:480_000]


def a_window(pcm: npt.NDArray[np.int16], sample_rate_hz: int = 16_000) -> Window:
    return Window(pcm=pcm, sample_rate_hz=sample_rate_hz, language="en")


@pytest.mark.parametrize("num_mels", [80, 128])
def test_equals_transformers_extractor(speech: npt.NDArray[np.int16], num_mels: int) -> None:
    windows = [a_window(speech[:n]) for n in (480_000, 123_456, 1_600, 1)]
    windows.append(a_window(np.zeros(16_000, np.int16)))
    windows.append(a_window(np.where(speech > 0, 32_767, -32_768).astype(np.int16)))  # clipped all through
    extract = WhisperFeatureExtractor(feature_size=num_mels)
    waves = [window.pcm / np.float32(32768) for window in windows]
    reference = torch.from_numpy(extract(waves, sampling_rate=16_000, return_tensors="np")["input_features"])
    log_mel = LogMel(num_mels, torch.device("cpu"))
    torch.testing.assert_close(log_mel(windows), reference.transpose(1, 2), atol=1e-4, rtol=0)
    for window, expected in zip(windows, reference, strict=True):  # alone, where less is padded
        torch.testing.assert_close(log_mel([window])[0], expected.T, atol=1e-4, rtol=0)


def test_windows_of_several_rates_go_together() -> None:
    def tone(rate_hz: int) -> Window:
        times = np.arange(2 * rate_hz) / rate_hz
        return a_window((10_000 * np.sin(2 * np.pi * 440 * times)).astype(np.int16), rate_hz)

    at_8k, at_11k, at_16k = LogMel(80, torch.device("cpu"))([tone(8_000), tone(11_025), tone(16_000)])
    inner = slice(5, 190)  # the resampler's edges differ
    torch.testing.assert_close(at_8k[inner, :40], at_16k[inner, :40], atol=0.05, rtol=0)
    torch.testing.assert_close(at_11k[inner, :40], at_16k[inner, :40], atol=0.05, rtol=0)


@pytest.mark.parametrize(("length", "rate_hz", "expected"), [(8_000, 8_000, 16_000), (1, 8_000, 2), (1, 11_025, 2)])
def test_counts_samples_at_16_khz(length: int, rate_hz: int, expected: int) -> None:
    assert num_samples(a_window(np.zeros(length, np.int16), rate_hz)) == expected
