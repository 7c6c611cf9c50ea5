"""Planning: what is done is skipped, what was planned is taken up, whole calls are laid out evenly."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ray_jobs.errors import SpecError
from ray_jobs.ledger import CallState, Ledger, Marker, Partition, new_marker
from ray_jobs.records import Call
from ray_jobs.spec import RunSpec, parse_spec
from spark_etl.plan import Plan, make_plan, persist

WAV = b"RIFF\x00\x00\x00\x00WAVEfmt \x12\x00\x00\x00\x07\x00\x02\x00\x40\x1f\x00\x00\x80\x3e\x00\x00" + b"\x00" * 64_000


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    for name in ("monday/0001.wav", "monday/0002.wav", "tuesday/0001.WAV", "notes.txt"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(WAV)
    return folder


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path / "out"))


@pytest.fixture
def spec_for(recordings: Path, tmp_path: Path) -> Callable[..., RunSpec]:
    def build(**sections: dict[str, object]) -> RunSpec:
        document = {"input": {"uri": str(recordings)}, "output": {"uri": str(tmp_path / "out")}}
        return parse_spec({**document, **sections, "input": {**document["input"], **sections.get("input", {})}})

    return build


def commit(ledger: Ledger, plan: Plan, partition: Partition, codes: dict[str, str] | None = None) -> Marker:
    """Commit a planned partition with all calls ok, or with the failure codes given."""
    states = [
        CallState(call_id=c.call_id, uri=c.uri, version=c.version, code=(codes or {}).get(c.call_id, "ok"))
        for c in partition.calls
    ]
    marker = new_marker("transcripts", partition.partition_id, plan.fingerprints["redact"], "run", [], states)
    return ledger.commit(marker)


def ids(calls: Sequence[Call]) -> set[str]:
    return {call.call_id for call in calls}


def todo(plan: Plan) -> set[str]:
    return {call.call_id for partition in plan.partitions for call in partition.calls}


class TestSelection:
    def test_audio_files_are_taken_whatever_the_case_of_their_extension(self, spec_for, ledger):
        assert ids(make_plan(spec_for(), ledger).calls) == {"monday__0001", "monday__0002", "tuesday__0001"}

    def test_globs_and_limit_narrow_the_choice(self, spec_for, ledger):
        plan = make_plan(spec_for(input={"exclude": ["monday/*"]}), ledger)
        assert ids(plan.calls) == {"tuesday__0001"}
        assert len(make_plan(spec_for(input={"limit": 2}), ledger).calls) == 2

    def test_an_input_that_is_not_there_is_named(self, spec_for, ledger, tmp_path):
        with pytest.raises(SpecError, match=r"nowhere: there is nothing there; check the path"):
            make_plan(spec_for(input={"uri": str(tmp_path / "nowhere")}), ledger)

    def test_a_folder_without_audio_is_told_what_was_looked_for(self, spec_for, ledger, recordings):
        with pytest.raises(SpecError, match=r"none of its 4 files is selected; input.include: \*\*/\*\.ogg"):
            make_plan(spec_for(input={"include": ["**/*.ogg"]}), ledger)

    def test_a_run_whose_output_lies_in_its_input_does_not_read_it_back(self, spec_for, ledger, recordings):
        inside = recordings / "out"
        (inside / "calls").mkdir(parents=True)
        (inside / "calls" / "x.wav").write_bytes(WAV)
        assert len(make_plan(spec_for(output={"uri": str(inside)}), ledger).calls) == 3


class TestCallIds:
    def test_recordings_that_differ_only_in_extension_get_ids_of_their_own(self, spec_for, ledger, recordings):
        (recordings / "monday" / "0001.mp3").write_bytes(b"x" * 100)
        found = [call.call_id for call in make_plan(spec_for(), ledger).calls]
        assert len(set(found)) == len(found) == 4

    def test_an_id_stays_with_its_recording_when_a_namesake_appears(self, spec_for, ledger, recordings):
        before = {call.uri: call.call_id for call in make_plan(spec_for(), ledger).calls}
        first = make_plan(spec_for(), ledger)
        for partition in first.partitions:
            commit(ledger, first, partition)
        (recordings / "monday" / "0001.mp3").write_bytes(b"x" * 100)  # sorts before 0001.wav
        after = {call.uri: call.call_id for call in make_plan(spec_for(), ledger).calls}
        assert before.items() <= after.items()

    def test_a_name_that_is_personal_appears_in_no_output(self, spec_for, ledger, recordings):
        (recordings / "jane.doe@example.com.wav").write_bytes(WAV)
        (call,) = [c for c in make_plan(spec_for(), ledger).calls if "jane" in c.uri]
        assert "jane" not in call.call_id
        assert "jane" not in call.source


class TestRerun:
    def test_planning_writes_nothing(self, spec_for, ledger, tmp_path):
        make_plan(spec_for(), ledger)
        assert not (tmp_path / "out").exists()

    def test_what_was_planned_and_not_committed_is_taken_up_as_it_was(self, spec_for, ledger):
        first = make_plan(spec_for(), ledger)
        persist(first, ledger)
        commit(ledger, first, first.partitions[0])
        second = make_plan(spec_for(), ledger)
        assert second.partitions == first.partitions[1:]
        assert second.resumed == {partition.partition_id for partition in second.partitions}
        assert second.done == ids(first.partitions[0].calls)

    def test_nothing_is_left_to_do_when_all_is_committed(self, spec_for, ledger):
        first = make_plan(spec_for(llm={"engine": "none"}), ledger)
        for partition in first.partitions:
            commit(ledger, first, partition)
        assert make_plan(spec_for(llm={"engine": "none"}), ledger).nothing_to_do

    def test_transcribed_calls_without_analyses_are_analysed_only(self, spec_for, ledger):
        first = make_plan(spec_for(), ledger)
        markers = {commit(ledger, first, partition).partition_id for partition in first.partitions}
        second = make_plan(spec_for(), ledger)
        assert not second.partitions
        assert {marker.partition_id for marker in second.analyse_only} == markers

    def test_a_new_recording_is_the_only_work(self, spec_for, ledger, recordings):
        first = make_plan(spec_for(), ledger)
        for partition in first.partitions:
            commit(ledger, first, partition)
        (recordings / "wednesday.wav").write_bytes(WAV)
        assert todo(make_plan(spec_for(), ledger)) == {"wednesday"}

    def test_a_replaced_recording_is_done_again_and_its_partition_is_laid_out_anew(self, spec_for, ledger, recordings):
        first = make_plan(spec_for(), ledger)
        persist(first, ledger)
        os.utime(recordings / "monday" / "0001.wav", ns=(1, 1))
        second = make_plan(spec_for(), ledger)
        assert todo(second) == ids(first.calls)
        assert len(second.resumed) == len(first.partitions) - 1

    def test_a_recording_that_vanished_after_planning_stays_accounted_for(self, spec_for, ledger, recordings):
        first = make_plan(spec_for(), ledger)
        persist(first, ledger)
        (recordings / "monday" / "0001.wav").unlink()
        second = make_plan(spec_for(), ledger)
        assert "monday__0001" in ids(second.calls)
        assert {p.partition_id for p in second.partitions} == {p.partition_id for p in first.partitions}

    def test_a_transcript_stands_when_a_file_it_was_made_from_is_gone(self, spec_for, ledger, recordings):
        (recordings / "monday" / "0001.wav").rename(recordings / "7_agent.wav")
        (recordings / "monday" / "0002.wav").rename(recordings / "7_customer.wav")
        spec = spec_for(input={"name_pattern": r"(?P<call_id>\d+)_(?P<role>\w+)"}, llm={"engine": "none"})
        first = make_plan(spec, ledger)
        for partition in first.partitions:
            commit(ledger, first, partition)
        (recordings / "7_agent.wav").unlink()
        assert "7" in make_plan(spec, ledger).done
        (recordings / "7_customer.wav").write_bytes(WAV + b"more")
        assert todo(make_plan(spec, ledger)) == {"7"}

    def test_a_narrower_selection_does_not_drag_in_the_rest_of_an_old_plan(self, spec_for, ledger):
        persist(make_plan(spec_for(), ledger), ledger)
        second = make_plan(spec_for(input={"include": ["tuesday/*"]}), ledger)
        assert todo(second) == ids(second.calls) == {"tuesday__0001"}

    def test_another_model_is_new_work_and_more_actors_are_not(self, spec_for, ledger):
        first = make_plan(spec_for(), ledger)
        for partition in first.partitions:
            commit(ledger, first, partition)
        assert todo(make_plan(spec_for(asr={"model": "large-v3"}), ledger)) == ids(first.calls)
        assert not todo(make_plan(spec_for(asr={"actors": {"max_actors": 8}}), ledger))


class TestRetry:
    def plan_after(self, spec_for, ledger, code, *, retry_failed):
        first = make_plan(spec_for(), ledger)
        for partition in first.partitions:
            commit(ledger, first, partition, {"monday__0001": code})
        return first, make_plan(spec_for(), ledger, retry_failed=retry_failed)

    def test_a_passing_failure_is_retried_by_any_run(self, spec_for, ledger):
        _, plan = self.plan_after(spec_for, ledger, "vanished", retry_failed=False)
        assert todo(plan) == {"monday__0001"}

    def test_a_final_failure_is_retried_only_when_asked_for(self, spec_for, ledger):
        _, plan = self.plan_after(spec_for, ledger, "unreadable", retry_failed=False)
        assert not todo(plan)

    def test_a_retry_has_a_partition_of_its_own_name(self, spec_for, ledger):
        first, plan = self.plan_after(spec_for, ledger, "unreadable", retry_failed=True)
        assert todo(plan) == {"monday__0001"}
        assert plan.partitions[0].partition_id not in {p.partition_id for p in first.partitions}
