"""vLLM's Whisper on the real weights: the words that our own engine reads, in order, near their times."""

import json
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import numpy.typing as npt
import pytest

from ray_jobs.engines import weights
from ray_jobs.engines.asr import AsrEngine, Segment, Window, WindowText
from ray_jobs.engines.load_asr import load_asr
from ray_jobs.engines.whisper_vllm import WhisperVllm
from ray_jobs.engines.whisper_weights import load_checkpoint
from ray_jobs.errors import ModelError
from ray_jobs.records import CallAudio, Span, Transcript
from ray_jobs.spec import AsrSpec, ChannelSpec
from ray_jobs.stages.transcribe import transcribe

pytestmark = pytest.mark.integration

CALL = Path(__file__).parents[2] / "data" / "sample_calls" / "03_internet_outage"
RATE_HZ = 8_000


@pytest.fixture(scope="module")
def channels() -> npt.NDArray[np.int16]:
    """The sample call that is linear PCM: int16, (2, num_samples)."""
    with wave.open(str(CALL.with_suffix(".wav"))) as file:
        return np.ascontiguousarray(np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2).T)


@pytest.fixture(scope="module")
def turns() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(CALL.with_suffix(".json").read_text())["turns"]
    return sorted(found, key=lambda turn: (turn["channel"], turn["start_s"]))


@pytest.fixture(scope="module")
def call(channels: npt.NDArray[np.int16], turns: list[dict[str, Any]]) -> CallAudio:
    """The call as the ETL would hand it over, cut at its turns."""
    spans = [
        Span(
            channel=turn["channel"],
            start_sample=round(turn["start_s"] * RATE_HZ),
            num_samples=round((turn["end_s"] - turn["start_s"]) * RATE_HZ),
        )
        for turn in turns
    ]
    speech = [channels[span.channel, span.start_sample : span.start_sample + span.num_samples] for span in spans]
    return CallAudio(
        call_id="a",
        uri="a.wav",
        duration_s=channels.shape[1] / RATE_HZ,
        sample_rate_hz=RATE_HZ,
        num_channels=2,
        spans=tuple(spans),
        pcm=np.concatenate(speech).tobytes(),
    )


@pytest.fixture(scope="module")
def engine(without_flask: None) -> AsrEngine:
    engine = load_asr(AsrSpec(engine="whisper_vllm", batch_size=4), num_threads=2)
    assert isinstance(engine, WhisperVllm)
    return engine


def read(call: CallAudio, engine: AsrEngine) -> Transcript:
    (outcome,) = transcribe([call], engine, AsrSpec(), ChannelSpec())
    assert isinstance(outcome, Transcript)
    return outcome


def said_on(channel: int, transcript: Transcript) -> str:
    words = " ".join(utterance.text for utterance in transcript.utterances if utterance.channel == channel)
    return "".join(letter for letter in words.casefold() if letter.isalnum() or letter == " ")


def test_reads_what_our_own_engine_reads(engine: AsrEngine, call: CallAudio) -> None:
    heard = read(call, engine)
    expected = read(call, load_asr(AsrSpec(engine="whisper_torch"), num_threads=2))
    for channel in (0, 1):
        assert jiwer.wer(said_on(channel, expected), said_on(channel, heard)) < 0.03


def test_words_lie_in_the_turns_they_were_said_in(
    engine: AsrEngine, call: CallAudio, turns: list[dict[str, Any]]
) -> None:
    utterances = read(call, engine).utterances
    assert [(u.channel, u.text.split()[0]) for u in utterances][:2] == [(0, "Tidewater"), (1, "Hey")]
    for utterance in utterances:
        times_s = [time_s for word in utterance.words for time_s in (word.start_s, word.end_s)]
        assert times_s == sorted(times_s)
        assert all(0 < word.probability <= 1 for word in utterance.words)
        assert any(
            turn["channel"] == utterance.channel
            and utterance.start_s == pytest.approx(turn["start_s"], abs=0.5)
            and utterance.end_s <= turn["end_s"] + 0.01
            for turn in turns
        ) or len(utterances) > len(turns)


def but_for_probabilities(heard: WindowText) -> list[Segment]:
    """vLLM's batch puts a window beside others, and the last bits of its probabilities hang on them."""
    return [
        replace(segment, avg_logprob=0.0, words=tuple(replace(word, probability=0.0) for word in segment.words))
        for segment in heard.segments
    ]


def probabilities(heard: WindowText) -> list[float]:
    return [word.probability for segment in heard.segments for word in segment.words]


def test_gives_one_result_per_window_in_order(engine: AsrEngine, channels: npt.NDArray[np.int16]) -> None:
    def a_window(pcm: npt.NDArray[np.int16], language: str | None = "en") -> Window:
        return Window(pcm=pcm, sample_rate_hz=RATE_HZ, language=language)

    before = engine.stats()
    speech, silence = channels[0, : 4 * RATE_HZ], np.zeros(2 * RATE_HZ, np.int16)
    scraps = [a_window(channels[0, :n]) for n in (800, 1)]
    heard = engine.transcribe([a_window(silence), a_window(speech), *scraps, a_window(speech, None)])
    assert len(heard) == 5
    assert heard[0].segments == ()
    assert heard[1].segments[0].text.startswith("Tidewater")
    assert but_for_probabilities(heard[1]) == but_for_probabilities(heard[4])
    assert probabilities(heard[1]) == pytest.approx(probabilities(heard[4]), abs=0.05)
    assert heard[1].segments[0].avg_logprob == pytest.approx(heard[4].segments[0].avg_logprob, abs=0.01)
    assert (heard[1].language_prob, heard[4].language) == (1.0, "en")
    assert 0.5 < heard[4].language_prob <= 1
    (segment, *_) = heard[1].segments
    assert -0.7 < segment.avg_logprob < 0
    assert 0 < segment.no_speech_prob < 0.5
    assert engine.transcribe([]) == []
    after = engine.stats()
    assert after["num_windows"] - before["num_windows"] == 5
    assert after["window_s"] - before["window_s"] == 150
    assert after["num_tokens"] > before["num_tokens"]
    assert after["load_s"] > 0


def test_a_language_the_model_lacks_is_refused_before_it_is_loaded() -> None:
    with pytest.raises(ModelError, match=r"^asr\.language xx: model whisper-base knows .*\ben\b"):
        WhisperVllm(AsrSpec(engine="whisper_vllm", language="xx"), num_threads=1)


def test_the_packaged_weights_are_converted_once_and_to_the_bit() -> None:
    ours, theirs = weights.resolve("whisper-base", "whisper_torch"), weights.resolve("whisper-base", "whisper_vllm")
    assert weights.resolve("whisper-base", "whisper_vllm") == theirs
    converted, original = load_checkpoint(theirs), load_checkpoint(ours)
    assert (converted.config, converted.alignment_heads) == (original.config, original.alignment_heads)
    assert (converted.suppressed, converted.suppressed_first) == (original.suppressed, original.suppressed_first)
    assert converted.tensors.keys() == original.tensors.keys()
    assert all(tensor.equal(original.tensors[name]) for name, tensor in converted.tensors.items())
