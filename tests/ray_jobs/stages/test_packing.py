"""Packing: every sample once, windows that fit, few of them."""

import math
import random
from itertools import pairwise

import numpy as np
from hypothesis import given, settings

from ray_jobs.engines.asr import MAX_WINDOW_S
from ray_jobs.records import CallAudio
from ray_jobs.stages.packing import MAX_JOIN_S, MIN_JOIN_S, pack
from tests.ray_jobs.stages.spoken import RATE_HZ, a_call, calls


@settings(deadline=None)
@given(calls())
def test_every_sample_of_speech_is_in_exactly_one_window_and_knows_its_place(call: CallAudio) -> None:
    track = np.zeros((2, round(call.duration_s * RATE_HZ)), np.int16)
    for span, samples in call.iter_speech():
        track[span.channel, span.start_sample : span.start_sample + span.num_samples] = samples
    for packed in pack(call, "en"):
        silence = packed.window.pcm.copy()
        for piece in packed.pieces:
            inside = slice(piece.window_start, piece.window_start + piece.num_samples)
            source = track[packed.channel, piece.call_start : piece.call_start + piece.num_samples]
            np.testing.assert_array_equal(packed.window.pcm[inside], source)
            assert source.all(), "taken twice"
            source[:] = 0
            silence[inside] = 0
        assert not silence.any()
    assert not track.any(), "left out"


@settings(deadline=None)
@given(calls())
def test_windows_fit_the_engine_and_keep_spans_apart(call: CallAudio) -> None:
    for packed in pack(call, "en"):
        assert 0 < len(packed.window.pcm) <= MAX_WINDOW_S * RATE_HZ
        for before, after in pairwise(packed.pieces):
            assert after.call_start >= before.call_start + before.num_samples
            pause = after.call_start - before.call_start - before.num_samples
            join = after.window_start - before.window_start - before.num_samples
            assert min(pause, round(MIN_JOIN_S * RATE_HZ)) <= join <= min(pause, round(MAX_JOIN_S * RATE_HZ))


def test_long_channels_are_packed_within_two_points_of_the_optimum() -> None:
    dice = random.Random(0)
    speech_s, num_windows, num_best = 0.0, 0, 0
    for _ in range(10):
        lengths_s = [dice.uniform(0.7, 8.0) for _ in range(140)]
        call = a_call(*((0, 10.0 * i, [1] * round(s * RATE_HZ)) for i, s in enumerate(lengths_s)), duration_s=1500.0)
        speech_s += call.speech_s
        num_windows += len(pack(call, "en"))
        num_best += math.ceil(call.speech_s / MAX_WINDOW_S)  # no joins, and spans cut at will
    padding, least_padding = (1 - speech_s / (num * MAX_WINDOW_S) for num in (num_windows, num_best))
    assert padding - least_padding < 0.02


def test_time_order_is_kept_where_it_costs_no_window() -> None:
    call = a_call(*((0, 10.0 * i, [i + 1] * 800) for i in range(5)))
    assert starts(call) == [[0, 1000, 2000], [3000, 4000]]


def test_a_short_span_fills_an_early_window_where_that_saves_one() -> None:
    lengths_s = [20.0, 20.0, 9.0, 9.0]
    call = a_call(*((0, 30.0 * i, [i + 1] * round(s * RATE_HZ)) for i, s in enumerate(lengths_s)))
    assert starts(call) == [[0, 6000], [3000, 9000]]


def test_silence_around_the_speech_of_a_span_is_known() -> None:
    quiet, loud = [1, -1] * 10, [3000, -3000] * 20
    (packed,) = pack(a_call((0, 0.0, [*quiet, *loud, *quiet])), "en")
    assert [(piece.sound_start, piece.sound_end) for piece in packed.pieces] == [(20, 60)]


def test_even_sound_is_sound_from_end_to_end() -> None:
    (packed,) = pack(a_call((0, 0.0, [5] * 37)), "en")
    assert [(piece.sound_start, piece.sound_end) for piece in packed.pieces] == [(0, 37)]


def test_no_speech_is_no_window() -> None:
    assert pack(a_call(), "en") == []


def starts(call: CallAudio) -> list[list[int]]:
    return [[piece.call_start for piece in packed.pieces] for packed in pack(call, "en")]
