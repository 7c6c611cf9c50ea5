"""What an ASR engine did since it was up: the counts behind `AsrEngine.stats`, safe to feed from several threads."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ray_jobs.engines.asr import MAX_WINDOW_S, Window

REQUIRED = ("num_windows", "num_tokens", "num_loops_cut", "audio_s", "window_s")
"""Counted by every engine; see `AsrEngine.stats`."""


class Meter:
    """Sums by name, and the time during which at least one call was at work."""

    def __init__(self, load_s: float, *names: str) -> None:
        """Start counting: of an engine that took `load_s` to come up, REQUIRED and what else it counts."""
        self._load_s = load_s
        self._sums = Counter(dict.fromkeys((*REQUIRED, *names), 0.0))
        self._lock = threading.Lock()
        self._up = time.monotonic()
        self._num_calls = 0
        self._busy_since = self._up
        self._busy_s = 0.0

    def add(self, **amounts: float) -> None:
        with self._lock:
            self._sums.update(amounts)

    def add_windows(self, windows: Sequence[Window], window_s: float | None = MAX_WINDOW_S) -> None:
        """Count windows that were read, each padded to `window_s`; None: as long as they are."""
        audio_s = sum(len(window.pcm) / window.sample_rate_hz for window in windows)
        padded_s = audio_s if window_s is None else window_s * len(windows)
        self.add(num_windows=len(windows), audio_s=audio_s, window_s=padded_s)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Time spent inside counts as busy; where two calls overlap, once."""
        with self._lock:
            if self._num_calls == 0:
                self._busy_since = time.monotonic()
            self._num_calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_calls -= 1
                if self._num_calls == 0:
                    self._busy_s += time.monotonic() - self._busy_since

    def read(self) -> dict[str, float]:
        """All sums, load_s, up_s and busy_s."""
        with self._lock:
            now = time.monotonic()
            busy_s = self._busy_s + (now - self._busy_since if self._num_calls else 0.0)
            return {**self._sums, "load_s": self._load_s, "up_s": now - self._up, "busy_s": busy_s}
