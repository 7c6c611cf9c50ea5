"""What the speech DAGs share: the command that a form makes, and the check of the report that it leads to."""

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

FORM = {"input": "/calls", "output": "s3://out/a", "spec": None, "engine": None, "model": None}


def command_of(**form: str) -> list[str]:
    from dags.asr_factory import command

    return shlex.split(command("ray_jobs.run", {**FORM, **form}))


def test_an_empty_field_leaves_the_specification_as_it_is():
    assert command_of() == ["python", "-m", "ray_jobs.run", "--input", "/calls", "--output", "s3://out/a"]


def test_the_job_reads_from_the_command_what_the_user_typed():
    from ray_jobs.cli import run_job

    seen = []

    def job(spec: Any, **options: bool) -> int:
        seen.append(spec)
        return 0

    typed = {"input": "/calls of '24; rm -rf $HOME", "engine": "whisper_torch", "model": "null"}
    assert run_job(job, "job", "", command_of(**typed)[3:]) == 0
    assert seen[0].input.uri == typed["input"]
    assert (seen[0].asr.engine, seen[0].asr.model) == ("whisper_torch", "null")


def checked(output: Path, **report: Any) -> tuple[dict[str, Any], Any]:
    from dags.asr_factory import TRANSCRIPTS, verify

    (output / "report.json").write_text(json.dumps(report))
    event = SimpleNamespace()
    return verify.function(f"file://{output}", outlet_events={TRANSCRIPTS: event}), event


def test_a_good_report_goes_to_xcom_without_its_timeline_and_tells_the_asset(tmp_path):
    counts = {"num_ok": 3, "missing": [], "unexpected": [], "duplicated": []}
    told, event = checked(tmp_path, **counts, partitions=[{"partition_id": "p"}])
    assert told == counts
    assert event.extra == {"output": f"file://{tmp_path}", "num_ok": 3}


def test_a_call_without_exactly_one_outcome_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"calls without exactly one outcome: \{'missing': \['call-7'\]\}"):
        checked(tmp_path, num_ok=2, missing=["call-7"], unexpected=[], duplicated=[])
