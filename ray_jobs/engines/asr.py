"""The face every ASR engine shows: windows of samples in, text with times out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

MAX_WINDOW_S = 30.0
"""The longest window an engine takes: Whisper's input length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """At most MAX_WINDOW_S seconds of one channel.

    `pcm`: int16, shape (num_samples,), at `sample_rate_hz` (8,000 to 16,000); the engine resamples on its own device.
    `language`: an ISO 639-1 code, or None to detect it.
    """

    pcm: npt.NDArray[np.int16]
    sample_rate_hz: int
    language: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowWord:
    """A word and its times in seconds from the window's start; `text` keeps no surrounding blanks."""

    text: str
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of text as the model cut it, in seconds from the window's start."""

    text: str
    start_s: float
    end_s: float
    avg_logprob: float
    no_speech_prob: float
    words: tuple[WindowWord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowText:
    """What was said in one window; no segments when nothing was."""

    language: str
    segments: tuple[Segment, ...]


class AsrEngine(Protocol):
    """A loaded model. Constructing it loads and warms up; it holds no state between calls."""

    model_name: str

    def transcribe(self, windows: Sequence[Window]) -> list[WindowText]:
        """One result per window, in order, or an exception for the whole batch."""
        ...

    def stats(self) -> dict[str, float]:
        """Counters since the start: num_windows, audio_s, busy_s, load_s, ... (names carry units)."""
        ...
