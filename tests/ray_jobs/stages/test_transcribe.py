"""Speech packed into windows, words back on the call's clock, one outcome per call whatever the engine does."""

import json
import wave
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_normalizer.english import EnglishTextNormalizer

from ray_jobs.engines.asr import MAX_WINDOW_S, Segment, Window, WindowText, WindowWord
from ray_jobs.engines.load_asr import load_asr
from ray_jobs.errors import ModelError
from ray_jobs.records import CallAudio, Failure, Outcome, Span, Transcript, outcomes_to_table, table_to_outcomes
from ray_jobs.spec import AsrSpec, ChannelSpec
from ray_jobs.stages.transcribe import transcribe
from tests.ray_jobs.engines.fake_asr import GERMAN, POISON, FakeAsr
from tests.ray_jobs.stages.spoken import RATE_HZ, a_call, a_word, calls

SAMPLES = Path(__file__).parents[2] / "data" / "sample_calls"

_normalise = EnglishTextNormalizer()


def hear(engine: FakeAsr, *rows: CallAudio | Failure, language: str | None = "en") -> list[Outcome]:
    return transcribe(rows, engine, AsrSpec(language=language), ChannelSpec())


def lines(outcome: Outcome) -> list[tuple[str, str, float, float]]:
    assert isinstance(outcome, Transcript)
    return [(u.role, u.text, u.start_s, u.end_s) for u in outcome.utterances]


class TestDuplicates:
    def test_are_read_once_and_have_the_words_each(self) -> None:
        engine = FakeAsr()
        original = a_call((0, 1.0, a_word(1)), call_id="a")
        copy = replace(a_call(call_id="b"), duplicate_of="a", metadata={"queue": "vip"})
        first, second = hear(engine, original, copy)
        assert isinstance(second, Transcript)
        assert (second.call_id, second.uri, second.duplicate_of) == ("b", "b.wav", "a")
        assert second.metadata == {"queue": "vip"}
        assert lines(second) == lines(first) == [("agent", "w1", 1.0, 1.5)]

    def test_fail_as_their_original_does(self) -> None:
        copy = replace(a_call(call_id="b"), duplicate_of="a")
        outcomes = hear(FakeAsr(), a_call((0, 1.0, [POISON] * 50), call_id="a"), copy)
        assert [(o.call_id, o.code, o.duplicate_of) for o in outcomes if isinstance(o, Failure)] == [
            ("a", "asr_error", None),
            ("b", "asr_error", "a"),
        ]


class TestWords:
    def test_speech_of_ten_calls_never_shares_a_window(self) -> None:
        engine = FakeAsr()
        outcomes = hear(engine, *(a_call((0, 1.0, a_word(n + 1)), call_id=str(n)) for n in range(10)))
        assert [outcome.call_id for outcome in outcomes] == [str(n) for n in range(10)]
        assert [lines(outcome)[0][1] for outcome in outcomes] == [f"w{n + 1}" for n in range(10)]
        assert engine.num_batches == 1

    @settings(deadline=None)
    @given(calls())
    def test_come_back_at_the_time_they_were_said(self, call: CallAudio) -> None:
        (outcome,) = hear(FakeAsr(), call)
        if not call.spans:
            assert isinstance(outcome, Failure)
            return
        assert isinstance(outcome, Transcript)
        said = {(w.text, u.channel): (w.start_s, w.end_s) for u in outcome.utterances for w in u.words}
        for number, span in enumerate(call.spans, start=1):
            if span.num_samples <= MAX_WINDOW_S * RATE_HZ:
                end_sample = span.start_sample + span.num_samples
                assert said[f"w{number}", span.channel] == (span.start_sample / RATE_HZ, end_sample / RATE_HZ)

    def test_of_both_channels_are_merged_in_time_order(self) -> None:
        call = a_call((0, 1.0, a_word(1)), (0, 9.0, a_word(2)), (1, 5.0, a_word(3)))
        assert lines(*hear(FakeAsr(), call)) == [
            ("agent", "w1", 1.0, 1.5),
            ("customer", "w3", 5.0, 5.5),
            ("agent", "w2", 9.0, 9.5),
        ]

    @settings(deadline=None)
    @given(calls(), st.lists(st.tuples(st.floats(0, 40), st.floats(0, 40)), min_size=1, max_size=30))
    def test_stay_in_order_and_inside_the_call_whatever_times_the_model_gives(
        self, call: CallAudio, times_s: list[tuple[float, float]]
    ) -> None:
        class Careless(FakeAsr):
            def transcribe(self, windows: Sequence[Window]) -> list[WindowText]:
                return [a_text([(f"w{i}", min(pair), max(pair)) for i, pair in enumerate(times_s)])] * len(windows)

        for outcome in hear(Careless(), call):
            utterances = outcome.utterances if isinstance(outcome, Transcript) else ()
            assert [u.start_s for u in utterances] == sorted(u.start_s for u in utterances)
            for utterance in utterances:
                times = [at for word in utterance.words for at in (word.start_s, word.end_s)]
                assert 0 <= utterance.start_s <= utterance.end_s <= round(call.duration_s, 3)
                assert all(word.start_s <= word.end_s for word in utterance.words)
                assert min(times) >= 0
                assert max(times) <= round(call.duration_s, 3)

    def test_that_spill_over_a_join_belong_to_the_span_that_holds_most_of_them(self) -> None:
        class Drifting(FakeAsr):
            def transcribe(self, windows: Sequence[Window]) -> list[WindowText]:
                return [a_text([("one", 0.0, 1.2), ("two", 0.9, 2.6)])]

        call = a_call((0, 10.0, a_word(1, 1.0)), (0, 20.0, a_word(2, 1.0)))
        assert lines(*hear(Drifting(), call)) == [("agent", "one", 10.0, 11.0), ("agent", "two", 20.0, 21.0)]


VOCABULARY = {1: "Hello", 2: "there.", 3: "Bye."}


class TestUtterances:
    def test_go_on_over_a_short_break_in_mid_sentence(self) -> None:
        call = a_call((0, 1.0, a_word(1)), (0, 1.8, a_word(2)))
        assert lines(*hear(FakeAsr(VOCABULARY), call)) == [("agent", "Hello there.", 1.0, 2.3)]

    def test_end_where_a_short_pause_ends_a_sentence(self) -> None:
        call = a_call((0, 1.0, a_word(2)), (0, 1.8, a_word(3)))
        assert [text for _, text, _, _ in lines(*hear(FakeAsr(VOCABULARY), call))] == ["there.", "Bye."]

    def test_end_at_a_long_pause_inside_a_span(self) -> None:
        call = a_call((0, 1.0, [*a_word(1), *a_word(0, 0.6), *a_word(2)]))
        assert [text for _, text, _, _ in lines(*hear(FakeAsr(VOCABULARY), call))] == ["Hello", "there."]

    def test_carry_the_model_s_confidence_and_the_channel_s_role(self) -> None:
        (outcome,) = hear(FakeAsr(), a_call((0, 0.0, a_word(1)), num_channels=1))
        assert isinstance(outcome, Transcript)
        (utterance,) = outcome.utterances
        assert (utterance.role, utterance.avg_logprob, utterance.no_speech_prob) == ("mixed", -0.5, 0.25)
        assert (outcome.asr_model, outcome.redacted, outcome.speech_s) == ("fake", False, 0.5)

    def test_say_where_a_loop_was_cut(self) -> None:
        class Looping(FakeAsr):
            def transcribe(self, windows: Sequence[Window]) -> list[WindowText]:
                texts = super().transcribe(windows)
                return [replace(t, segments=tuple(replace(s, repetition_cut=True) for s in t.segments)) for t in texts]

        call = a_call((0, 0.0, a_word(1)))
        for engine, expected in ((FakeAsr(), False), (Looping(), True)):
            outcomes = table_to_outcomes(outcomes_to_table(hear(engine, call)))
            assert [u.repetition_cut for o in outcomes if isinstance(o, Transcript) for u in o.utterances] == [expected]


class TestLanguage:
    def test_of_the_call_is_that_of_most_of_its_speech(self) -> None:
        call = a_call((0, 0.0, a_word(GERMAN, 4.0)), (1, 5.0, a_word(1, 5.0)))
        (outcome,) = hear(FakeAsr(), call, language=None)
        assert isinstance(outcome, Transcript)
        assert outcome.language == "en"
        assert [u.language for u in outcome.utterances] == ["de", "en"]

    def test_of_a_channel_is_one_and_windows_taken_for_another_are_read_again(self) -> None:
        engine = FakeAsr()
        german, english = a_word(GERMAN, 25.0), a_word(1, 20.0)
        call = a_call((0, 0.0, german), (0, 30.0, english), (0, 60.0, german), (1, 0.0, a_word(2)))
        (outcome,) = hear(engine, call, language=None)
        assert isinstance(outcome, Transcript)
        assert [(u.channel, u.language) for u in outcome.utterances] == [(1, "en"), (0, "de"), (0, "de"), (0, "de")]
        assert engine.num_batches == 2

    def test_that_was_told_is_not_looked_for(self) -> None:
        engine = FakeAsr()
        hear(engine, a_call((0, 0.0, a_word(GERMAN, 25.0)), (0, 30.0, a_word(1, 25.0))), language="en")
        assert engine.num_batches == 1

    def test_without_blanks_between_words_gets_none(self) -> None:
        (outcome,) = hear(FakeAsr({1: "你", 2: "好"}), a_call((0, 0.0, [*a_word(1), *a_word(2)])), language="zh")
        assert lines(outcome)[0][1] == "你好"


class TestFailures:
    failed = Failure(call_id="f", uri="f.wav", code="empty", stage="etl", reason="no samples")

    def test_of_etl_pass_through_in_their_place(self) -> None:
        outcomes = hear(FakeAsr(), a_call((0, 0.0, a_word(1))), self.failed, a_call((0, 0.0, a_word(2)), call_id="b"))
        assert outcomes[1] is self.failed
        assert [outcome.call_id for outcome in outcomes] == ["a", "f", "b"]

    def test_only_do_not_trouble_the_engine(self) -> None:
        assert hear(FakeAsr(broken=True), self.failed) == [self.failed]

    def test_no_words_in_a_call_is_no_speech(self) -> None:
        (outcome,) = hear(FakeAsr(), a_call((0, 0.0, [-7] * 50)))
        assert isinstance(outcome, Failure)
        assert (outcome.code, outcome.stage) == ("no_speech", "asr")
        assert "0.5 s" in outcome.reason

    def test_one_call_the_engine_raises_on_leaves_its_neighbours_alone(self) -> None:
        engine = FakeAsr()
        good, bad = a_call((0, 0.0, a_word(1))), a_call((0, 0.0, [POISON]), call_id="bad")
        first, second, third = hear(engine, good, bad, a_call((0, 0.0, a_word(2)), call_id="c"))
        assert isinstance(second, Failure)
        assert (second.code, second.stage, second.call_id) == ("asr_error", "asr", "bad")
        assert second.reason == "RuntimeError: the fake engine was asked to fail"
        assert lines(first) == lines(*hear(FakeAsr(), good))
        assert isinstance(third, Transcript)
        assert engine.num_batches == 1 + 3

    def test_of_the_only_call_are_still_that_call_s_where_the_engine_lives(self) -> None:
        (outcome,) = hear(FakeAsr(), a_call((0, 0.0, [POISON])))
        assert isinstance(outcome, Failure)
        assert outcome.code == "asr_error"

    def test_of_a_dead_engine_are_the_caller_s(self) -> None:
        with pytest.raises(RuntimeError, match="asked to fail"):
            hear(FakeAsr(broken=True), a_call((0, 0.0, a_word(1))), a_call((0, 0.0, a_word(2)), call_id="b"))

    def test_of_the_run_are_not_tried_again(self) -> None:
        class Lost(FakeAsr):
            def transcribe(self, windows: Sequence[Window]) -> list[WindowText]:
                self.num_batches += 1
                raise ModelError("the weights are gone")

        engine = Lost()
        with pytest.raises(ModelError):
            hear(engine, a_call((0, 0.0, a_word(1))), a_call((0, 0.0, a_word(2)), call_id="b"))
        assert engine.num_batches == 1

    def test_an_engine_that_answers_too_little_is_not_believed(self) -> None:
        class Short(FakeAsr):
            def transcribe(self, windows: Sequence[Window]) -> list[WindowText]:
                return super().transcribe(windows[:1])

        call = a_call((0, 0.0, a_word(1)), (1, 0.0, a_word(2)))
        (outcome,) = hear(Short(), call)
        assert isinstance(outcome, Failure)
        assert "1 results for 2 windows" in outcome.reason


def a_text(words: Sequence[tuple[str, float, float]]) -> WindowText:
    timed = tuple(WindowWord(text=text, start_s=start, end_s=end, probability=1.0) for text, start, end in words)
    segment = Segment(text="", start_s=0.0, end_s=30.0, avg_logprob=0.0, no_speech_prob=0.0, words=timed)
    return WindowText(language="en", segments=(segment,))


@pytest.mark.integration
def test_a_real_call_is_read_right_and_on_time() -> None:
    name = SAMPLES / "03_internet_outage"
    turns = json.loads(name.with_suffix(".json").read_text())["turns"]
    call = cut_to_turns(name.with_suffix(".wav"), turns)
    asr = AsrSpec()
    (outcome,) = transcribe([call], load_asr(asr, num_threads=2), asr, ChannelSpec())
    assert isinstance(outcome, Transcript)
    said, heard = (
        [_normalise(" ".join(texts)) for texts in by_channel]
        for by_channel in (
            [[turn["text"] for turn in turns if turn["channel"] == channel] for channel in (0, 1)],
            [[u.text for u in outcome.utterances if u.channel == channel] for channel in (0, 1)],
        )
    )
    assert jiwer.wer(said, heard) < 0.1
    for turn in turns:
        nearest_s = min(abs(u.start_s - turn["start_s"]) for u in outcome.utterances if u.channel == turn["channel"])
        assert nearest_s < 0.3
    assert [u.role for u in outcome.utterances[:3]] == ["agent", "agent", "customer"]


def cut_to_turns(path: Path, turns: Sequence[dict[str, Any]]) -> CallAudio:
    """The call as ETL would hand it over, its spans 0.2 s wider than the reference's turns."""
    with wave.open(str(path)) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
        rate_hz = file.getframerate()
    spans, speech = [], []
    for turn in sorted(turns, key=lambda turn: (turn["channel"], turn["start_s"])):
        start, end = round((turn["start_s"] - 0.2) * rate_hz), round((turn["end_s"] + 0.2) * rate_hz)
        speech.append(pcm[start:end, turn["channel"]])
        spans.append(Span(channel=turn["channel"], start_sample=start, num_samples=len(speech[-1])))
    return CallAudio(
        call_id=path.stem,
        uri=path.name,
        duration_s=len(pcm) / rate_hz,
        sample_rate_hz=rate_hz,
        num_channels=2,
        spans=tuple(spans),
        pcm=np.concatenate(speech).tobytes(),
    )
