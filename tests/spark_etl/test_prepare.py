"""A partition's calls become one row each, in order: speech, or a failure that says why there is none."""

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ray_jobs.errors import CallError
from ray_jobs.records import FAILURE_CODES, Call, CallAudio, Failure, Part, audio_to_table, table_to_audio
from ray_jobs.spec import EtlSpec
from spark_etl import helper, prepare, segment
from spark_etl.prepare import prepare_partition
from spark_etl.recording import Recording
from tests.spark_etl.audio_samples import SAMPLE_CALLS, call_8khz, encoded, noise, speech, wav

ETL = EtlSpec()


def prepared(
    files: dict[str, bytes | CallError], etl: EtlSpec = ETL, calls: Sequence[Call] = ()
) -> dict[str, CallAudio | Failure]:
    """The rows of a partition of these files, which hold bytes or cannot be read: a call each, none suspected to be
    another's duplicate, unless `calls` are given.
    """

    def read(part: Part, shown: str) -> Recording:
        content = files[part.uri.removeprefix("/calls/")]
        if isinstance(content, CallError):
            raise content
        return Recording.holding(content)

    calls = calls or [replace(call(name), size_bytes=number) for number, name in enumerate(files)]
    rows = prepare_partition(calls, etl, read)
    assert [row.call_id for row in rows] == [call.call_id for call in calls]
    assert table_to_audio(audio_to_table(rows)) == rows
    return {row.call_id: row for row in rows}


def call(name: str) -> Call:
    uri = f"/calls/{name}"
    return Call(call_id=name, uri=uri, source=uri, size_bytes=1, version="1", expected_speech_s=1.0)


def audio(row: CallAudio | Failure) -> CallAudio:
    assert isinstance(row, CallAudio), row
    return row


def code(row: CallAudio | Failure) -> str:
    assert isinstance(row, Failure), row
    assert row.stage == "etl"
    assert row.code in FAILURE_CODES
    assert row.reason
    assert "\n" not in row.reason
    return row.code


def sample_files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(SAMPLE_CALLS.glob("0*")) if path.suffix != ".json"}


def test_the_sample_calls_keep_their_speech_and_lose_their_silence():
    rows = prepared(sample_files())
    assert len(rows) == 8
    for name, row in rows.items():
        kept = audio(row).speech_s / (row.duration_s * row.num_channels)
        assert kept < 0.55 or row.num_channels == 1, name
        assert {span.channel for span in row.spans} == ({0} if name.startswith(("06", "07")) else {0, 1})


def test_spans_hold_the_recordings_own_samples_in_order():
    row = audio(prepared({"call": wav(call_8khz())})["call"])
    assert (row.sample_rate_hz, row.num_channels) == (8000, 2)
    assert row.duration_s == call_8khz().shape[1] / 8000
    places = [(span.channel, span.start_sample) for span in row.spans]
    assert places == sorted(places)
    for span, samples in row.iter_speech():
        expected = call_8khz()[span.channel, span.start_sample : span.start_sample + span.num_samples]
        assert np.array_equal(samples, expected)
        assert span.num_samples <= ETL.vad.max_speech_s * 8000


def test_every_bad_call_fails_by_itself_and_the_good_ones_between_do_not():
    good = wav(speech(4.0))
    wide = np.zeros((6, 96_000), np.int16)
    wide[2] = speech(2.0, sample_rate_hz=48_000)[0]
    rows = prepared(
        {
            "first": good,
            "zero-byte": b"",
            "text": b"not audio at all\n" * 50,
            "cut": good[: len(good) // 2],
            "lying": wav(speech(4.0), data_size=10**9),
            "silent": wav(noise(5.0, num_channels=2)),
            "half-silent": wav(np.concatenate([speech(4.0), noise(4.0)])),
            "six-channels": wav(wide, 48_000),
            "nine-channels": wav(noise(1.0, num_channels=9)),
            "gone": CallError("vanished", "deleted after it was listed"),
            "forbidden": CallError("access_denied", "no right to read it"),
            "flac": encoded("flac"),
            "half-flac": encoded("flac")[:20_000],
            "last": good,
        }
    )
    failures = {name: code(row) for name, row in rows.items() if isinstance(row, Failure)}
    assert failures == {
        "zero-byte": "empty",
        "text": "unreadable",
        "cut": "truncated",
        "lying": "truncated",
        "silent": "no_speech",
        "nine-channels": "unsupported_codec",
        "gone": "vanished",
        "forbidden": "access_denied",
        "half-flac": "truncated",
    }
    assert {span.channel for span in audio(rows["half-silent"]).spans} == {0}
    assert {span.channel for span in audio(rows["six-channels"]).spans} == {2}
    assert audio(rows["six-channels"]).sample_rate_hz == 16_000
    assert audio(rows["first"]).pcm == audio(rows["last"]).pcm


def test_a_call_beyond_the_limit_is_too_long():
    rows = prepared({"long": wav(speech(6.0)), "short": wav(speech(4.0))}, EtlSpec(max_call_s=5.0))
    assert code(rows["long"]) == "too_long"
    assert audio(rows["short"])


@pytest.mark.parametrize(
    ("program", "expected"),
    [("import os; os.abort()", "decoder_crashed"), ("import time; time.sleep(600)", "timeout")],
)
def test_a_decoder_that_crashes_or_hangs_takes_no_other_call_with_it(monkeypatch, program, expected):
    poisonous = encoded("mp3", 2.0)
    monkeypatch.setattr(helper, "_SERVE", serve_but(poisonous, program))
    etl = EtlSpec(file_timeout_s=5.0)
    rows = prepared({"a": encoded("flac"), "b": poisonous, "c": encoded("opus"), "d": wav(speech(4.0))}, etl)
    assert code(rows["b"]) == expected
    assert all(audio(rows[name]) for name in "acd")


def serve_but(poison: bytes, program: str) -> str:
    """The helper's program with a bug that one recording triggers."""
    return f"""
import spark_etl.helper as helper
answer = helper._answer
def poisoned(data, max_s, answers):
    if data.size_bytes == {len(poison)}:
        {program}
    answer(data, max_s, answers)
helper._answer = poisoned
helper.serve()
"""


def hours(num_repeats: int) -> bytes:
    """Call 03 over and over, as mu-law."""
    return wav(np.tile(call_8khz(), num_repeats), format_tag=7, bits=8)


def test_a_long_call_is_the_same_in_sections(monkeypatch):
    whole = audio(prepared({"call": hours(4)})["call"])
    monkeypatch.setattr(segment, "SECTION_S", 60.0)
    parts = audio(prepared({"call": hours(4)})["call"])
    assert parts.duration_s == whole.duration_s
    covered = [coverage(row) for row in (whole, parts)]
    assert np.mean(covered[0] == covered[1]) > 0.98


def coverage(row: CallAudio) -> np.ndarray:
    mask = np.zeros((row.num_channels, int(row.duration_s * 100) + 1), bool)
    for span in row.spans:
        ends = span.start_sample, span.start_sample + span.num_samples
        mask[span.channel, slice(*(position * 100 // row.sample_rate_hz for position in ends))] = True
    return mask


def test_what_waits_for_the_vad_is_bounded_however_long_the_calls(monkeypatch):
    monkeypatch.setattr(segment, "SECTION_S", 60.0)
    monkeypatch.setattr(prepare, "BATCH_BYTES", 4 << 20)
    waiting = []
    find_speech = prepare._find_speech

    def watched(batch, vad):
        waiting.append(sum(section.pcm.nbytes for _, section in batch))
        find_speech(batch, vad)

    monkeypatch.setattr(prepare, "_find_speech", watched)
    data = hours(6)
    prepared({"long": data, "short": wav(speech(4.0)), "again": data})
    one_section = 60 * 8000 * 2 * 2
    assert max(waiting) < prepare.BATCH_BYTES + one_section
    assert sum(waiting) == 2 * 2 * (len(data) - 44) + speech(4.0).nbytes


def pair(agent: str = "agent.wav", customer: str = "customer.wav") -> Call:
    """A call whose parties were recorded in files of their own."""
    parts = (
        Part(uri=f"/calls/{agent}", version="1", roles=("agent",)),
        Part(uri=f"/calls/{customer}", version="2", roles=("customer",)),
    )
    return replace(call("pair"), parts=parts)


class TestParts:
    def test_two_mono_files_are_prepared_as_the_stereo_call_they_were(self):
        stereo = call_8khz()
        files = {"both": wav(stereo), "agent.wav": wav(stereo[:1]), "customer.wav": wav(stereo[1:])}
        rows = prepared(files, calls=[call("both"), pair()])
        both, parts = audio(rows["both"]), audio(rows["pair"])
        assert (parts.pcm, parts.spans, parts.num_channels) == (both.pcm, both.spans, 2)
        assert (parts.roles, both.roles) == (("agent", "customer"), ())

    def test_parts_of_other_lengths_formats_and_rates_start_together(self):
        files = {"agent.wav": wav(speech(8.0)), "customer.wav": encoded("flac", 4.0)}
        row = audio(prepared(files, calls=[pair()])["pair"])
        assert (row.sample_rate_hz, row.num_channels) == (16_000, 2)
        assert row.duration_s == pytest.approx(8.0, abs=0.01)
        starts = [next(s.start_sample for s in row.spans if s.channel == channel) for channel in (0, 1)]
        assert abs(starts[0] - starts[1]) < 0.05 * 16_000

    def test_two_parts_that_need_ffmpeg_are_decoded_side_by_side(self):
        files = {"agent.mp3": encoded("mp3", 35.0), "customer.opus": encoded("opus", 35.0)}
        row = audio(prepared(files, calls=[pair("agent.mp3", "customer.opus")])["pair"])
        assert {span.channel for span in row.spans} == {0, 1}

    def test_bleed_between_the_parts_is_suppressed_as_in_stereo(self):
        clean = call_8khz().astype(float)
        bled = (clean + clean[::-1] * 10 ** (-15 / 20)).astype(np.int16)
        files = {"agent.wav": wav(bled[:1]), "customer.wav": wav(bled[1:]), "clean": wav(call_8khz())}
        rows = prepared(files, calls=[pair(), call("clean"), call("agent.wav"), call("customer.wav")])
        speech_s = {name: audio(row).speech_s for name, row in rows.items()}
        assert speech_s["agent.wav"] + speech_s["customer.wav"] > 1.3 * speech_s["clean"], "else nothing bled"
        assert speech_s["pair"] < 1.1 * speech_s["clean"]

    @pytest.mark.parametrize(
        ("content", "expected"),
        [(b"", "empty"), (b"no audio\n" * 99, "unreadable"), (CallError("vanished", "it is gone"), "vanished")],
    )
    def test_a_broken_part_fails_the_call_and_is_named(self, content, expected):
        rows = prepared({"agent.wav": wav(speech(4.0)), "customer.wav": content}, calls=[pair()])
        assert code(rows["pair"]) == expected
        if not isinstance(content, CallError):
            assert rows["pair"].reason.startswith("the file of customer: ")

    def test_a_party_that_says_nothing_is_no_failure(self):
        files = {"agent.wav": wav(speech(4.0)), "customer.wav": wav(noise(4.0))}
        assert {s.channel for s in audio(prepared(files, calls=[pair()])["pair"]).spans} == {0}


def test_what_is_known_of_a_call_goes_with_it():
    known = {"language": "de", "missing_roles": ("agent",), "metadata": {"queue": "vip"}}
    calls = [replace(call("good"), **known), replace(call("bad"), **known)]
    rows = prepared({"good": wav(speech(4.0)), "bad": b""}, calls=calls)
    good, bad = audio(rows["good"]), rows["bad"]
    assert (good.language, good.missing_roles, good.metadata) == ("de", ("agent",), {"queue": "vip"})
    assert bad.metadata == {"queue": "vip"}


def test_a_recording_that_is_written_to_while_it_is_read_is_changed(monkeypatch):
    monkeypatch.setattr(Recording, "check_unchanged", lambda self: (_ for _ in ()).throw(CallError("changed", "x")))
    assert code(prepared({"a": wav(speech(4.0))})["a"]) == "changed"


def long_call(path: Path, hours: int) -> Path:
    """A stereo WAV file of that length, a minute of it speech; the rest takes no room on the disk."""
    pcm = call_8khz()[:, : 60 * 8000]
    num_bytes = hours * 3600 * 8000 * 2 * 2
    header = wav(pcm[:, :0], data_size=num_bytes)
    with path.open("wb") as file:
        file.write(header + pcm.T.tobytes())
        file.truncate(len(header) + num_bytes)
    return path


def test_six_hours_take_no_more_memory_than_one(tmp_path):
    etl = EtlSpec(max_call_s=7 * 3600.0)
    peaks = []
    for hours in (1, 6):
        path = long_call(tmp_path / f"{hours}.wav", hours)
        tracemalloc.start()
        (row,) = prepare_partition([call("long")], etl, lambda *_, path=path: Recording(path.open("rb")))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert audio(row).duration_s == hours * 3600
        assert audio(row).speech_s > 10
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < path.stat().st_size / 2


def test_nothing_in_nothing_out():
    assert prepare_partition([], ETL, no_read) == []


def no_read(part: Part, shown: str) -> Recording:
    raise AssertionError("nothing to read")


class TestDuplicates:
    """Calls of one size whose recordings hold the same bytes."""

    def test_are_decoded_once_and_keep_what_is_theirs(self):
        copy = replace(call("copy"), metadata={"queue": "vip"})
        rows = prepared({"one": wav(speech(4.0)), "copy": wav(speech(4.0))}, calls=[call("one"), copy])
        one, other = audio(rows["one"]), audio(rows["copy"])
        assert (one.duplicate_of, other.duplicate_of) == (None, "one")
        assert one.spans
        assert (other.spans, other.pcm) == ((), b"")
        assert (other.uri, other.metadata, other.duration_s) == ("/calls/copy", {"queue": "vip"}, one.duration_s)

    def test_calls_of_one_size_with_other_bytes_are_none(self):
        files = {"one": wav(speech(4.0)), "other": wav(speech(4.0)[:, ::-1])}
        rows = prepared(files, calls=[call("one"), call("other")])
        assert [audio(row).duplicate_of for row in rows.values()] == [None, None]
        assert audio(rows["other"]).spans

    @pytest.mark.parametrize(
        "reading", [{"language": "de"}, {"parts": (Part(uri="/calls/b", version="1", roles=("rx",)),)}]
    )
    def test_the_same_bytes_to_be_read_another_way_are_none(self, reading):
        data = wav(speech(4.0))
        rows = prepared({"a": data, "b": data}, calls=[call("a"), replace(call("b"), **reading)])
        assert audio(rows["b"]).duplicate_of is None
        assert audio(rows["b"]).spans

    def test_share_the_failure_to_find_speech(self):
        data = wav(noise(5.0))
        rows = prepared({"a": data, "b": data}, calls=[call("a"), call("b")])
        assert [code(row) for row in rows.values()] == ["no_speech", "no_speech"]
        assert [row.duplicate_of for row in rows.values()] == [None, "a"]

    def test_of_a_call_that_cannot_be_read_are_tried_themselves(self):
        gone = CallError("vanished", "deleted after it was listed")
        rows = prepared({"a": gone, "b": wav(speech(4.0))}, calls=[call("a"), call("b")])
        assert code(rows["a"]) == "vanished"
        assert audio(rows["b"]).duplicate_of is None
