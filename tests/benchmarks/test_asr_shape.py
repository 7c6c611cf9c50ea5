"""The benchmark of random models, with one so small that a CPU reads with it; what a GPU would be asked is the same."""

from dataclasses import replace

import pytest

from benchmarks.asr_shape import SPAN_S, covered, dense_calls, dense_windows, measure_shape, window_bound_s
from benchmarks.whisper_shapes import SHAPES
from ray_jobs.engines.whisper_weights import WhisperConfig
from ray_jobs.stages.packing import pack


def test_intervals_that_overlap_count_once() -> None:
    assert covered([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.8)]) == 4.0
    assert covered([]) == 0.0


def test_calls_fill_the_windows_asked_for() -> None:
    (call,) = dense_calls(5, seed=0)
    packed = pack(call, "en")
    assert len(packed) == 6
    assert {len(window.pieces) for window in packed} == {3}
    assert sum(len(list(pack(call, "en"))) for call in dense_calls(50, seed=0)) >= 50
    assert call.speech_s == pytest.approx(18 * SPAN_S)


def test_windows_are_whole() -> None:
    assert {len(window.pcm) / window.sample_rate_hz for window in dense_windows(2)} == {30.0}


def test_the_bound_of_large_v3_turbo_is_that_of_its_encoder() -> None:
    shape = WhisperConfig(
        num_mels=128,
        vocab_size=51_866,
        width=1_280,
        encoder_layers=32,
        decoder_layers=4,
        num_heads=20,
        audio_positions=1_500,
        text_positions=448,
    )
    arithmetic_s = window_bound_s(shape, 256, 1e12, 1e30)
    assert arithmetic_s == pytest.approx(2.4, rel=0.1), "some 2.4 TFLOP, of which 1.9 are the encoder's weights"
    assert window_bound_s(shape, 256, 1e30, 1e12) == pytest.approx(0.00062, rel=0.1), "6 MB at each token"


@pytest.mark.integration
def test_a_small_model_is_measured_from_end_to_end() -> None:
    narrow = replace(SHAPES["tiny"], head_dim=8)
    result = measure_shape("tiny", narrow, "cpu", num_windows=4, num_threads=2)
    speed = result["launches"]
    assert result["ours"] == speed["engine_x"] > 0
    assert speed["stage_x"] > 0
    assert 0 < speed["roofline_share"] < 1
    assert 0 <= speed["idle_share"] < 1
    assert result["peer"] is None
