"""A public stand-in for a speech model: it reads numbers, so that a test can say where each word must come back."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from ray_jobs.engines.asr import Segment, Window, WindowText, WindowWord

POISON = -1
"""A window that holds this sample makes the fake raise."""

GERMAN = 1000
"""Where it has to detect the language, the fake takes a window that starts with this number or more for German."""


class FakeAsr:
    """An AsrEngine that takes each run of equal samples n other than zero for one word, `vocabulary[n]` or "wN".

    Zeros are silence, negative numbers noise. `broken` makes every call raise. `num_batches` counts the calls.
    """

    model_name = "fake"

    def __init__(self, vocabulary: Mapping[int, str] | None = None, *, broken: bool = False) -> None:
        self._vocabulary = vocabulary or {}
        self._broken = broken
        self.num_batches = 0

    def transcribe(self, windows: Sequence[Window]) -> list[WindowText]:
        self.num_batches += 1
        if self._broken or any(POISON in window.pcm for window in windows):
            raise RuntimeError("the fake engine was asked to fail")
        return [self._read(window) for window in windows]

    def stats(self) -> dict[str, float]:
        return {"num_batches": float(self.num_batches)}

    def _read(self, window: Window) -> WindowText:
        language = window.language or ("de" if window.pcm[0] >= GERMAN else "en")
        edges = [0, *(np.flatnonzero(np.diff(window.pcm)) + 1).tolist(), len(window.pcm)]
        words = tuple(
            WindowWord(
                text=self._vocabulary.get(int(window.pcm[start]), f"w{window.pcm[start]}"),
                start_s=start / window.sample_rate_hz,
                end_s=end / window.sample_rate_hz,
                probability=0.5,
            )
            for start, end in pairwise(edges)
            if window.pcm[start] > 0
        )
        if not words:
            return WindowText(language=language, segments=())
        segment = Segment(
            text=" ".join(word.text for word in words),
            start_s=words[0].start_s,
            end_s=words[-1].end_s,
            avg_logprob=-0.5,
            no_speech_prob=0.25,
            words=words,
        )
        return WindowText(language=language, segments=(segment,))
