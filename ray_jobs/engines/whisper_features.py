"""Whisper's front end in batched torch: int16 windows in, log-mel spectra out, on the model's own device."""

from collections.abc import Sequence

import torch
import torchaudio
from torch.nn import functional

from ray_jobs.engines.asr import Window
from ray_jobs.engines.waves import MAX_SAMPLES, RATE_HZ, to_waves

HOP_SAMPLES = 160
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
        waves = to_waves(windows, self._taper.device)
        # At least two frames of silence behind the longest, unless it has 30 s.
        size = min(MAX_SAMPLES, (waves.shape[1] // HOP_SAMPLES + 3) * HOP_SAMPLES)
        waves = functional.pad(waves, (0, size - waves.shape[1]))
        spectra = torch.stft(waves, _FFT_SAMPLES, HOP_SAMPLES, window=self._taper, return_complex=True)
        power = (spectra.real.square() + spectra.imag.square())[..., :-1]  # the reference drops the last frame
        log_mel = (power.transpose(1, 2) @ self._bank).clamp_(min=10**_FLOOR_LOG10).log10_()
        floor = (log_mel.amax(dim=(1, 2), keepdim=True) - _RANGE_LOG10).clamp_(min=_FLOOR_LOG10)
        # Frames after the longest window hold silence only: they lie at the floor and need no transform.
        padded: torch.Tensor = floor.expand(-1, MAX_FRAMES, self._bank.shape[1]).clone()
        padded[:, : log_mel.shape[1]] = torch.maximum(log_mel, floor)
        return padded.add_(4.0).div_(4.0)
