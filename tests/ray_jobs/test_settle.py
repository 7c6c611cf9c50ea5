"""After a run the data files hold one row per call, whatever happened before; and the recount believes the files."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ray_jobs.errors import OutputError
from ray_jobs.ledger import CallState
from ray_jobs.records import table_to_transcripts
from ray_jobs.recount import recount
from ray_jobs.settle import settle
from ray_jobs.sinks import Sink
from tests.ray_jobs.outputs import a_failure, a_transcript, an_insight, commit, ledger_of, rows, spec_for


def settled(output: Path, spec: object) -> None:
    settle(ledger_of(output), spec.fingerprints()["redact"])  # type: ignore[attr-defined]


def test_a_retried_call_leaves_its_failure_behind_and_its_neighbours_stay(tmp_path: Path) -> None:
    spec = spec_for(tmp_path)
    first = commit(spec, [a_transcript("a"), a_failure("b"), a_failure("c")])
    commit(spec, [a_transcript("b")], run_id="run2", replaces=first.partition_id)
    settled(tmp_path, spec)
    assert rows(tmp_path, "transcripts") == ["a", "b"]
    assert rows(tmp_path, "failures") == ["c"]


def test_another_model_takes_the_place_of_the_first(tmp_path: Path) -> None:
    commit(spec_for(tmp_path), [a_transcript("a", "base")])
    other = spec_for(tmp_path, asr={"model": "large-v3"})
    commit(other, [a_transcript("a", "large")], run_id="run2")
    settled(tmp_path, other)
    (path,) = (tmp_path / "transcripts").glob("*.parquet")
    assert table_to_transcripts(pq.read_table(path)) == [a_transcript("a", "large")]


def test_calls_that_were_not_done_again_keep_their_rows(tmp_path: Path) -> None:
    commit(spec_for(tmp_path), [a_transcript("a"), a_transcript("b")])
    other = spec_for(tmp_path, asr={"model": "large-v3"})
    commit(other, [a_transcript("a")], run_id="run2")
    settled(tmp_path, other)
    assert rows(tmp_path, "transcripts") == ["a", "b"]


def test_an_uncommitted_file_goes_unless_its_partition_is_still_planned(tmp_path: Path) -> None:
    spec = spec_for(tmp_path)
    partition = commit(spec, [a_transcript("a")])
    orphan = tmp_path / "transcripts" / f"{partition.partition_id}-killed.parquet"
    in_flight = tmp_path / "transcripts" / "p-0123456789abcdef-other.parquet"
    for path in (orphan, in_flight):
        path.write_bytes(b"")
    from ray_jobs.ledger import Partition
    from tests.ray_jobs.outputs import a_call

    planned = Partition(partition_id="p-0123456789abcdef", calls=(a_call("z"),))
    ledger_of(tmp_path).save_plan(spec.fingerprints()["redact"], [planned])
    settled(tmp_path, spec)
    assert not orphan.exists()
    assert in_flight.exists()


def test_analyses_by_a_new_prompt_replace_the_old_ones(tmp_path: Path) -> None:
    old = spec_for(tmp_path)
    partition = commit(old, [a_transcript("a")])
    state = {"a": CallState(call_id="a", uri="/calls/a.wav", version="1", code="ok")}
    new = spec_for(tmp_path, llm={"seed": 1})
    for spec, run_id in ((old, "run1"), (new, "run2")):
        Sink(spec, run_id).commit_insights(partition.partition_id, [a_transcript("a")], [an_insight("a")], state)
    settled(tmp_path, new)
    assert rows(tmp_path, "insights") == ["a"]
    assert [m.run_id for m in ledger_of(tmp_path).load_markers("insights")] == ["run2"]


def test_settling_twice_changes_nothing(tmp_path: Path) -> None:
    spec = spec_for(tmp_path)
    first = commit(spec, [a_transcript("a"), a_failure("b")])
    commit(spec, [a_transcript("b")], run_id="run2", replaces=first.partition_id)
    settled(tmp_path, spec)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    settled(tmp_path, spec)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


class TestRecount:
    def test_counts_what_the_files_hold(self, tmp_path: Path) -> None:
        spec = spec_for(tmp_path)
        commit(spec, [a_transcript("a"), a_failure("b")])
        found = recount(ledger_of(tmp_path), {"a", "b"}, spec.fingerprints())
        assert [t.call_id for t in found.transcripts] == ["a"]
        assert found.failures == (a_failure("b"),)

    def test_a_row_lost_from_a_file_is_missed(self, tmp_path: Path) -> None:
        spec = spec_for(tmp_path)
        commit(spec, [a_transcript("a"), a_transcript("b")])
        (path,) = (tmp_path / "transcripts").glob("*.parquet")
        pq.write_table(pq.read_table(path).slice(0, 1), path)
        found = recount(ledger_of(tmp_path), {"a", "b"}, spec.fingerprints())
        assert [t.call_id for t in found.transcripts] == ["a"]

    def test_a_committed_file_that_is_gone_is_named(self, tmp_path: Path) -> None:
        spec = spec_for(tmp_path)
        commit(spec, [a_transcript("a")])
        next((tmp_path / "transcripts").glob("*.parquet")).unlink()
        with pytest.raises(OutputError, match=r"transcripts/p-.*parquet is committed and gone"):
            recount(ledger_of(tmp_path), {"a"}, spec.fingerprints())

    def test_calls_of_other_runs_in_the_same_partition_are_passed_over(self, tmp_path: Path) -> None:
        spec = spec_for(tmp_path)
        commit(spec, [a_transcript("a"), a_transcript("b")])
        found = recount(ledger_of(tmp_path), {"a"}, spec.fingerprints())
        assert [t.call_id for t in found.transcripts] == ["a"]
