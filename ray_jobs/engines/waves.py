"""Int16 windows of any rate as float waves at 16 kHz: resampled in batches, on the model's own device."""

from collections.abc import Sequence

import torch
import torchaudio
from torch import Tensor

from ray_jobs.engines.asr import MAX_WINDOW_S, Window

RATE_HZ = 16_000
MAX_SAMPLES = int(MAX_WINDOW_S * RATE_HZ)


def num_samples(window: Window) -> int:
    """Samples of a window once it is at 16 kHz."""
    return min(MAX_SAMPLES, -(-len(window.pcm) * RATE_HZ // window.sample_rate_hz))


def to_waves(windows: Sequence[Window], device: torch.device) -> Tensor:
    """Windows at 16 kHz in [-1, 1], zeros behind each: float32, shape (num_windows, samples of the longest)."""
    lengths = torch.tensor([num_samples(window) for window in windows], device=device)
    waves = torch.zeros(len(windows), int(lengths.max()), device=device)
    for rate_hz in {window.sample_rate_hz for window in windows}:
        rows = [row for row, window in enumerate(windows) if window.sample_rate_hz == rate_hz]
        wave = torchaudio.functional.resample(_stack([windows[row] for row in rows], device), rate_hz, RATE_HZ)
        size = min(wave.shape[1], waves.shape[1])
        waves[rows, :size] = wave[:, :size]
    # A resampled wave rings on for some samples behind its end, where its neighbours in the batch are longer.
    return waves * (torch.arange(waves.shape[1], device=device) < lengths[:, None])


def _stack(windows: Sequence[Window], device: torch.device) -> Tensor:
    """Windows of one rate, padded with zeros to the longest: float32 in [-1, 1]."""
    # From pinned memory a GPU fetches by itself, while this thread goes on.
    is_pinned = device.type == "cuda"
    pcm = torch.zeros(len(windows), max(len(window.pcm) for window in windows), dtype=torch.int16, pin_memory=is_pinned)
    for row, window in zip(pcm, windows, strict=True):
        row[: len(window.pcm)] = torch.tensor(window.pcm)
    return pcm.to(device, non_blocking=True).float().div_(32768.0)
