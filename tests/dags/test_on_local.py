"""The workflows end to end on this machine: dag.test, the local backend, the real pipeline, two days of one call."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_jobs.runtime import JAVA_OPTIONS
from tests.dags.dag_runs import DAYS, lay_out, make_airflow, run

pytestmark = pytest.mark.integration

NO_CALLS = "2026-11-22"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Airflow's; no Ray head is left when all is done."""
    # Unix sockets lie below this folder, and their paths are at most 107 bytes long.
    heads = Path("/tmp") / f"kuberay-dags-{os.getpid()}"
    yield make_airflow(
        tmp_path_factory.mktemp("airflow"),
        KUBERAY_BACKEND="local",
        KUBERAY_RAY_PYTHON=sys.executable,
        KUBERAY_LOCAL_FOLDER=str(heads),
        KUBERAY_LOCAL_NUM_CPUS="6",
        # Ray's Java serialiser reflects into the JDK; the nodes' images carry this setting, here it is the head's.
        JDK_JAVA_OPTIONS=JAVA_OPTIONS,
    )
    assert not list(heads.glob("**/*.json")), "a Ray head or job was left behind"
    shutil.rmtree(heads, ignore_errors=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calls")
    lay_out(folder)
    return folder


def test_the_staged_workflow_sets_up_a_cluster_runs_three_jobs_and_takes_it_down(environment, folder):
    told = run("asr_workflow", environment, folder, "2026-11-23")
    stages = ["setup_cluster", "preprocess", "transcribe", "postprocess", "verify", "teardown_cluster"]
    assert told["states"] == dict.fromkeys(stages, "success")
    (report,) = told["reports"]
    assert (report["num_calls"], report["num_ok"], report["accounted"]) == (1, 1, True)
    assert report["spec"]["asr"]["engine"] == "whisper_torch", "as the form says, and not the default"


def test_the_fused_workflow_runs_one_job(environment, folder):
    told = run("asr_workflow_fused", environment, folder, "2026-11-24")
    assert told["states"] == {"run": "success", "verify": "success"}
    assert [report["num_ok"] for report in told["reports"]] == [1]


def test_a_backfill_finds_done_days_done_and_leaves_out_those_without_calls(environment, folder):
    """Both days were transcribed above."""
    told = run("asr_backfill", environment, folder, "{date}", first_day=NO_CALLS, last_day="2026-11-24")
    mapped = {f"day.{task}{index}": "success" for task in ("run", "verify") for index in (0, 1)}
    assert told["states"] == {"days": "success", **mapped}
    assert told["labels"] == sorted(DAYS)
    assert [report["num_ok"] for report in told["reports"]] == [1, 1]
