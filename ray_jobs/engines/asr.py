"""The face every ASR engine shows: windows of samples in, text with times out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

MAX_WINDOW_S = 30.0
"""The longest window an engine takes: Whisper's input length."""

DEFAULT_BATCH = 16
"""Windows decoded together where neither the spec nor the device's memory says how many."""


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
    """A stretch of text as the model cut it, in seconds from the window's start.

    `repetition_cut`: the model said one phrase over and over, and all but its first time was cut from `words`.
    """

    text: str
    start_s: float
    end_s: float
    avg_logprob: float
    no_speech_prob: float
    words: tuple[WindowWord, ...]
    repetition_cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowText:
    """What was said in one window; no segments when nothing was.

    `language_prob`: how sure the engine is of a language it had to detect; 1 where it was told.
    """

    language: str
    segments: tuple[Segment, ...]
    language_prob: float = 1.0


class AsrEngine(Protocol):
    """A loaded model. Constructing it loads and warms up; it holds no state between calls, which may overlap."""

    model_name: str

    def transcribe(self, windows: Sequence[Window]) -> list[WindowText]:
        """One result per window, in order, or an exception for the whole batch."""
        ...

    def stats(self) -> dict[str, float]:
        """Sums since the engine was up. Every engine gives these; what else it counts is its own.

        num_windows, num_tokens   read and written
        num_loops_cut             windows in which a repeated phrase was cut
        audio_s, window_s         of the windows, without and with padding: 1 - audio_s / window_s is the padding share
        load_s, up_s              seconds to load and warm up, and since then
        busy_s                    of up_s, with at least one call at work: 1 - busy_s / up_s is idle

        Rates come from differences of two readings: windows/s is that of num_windows over that of up_s.
        """
        ...
