"""Cross-talk: bleed at -15 and -23 dB is not transcribed twice, and both parties of an overlap are heard."""

import json

import numpy as np
import pytest

from spark_etl.crosstalk import suppress_crosstalk
from spark_etl.vad import CHUNK_S, speech_probabilities
from tests.spark_etl.audio_samples import SAMPLE_CALLS, Samples, call_8khz

TURNS = json.loads((SAMPLE_CALLS / "03_internet_outage.json").read_text())["turns"]


def with_bleed(gain_db: float, *, delay_ms: int = 0, colour: tuple[float, ...] = (1.0,)) -> Samples:
    pcm = call_8khz().astype(float)
    other = np.roll(pcm[::-1], delay_ms * 8, axis=1)
    other = np.stack([np.convolve(channel, colour, "same") for channel in other])
    return (pcm + other * 10 ** (gain_db / 20)).clip(-32768, 32767).astype(np.int16)


def chunks_of(channel: int, num_chunks: int, margin_s: float) -> np.ndarray:
    mask = np.zeros(num_chunks, bool)
    for turn in TURNS:
        if turn["channel"] == channel:
            start, end = turn["start_s"] - margin_s, turn["end_s"] + margin_s
            mask[max(0, int(start / CHUNK_S)) : int(end / CHUNK_S)] = True
    return mask


@pytest.mark.parametrize(
    "bleed",
    [{"gain_db": -15}, {"gain_db": -23}, {"gain_db": -15, "delay_ms": 15, "colour": (0.3, 0.5, 0.2)}],
    ids=["-15 dB", "-23 dB", "-15 dB, delayed and coloured"],
)
def test_bleed_is_silenced_and_the_voices_are_not(bleed):
    pcm = with_bleed(**bleed)
    before = speech_probabilities(list(pcm), 8000)
    after = suppress_crosstalk(pcm, before, 8000, 0.5)
    for channel in (0, 1):
        num_chunks = len(after[channel])
        own = chunks_of(channel, num_chunks, 0.0)
        only_other = chunks_of(1 - channel, num_chunks, 0.0) & ~chunks_of(channel, num_chunks, 0.3)
        assert np.mean(before[channel][only_other] > 0.5) > 0.5, "else there was nothing to silence"
        assert np.mean(after[channel][only_other] > 0.5) < 0.06
        assert np.sum(after[channel][own] > 0.5) > 0.96 * np.sum(before[channel][own] > 0.5)


@pytest.mark.parametrize("gain_db", [-15, -23])
def test_overlap_survives(gain_db):
    """The customer talks for seconds while the agent does, each bleeding into the other."""
    clean = call_8khz()
    pcm = np.stack([clean[0], np.roll(clean[1], int(-4.0 * 8000))])
    mixed = (pcm + pcm[::-1] * 10 ** (gain_db / 20)).astype(np.int16)
    alone = speech_probabilities(list(pcm), 8000)
    heard = suppress_crosstalk(mixed, speech_probabilities(list(mixed), 8000), 8000, 0.5)
    overlap = (alone[0] > 0.5) & (alone[1] > 0.5)
    assert overlap.sum() * CHUNK_S > 5
    for channel in (0, 1):
        assert np.mean(heard[channel][overlap] > 0.5) > 0.85


def test_a_clean_call_is_left_as_it_is():
    before = speech_probabilities(list(call_8khz()), 8000)
    after = suppress_crosstalk(call_8khz(), before, 8000, 0.5)
    for one, other in zip(before, after, strict=True):
        assert np.mean((one > 0.5) != (other > 0.5)) < 0.002


def test_a_quiet_voice_of_its_own_is_kept():
    pcm = call_8khz().astype(float)
    pcm[1] = np.roll(pcm[1], int(-4.0 * 8000)) * 10 ** (-18 / 20)
    pcm = pcm.astype(np.int16)
    before = speech_probabilities(list(pcm), 8000)
    after = suppress_crosstalk(pcm, before, 8000, 0.5)
    assert np.sum(after[1] > 0.5) > 0.98 * np.sum(before[1] > 0.5)


def test_mono_has_nobody_to_bleed():
    pcm = call_8khz()[:1]
    [before] = speech_probabilities(list(pcm), 8000)
    [after] = suppress_crosstalk(pcm, [before], 8000, 0.5)
    assert np.array_equal(before, after)
