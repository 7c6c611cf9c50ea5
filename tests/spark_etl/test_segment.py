"""Cutting: spans hold all speech, keep the spec's limits, never overlap, and break where it is quiet."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ray_jobs.spec import VadSpec
from spark_etl.decode import Block
from spark_etl.segment import SECTION_S, cut_sections, find_stretches

RATE = 8000
CHUNK = 256


def stretches(values: np.ndarray, vad: VadSpec, samples: np.ndarray | None = None) -> list[tuple[int, int]]:
    samples = np.zeros(len(values) * CHUNK, np.int16) if samples is None else samples
    return [(s.start, s.end) for s in find_stretches(values, samples, RATE, vad)]


def probabilities(*runs: tuple[int, float]) -> np.ndarray:
    return np.concatenate([np.full(count, value, np.float32) for count, value in runs])


def test_a_run_of_speech_is_padded_on_both_sides():
    values = probabilities((50, 0.0), (20, 0.9), (50, 0.0))
    assert stretches(values, VadSpec(pad_ms=100)) == [(50 * CHUNK - 800, 70 * CHUNK + 800)]


def test_padding_stays_inside_the_channel():
    values = probabilities((20, 0.9))
    assert stretches(values, VadSpec()) == [(0, 20 * CHUNK)]


def test_short_speech_is_dropped_and_short_silence_bridged():
    blip = probabilities((50, 0.0), (7, 0.9), (50, 0.0))
    assert stretches(blip, VadSpec(min_speech_ms=250)) == []
    pause = probabilities((50, 0.0), (20, 0.9), (8, 0.0), (20, 0.9), (50, 0.0))
    assert len(stretches(pause, VadSpec(min_silence_ms=300, pad_ms=0))) == 1
    assert len(stretches(pause, VadSpec(min_silence_ms=200, pad_ms=0))) == 2


def test_pads_that_touch_join_their_spans():
    pause = probabilities((50, 0.0), (20, 0.9), (12, 0.0), (20, 0.9), (50, 0.0))
    assert len(stretches(pause, VadSpec(pad_ms=100))) == 2
    assert len(stretches(pause, VadSpec(pad_ms=200))) == 1


def test_speech_goes_on_a_little_below_the_threshold_but_does_not_start_there():
    values = probabilities((50, 0.4), (20, 0.9), (20, 0.4), (50, 0.0))
    assert stretches(values, VadSpec(pad_ms=0)) == [(50 * CHUNK, 90 * CHUNK)]


def test_long_speech_is_cut_where_it_is_quietest():
    samples = np.random.default_rng(0).normal(0, 1000, 60 * RATE).astype(np.int16)
    for quiet_s in (9, 17):
        samples[quiet_s * RATE : quiet_s * RATE + RATE // 5] = 1
    cuts = stretches(np.ones(len(samples) // CHUNK, np.float32), VadSpec(max_speech_s=10.0, pad_ms=0), samples)
    assert 9.0 * RATE <= cuts[0][1] <= 9.2 * RATE
    assert 17.0 * RATE <= cuts[1][1] <= 17.2 * RATE


@settings(deadline=None)
@given(
    values=arrays(np.float32, st.integers(0, 400), elements=st.sampled_from([0.0, 0.1, 0.4, 0.5, 0.9, 1.0])),
    vad=st.builds(
        VadSpec,
        threshold=st.sampled_from([0.1, 0.5, 0.9]),
        min_speech_ms=st.integers(1, 500),
        min_silence_ms=st.integers(1, 1000),
        pad_ms=st.integers(0, 500),
        max_speech_s=st.sampled_from([1.5, 5.0, 28.0]),
    ),
)
def test_whatever_the_probabilities(values, vad):
    samples = np.random.default_rng(0).normal(0, 100, len(values) * CHUNK).astype(np.int16)
    found = stretches(values, vad, samples)
    assert all(0 <= start < end <= len(samples) for start, end in found)
    assert all(end - start <= vad.max_speech_s * RATE for start, end in found)
    assert all(end <= start for (_, end), (start, _) in pairwise(found))
    covered = np.zeros(len(samples), bool)
    for start, end in found:
        covered[start:end] = True
    run = max(1, -(-vad.min_speech_ms // 32)) + 1  # a sure run of that many chunks is never lost
    sure = np.convolve(values >= vad.threshold, np.ones(run), "valid") == run if len(values) >= run else []
    for first in np.flatnonzero(sure):
        assert covered[first * CHUNK : (first + run) * CHUNK].all()


def test_sections_hold_every_sample_once_and_are_cut_in_the_quiet():
    rng = np.random.default_rng(0)
    pcm = rng.normal(0, 1000, (2, int(2.5 * SECTION_S) * 100)).astype(np.int16)
    quiet = int((SECTION_S - 12) * 100)
    pcm[:, quiet : quiet + 50] = 0
    blocks = [Block(sample_rate_hz=100, pcm=part) for part in np.array_split(pcm, 30, axis=1)]
    sections = list(cut_sections(blocks))
    assert np.array_equal(np.concatenate([section.pcm for section in sections], axis=1), pcm)
    assert all(section.pcm.shape[1] <= SECTION_S * 100 for section in sections)
    assert quiet <= sections[1].start_sample <= quiet + 50
    starts = np.cumsum([0, *(section.pcm.shape[1] for section in sections[:-1])])
    assert [section.start_sample for section in sections] == starts.tolist()
