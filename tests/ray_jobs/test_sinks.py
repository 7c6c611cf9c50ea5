"""Commits: data before the marker, once, by one run."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ray_jobs.ledger import CallState
from ray_jobs.records import table_to_failures, table_to_transcripts
from ray_jobs.sinks import Sink
from tests.ray_jobs.outputs import a_call, a_failure, a_transcript, an_insight, commit, ledger_of, rows, spec_for


def test_outcomes_are_stored_as_given_and_named_by_the_marker(tmp_path: Path) -> None:
    spec = spec_for(tmp_path)
    partition = commit(spec, [a_transcript("a"), a_failure("b")])
    (marker,) = ledger_of(tmp_path).load_markers("transcripts")
    assert {state.call_id: state.code for state in marker.calls} == {"a": "ok", "b": "vanished"}
    transcripts, failures = (pq.read_table(tmp_path / name) for name in marker.files)
    assert table_to_transcripts(transcripts) == [a_transcript("a")]
    assert table_to_failures(failures) == [a_failure("b")]
    assert transcripts.schema.metadata[b"schema_version"] == b"2"
    assert all(partition.partition_id in name for name in marker.files)


def test_two_runs_commit_a_partition_once_and_the_loser_leaves_nothing(tmp_path: Path) -> None:
    spec = spec_for(tmp_path)
    commit(spec, [a_transcript("a", "first")], run_id="run1")
    commit(spec, [a_transcript("a", "second")], run_id="run2")
    (path,) = (tmp_path / "transcripts").glob("*.parquet")
    assert table_to_transcripts(pq.read_table(path)) == [a_transcript("a", "first")]


def test_a_repeated_commit_of_one_run_is_one_commit(tmp_path: Path) -> None:
    spec = spec_for(tmp_path)
    commit(spec, [a_transcript("a")])
    commit(spec, [a_transcript("a")])
    assert rows(tmp_path, "transcripts") == ["a"]


def test_outcomes_that_are_not_one_per_planned_call_are_not_committed(tmp_path: Path) -> None:
    from ray_jobs.ledger import Partition

    partition = Partition(partition_id="p-1", calls=(a_call("a"), a_call("b")))
    with pytest.raises(ValueError, match="outcomes do not match the planned calls"):
        Sink(spec_for(tmp_path), "run").commit_transcripts(partition, [a_transcript("a")])
    assert not ledger_of(tmp_path).load_markers("transcripts")


def test_call_files_come_with_the_last_stage_and_can_be_switched_off(tmp_path: Path) -> None:
    spec = spec_for(tmp_path / "on")
    commit(spec, [a_transcript("a")])
    assert not (tmp_path / "on" / "calls").exists(), "the analyses are still to come"
    state = CallState(call_id="a", uri="/calls/a.wav", version="1", code="ok")
    Sink(spec, "run1").commit_insights("p-1", [a_transcript("a")], [an_insight("a", "failed")], {"a": state})
    assert sorted(p.name for p in (tmp_path / "on" / "calls").iterdir()) == ["a.json", "a.srt", "a.txt", "a.vtt"]
    (marker,) = ledger_of(tmp_path / "on").load_markers("insights")
    assert [s.code for s in marker.calls] == ["task_failed"]

    off = spec_for(tmp_path / "off", llm={"engine": "none"})
    off = off.model_copy(update={"output": off.output.model_copy(update={"call_files": False})})
    commit(off, [a_transcript("a")])
    assert not (tmp_path / "off" / "calls").exists()


def test_a_call_that_fails_now_keeps_no_files_of_an_earlier_success(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, llm={"engine": "none"})
    first = commit(spec, [a_transcript("a")])
    assert list((tmp_path / "calls").iterdir())
    commit(spec, [a_failure("a")], run_id="run2", replaces=first.partition_id)
    assert not list((tmp_path / "calls").iterdir())


def test_a_call_that_fails_now_keeps_no_muted_recording_of_an_earlier_success(tmp_path: Path) -> None:
    spec = spec_for(tmp_path / "out", llm={"engine": "none"})
    (tmp_path / "muted.wav").write_bytes(b"RIFF")
    first = commit(spec, [a_transcript("a")])
    Sink(spec, "run1").write_muted("a", tmp_path / "muted.wav")
    assert (tmp_path / "out" / "muted" / "a.wav").read_bytes() == b"RIFF"
    commit(spec, [a_failure("a")], run_id="run2", replaces=first.partition_id)
    assert not list((tmp_path / "out" / "muted").iterdir())


def test_unredacted_text_has_a_prefix_of_its_own(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, redact={"mode": "store_unredacted"}, llm={"engine": "none"})
    commit(spec, [a_transcript("a")])
    assert rows(tmp_path, "unredacted/transcripts") == ["a"]
    assert not (tmp_path / "transcripts").exists()
    assert (tmp_path / "unredacted" / "calls" / "a.txt").exists()
