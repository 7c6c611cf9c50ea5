"""An ASR actor whose engine kills its process on one call, as a crashing kernel would. Imported by Ray's workers."""

import os
import time
from collections.abc import Sequence
from typing import Any

from ray_jobs.actors import Gate, Transcribe
from ray_jobs.engines.asr import Segment, Window, WindowText, WindowWord
from ray_jobs.metrics import EngineMetrics
from ray_jobs.spec import RunSpec

DEADLY_SAMPLE = 666
SLOW_SAMPLE = 7
SLOW_S = 3.0
"""Long enough for a neighbour in the same process to die meanwhile."""


class DeadlyEngine:
    model_name = "deadly"

    def __init__(self) -> None:
        self._num_windows = 0

    def transcribe(self, windows: Sequence[Window]) -> list[WindowText]:
        if any(window.pcm[0] == DEADLY_SAMPLE for window in windows):
            os._exit(1)
        time.sleep(SLOW_S * any(window.pcm[0] == SLOW_SAMPLE for window in windows))
        self._num_windows += len(windows)
        words = (WindowWord(text="hello", start_s=0.0, end_s=0.5, probability=0.9),)
        segment = Segment(text="hello", start_s=0.0, end_s=0.5, avg_logprob=-0.1, no_speech_prob=0.0, words=words)
        return [WindowText(language="en", segments=(segment,)) for _ in windows]

    def stats(self) -> dict[str, float]:
        return {"num_windows": self._num_windows, "load_s": 1.5}


class DeadlyTranscribe(Transcribe):
    def __init__(self, spec: RunSpec, board: Any) -> None:
        self._spec = spec
        self._board = board
        self._engine = DeadlyEngine()
        self._gate = Gate()
        self._metrics = EngineMetrics("asr", self._engine.model_name)
