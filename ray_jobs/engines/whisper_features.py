"""Whisper's front end in batched torch: int16 windows in, log-mel spectra out, on the model's own device."""

from collections.abc import Sequence

import torch
import torchaudio

from ray_jobs.engines.asr import MAX_WINDOW_S, Window

RATE_HZ = 16_000
HOP_SAMPLES = 160
MAX_SAMPLES = int(MAX_WINDOW_S * RATE_HZ)
MAX_FRAMES = MAX_SAMPLES // HOP_SAMPLES

_FFT_SAMPLES = 400
_FLOOR_LOG10 = -10.0
_RANGE_LOG10 = 8.0


class LogMel:
    """Log-mel spectra as section 2.2 of the Whisper paper has them (25 ms frames, 10 ms hop, Slaney's mel scale)."""

    def __init__(self, num_mels: int, device: torch.device) -> None:
        bank = torchaudio.functional.melscale_fbanks(
            _FFT_SAMPLES // 2 + 1, 0.0, RATE_HZ / 2, num_mels, RATE_HZ, norm="slaney", mel_scale="slaney"
        )
        self._bank = bank.to(device)  # (num_bins, num_mels)
        self._taper = torch.hann_window(_FFT_SAMPLES, device=device)

    def __call__(self, windows: Sequence[Window]) -> torch.Tensor:
        """Spectra of windows padded with silence to 30 s: float32, shape (num_windows, MAX_FRAMES, num_mels)."""
        waves = self._waves(windows)
        spectra = torch.stft(waves, _FFT_SAMPLES, HOP_SAMPLES, window=self._taper, return_complex=True)
        power = torch.view_as_real(spectra).square().sum(-1)[..., :-1]  # the reference drops the last frame
        log_mel = (power.transpose(1, 2) @ self._bank).clamp_(min=10**_FLOOR_LOG10).log10_()
        floor = (log_mel.amax(dim=(1, 2), keepdim=True) - _RANGE_LOG10).clamp_(min=_FLOOR_LOG10)
        # Frames after the longest window hold silence only: they lie at the floor and need no transform.
        padded: torch.Tensor = floor.expand(-1, MAX_FRAMES, self._bank.shape[1]).clone()
        padded[:, : log_mel.shape[1]] = torch.maximum(log_mel, floor)
        return padded.add_(4.0).div_(4.0)

    def _waves(self, windows: Sequence[Window]) -> torch.Tensor:
        """Windows at 16 kHz in [-1, 1], with at least two frames of silence behind the longest unless it has 30 s."""
        longest = max(num_samples(window) for window in windows)
        padded = min(MAX_SAMPLES, (longest // HOP_SAMPLES + 3) * HOP_SAMPLES)
        waves = torch.zeros(len(windows), padded, device=self._taper.device)
        for rate_hz in {window.sample_rate_hz for window in windows}:
            rows = [row for row, window in enumerate(windows) if window.sample_rate_hz == rate_hz]
            wave = torchaudio.functional.resample(self._stack([windows[row] for row in rows]), rate_hz, RATE_HZ)
            size = min(wave.shape[1], padded)
            waves[rows, :size] = wave[:, :size]
        return waves

    def _stack(self, windows: Sequence[Window]) -> torch.Tensor:
        """Windows of one rate, padded with zeros to the longest: float32 in [-1, 1]."""
        pcm = torch.zeros(len(windows), max(len(window.pcm) for window in windows), dtype=torch.int16)
        for row, window in zip(pcm, windows, strict=True):
            row[: len(window.pcm)] = torch.tensor(window.pcm)
        return pcm.to(self._taper.device).float().div_(32768.0)


def num_samples(window: Window) -> int:
    """Samples of a window once it is at 16 kHz."""
    return min(MAX_SAMPLES, -(-len(window.pcm) * RATE_HZ // window.sample_rate_hz))
