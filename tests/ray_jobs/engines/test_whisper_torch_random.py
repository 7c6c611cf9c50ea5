"""The engine on narrow random models: what they write makes no sense, how it is handled does not hang on that."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from benchmarks.whisper_shapes import SHAPES, write_random
from ray_jobs.engines import whisper_decode, whisper_torch
from ray_jobs.engines.asr import Window, WindowText
from ray_jobs.engines.whisper_torch import WhisperTorch
from ray_jobs.spec import AsrSpec

RATE_HZ = 8_000
END_TOKEN = 50_257


@pytest.fixture(scope="module", params=["tiny", "large-v3-turbo"])
def endless(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WhisperTorch]:
    """A model that cannot write the end, for windows of half a minute."""
    shape = replace(SHAPES[request.param], head_dim=4, encoder_layers=1)
    folder: Path = write_random(tmp_path_factory.mktemp("model"), shape, std=0.1, suppressed=(END_TOKEN,))
    with patch.object(whisper_decode, "MAX_TOKENS", 6), patch.object(whisper_torch, "_FALLBACK_TEMPERATURES", ()):
        yield WhisperTorch(
            AsrSpec(engine="whisper_torch", model=str(folder), compute_type="float32", batch_size=2), num_threads=1
        )


def noise(seconds: float) -> Window:
    pcm = np.random.default_rng(0).integers(-3_000, 3_000, int(seconds * RATE_HZ), np.int16)
    return Window(pcm=pcm, sample_rate_hz=RATE_HZ, language="en")


def words(heard: WindowText) -> list[tuple[str, float, float]]:
    return [(word.text, word.start_s, word.end_s) for segment in heard.segments for word in segment.words]


def test_a_text_that_does_not_end_is_cut_short_and_its_words_have_times(endless: WhisperTorch) -> None:
    before = endless.stats()["num_tokens"]
    for heard in endless.transcribe([noise(30), noise(3)]):
        times = [time for _, *edges in words(heard) for time in edges]
        assert times
        assert times == sorted(times)
    assert endless.stats()["num_tokens"] - before == 12


def test_replayed_steps_write_the_same(endless: WhisperTorch) -> None:
    windows = [noise(30), noise(3), noise(7)]
    expected = endless.transcribe(windows)
    endless._record_steps(record=lambda step: step)
    assert [words(heard) for heard in endless.transcribe(windows)] == [words(heard) for heard in expected]
