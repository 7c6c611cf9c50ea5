"""Which staged job has to come next, and what the last one reports of the others. No engine starts."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_jobs import staged
from ray_jobs.errors import FatalError
from ray_jobs.intermediate import Intermediate
from ray_jobs.ledger import Ledger
from ray_jobs.postprocess import postprocess
from ray_jobs.records import StageEvent, StartUp
from ray_jobs.run import Measured
from ray_jobs.sinks import Sink
from ray_jobs.spec import RunSpec, parse_spec
from ray_jobs.transcribe import transcribe
from spark_etl.plan import Plan, make_plan, persist
from tests.e2e.runs import report
from tests.ray_jobs.outputs import a_transcript


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    (tmp_path / "in").mkdir()
    for name, size_bytes in (("a", 100), ("b", 101)):  # of one size they might be duplicates, and share a partition
        (tmp_path / "in" / f"{name}.wav").write_bytes(b"x" * size_bytes)
    return spec_of(tmp_path)


def spec_of(folder: Path, **sections: Any) -> RunSpec:
    places = {"input": {"uri": str(folder / "in")}, "output": {"uri": str(folder / "out")}}
    return parse_spec({**places, "llm": {"engine": "none"}, **sections})


def planned(spec: RunSpec) -> Plan:
    """The plan of two partitions, persisted."""
    ledger = Ledger(spec.output.uri)
    persist(make_plan(spec, ledger), ledger)
    plan = make_plan(spec, ledger)
    assert len(plan.resumed) == 2
    return plan


def prepare(spec: RunSpec, plan: Plan) -> None:
    for partition in plan.partitions:
        Intermediate(spec).put(partition, pa.table({"x": [1]}), {}, "run1")


def commit(spec: RunSpec, plan: Plan) -> None:
    for partition in plan.partitions:
        Sink(spec, "run1").commit_transcripts(partition, [a_transcript(call.call_id) for call in partition.calls])


def test_transcribe_asks_for_preprocess_where_nothing_is_planned(spec: RunSpec) -> None:
    message = "none of the 2 recordings is planned under this spec: run ray_jobs.preprocess first"
    with pytest.raises(FatalError, match=message):
        transcribe(spec)


def test_transcribe_asks_for_preprocess_where_partitions_are_not_prepared(spec: RunSpec) -> None:
    plan = planned(spec)
    Intermediate(spec).put(plan.partitions[0], pa.table({"x": [1]}), {}, "run1")
    with pytest.raises(FatalError, match=r"1 of 2 planned partitions are not in .*: run ray_jobs.preprocess first"):
        transcribe(spec)


def test_transcribe_asks_for_preprocess_where_the_spec_changed_after_it(spec: RunSpec, tmp_path: Path) -> None:
    prepare(spec, planned(spec))
    with pytest.raises(FatalError, match=r"run ray_jobs.preprocess first, with the same spec and options"):
        transcribe(spec_of(tmp_path, asr={"beam_size": 5}))


def test_postprocess_asks_for_the_job_that_is_missing(spec: RunSpec) -> None:
    plan = planned(spec)
    with pytest.raises(FatalError, match=r"run ray_jobs.preprocess first"):
        postprocess(spec)
    prepare(spec, plan)
    with pytest.raises(FatalError, match=r"2 planned partitions are not transcribed: run ray_jobs.transcribe first"):
        postprocess(spec)


def test_the_report_holds_what_all_jobs_measured_once(spec: RunSpec, tmp_path: Path) -> None:
    plan = planned(spec)
    commit(spec, plan)
    ledger = Ledger(spec.output.uri)
    etl, redact = (
        StageEvent(
            partition_id=plan.partitions[0].partition_id,
            stage=stage,
            start_unix_s=start_s,
            end_unix_s=start_s + 1,
            num_calls=1,
            num_failed=0,
            audio_s=2.0,
            speech_s=1.0,
            worker="w",
        )
        for stage, start_s in (("etl", 100.0), ("redact", 200.0))
    )
    for job, events, start_s in (("preprocess", [etl], 100.0), ("transcribe", [etl, redact], 200.0)):
        start = StartUp(phase=f"ray of {job}", start_unix_s=start_s - 1, end_unix_s=start_s)
        staged.keep(Measured(events=events, startups=[start], peak_memory_bytes=int(start_s)), job, ledger)
    assert postprocess(spec) == 0
    found = report(tmp_path / "out")
    assert (found["num_calls"], found["num_ok"], found["num_skipped"]) == (2, 2, 1), "one partition was done before"
    assert found["accounted"]
    assert {stage: rates["num_calls"] for stage, rates in found["rates"]["stages"].items()} == {"etl": 1, "redact": 1}
    assert found["peak_memory_bytes"] == 200
    assert not staged.kept(ledger)
    written = (tmp_path / "out" / "report.json").stat().st_mtime_ns
    assert postprocess(spec) == 0
    assert (tmp_path / "out" / "report.json").stat().st_mtime_ns == written, "jobs that did nothing leave it"


def test_a_recording_that_came_after_preprocess_is_told_and_not_missed(
    spec: RunSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(spec, planned(spec))
    (tmp_path / "in" / "late.wav").write_bytes(b"x" * 102)
    assert transcribe(spec) == 0
    assert postprocess(spec) == 0
    assert "1 new, changed or failed recordings are not planned" in capsys.readouterr().err
    assert report(tmp_path / "out")["num_calls"] == 2
