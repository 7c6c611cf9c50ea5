"""The word-error benchmark's own arithmetic."""

from pathlib import Path

import numpy as np

from benchmarks.wer import Reference, Turn, read, score, span_by_span
from ray_jobs.records import CallAudio, Span
from ray_jobs.spec import AsrSpec
from tests.ray_jobs.engines.fake_asr import FakeAsr


def test_a_call_read_span_by_span_has_the_words_of_every_span_once() -> None:
    second = 8_000
    spans = tuple(Span(channel=0, start_sample=n * 2 * second, num_samples=second) for n in range(3))
    pcm = np.repeat(np.array([7, 8, 9], "<i2"), second).tobytes()
    call = CallAudio(
        call_id="a", uri="a.wav", duration_s=6.0, sample_rate_hz=second, num_channels=1, spans=spans, pcm=pcm
    )
    engine = FakeAsr({7: "one", 8: "two", 9: "three"})
    alone = [pair for span in read(span_by_span(call), engine, AsrSpec()) for pair in span]
    turn = Turn(channel=0, start_s=0.0, end_s=5.0, text="one two three")
    assert [word.text for _, word in alone] == ["one", "two", "three"]
    assert score([Reference(path=Path("a.wav"), turns=(turn,))], [alone]).summary()["wer"] == 0.0
