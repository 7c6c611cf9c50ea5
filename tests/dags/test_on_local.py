"""The workflows end to end on this machine: dag.test, the local backend, the real pipeline, two days of one call."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.runtime import JAVA_OPTIONS

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
DAYS = {"2026-11-23": "06_voicemail", "2026-11-24": "07_delivery_mono"}
NO_CALLS = "2026-11-22"

RUN = """
import json, sys
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from pathlib import Path
dag_id, folder, conf = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
dag = BundleDagBag(folder / f"{dag_id}.py", bundle_path=folder).dags[dag_id]
for task in dag.tasks:
    task.retries = 0  # a failure is to be seen now, not after three tries
run = dag.test(run_conf=conf)
tasks = run.get_task_instances()
with create_session() as session:
    reports = [row.value for row in session.scalars(XComModel.get_many(run_id=run.run_id, key="return_value"))
               if row.task_id.endswith("verify")]
    reports = [json.loads(value) if isinstance(value, str) else value for value in reports]
print(json.dumps({
    "states": {task.task_id + str(task.map_index) * (task.map_index >= 0): task.state for task in tasks},
    "labels": sorted(task.rendered_map_index for task in tasks if task.task_id == "day.run"),
    "reports": reports,
}))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """That of an Airflow of its own, whose database is there; no Ray head is left when all is done."""
    # Unix sockets lie below this folder, and their paths are at most 107 bytes long.
    heads = Path("/tmp") / f"kuberay-dags-{os.getpid()}"
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "KUBERAY_BACKEND": "local",
        "KUBERAY_RAY_PYTHON": sys.executable,
        "KUBERAY_LOCAL_FOLDER": str(heads),
        "KUBERAY_LOCAL_NUM_CPUS": "6",
        # Ray's Java serialiser reflects into the JDK; the nodes' images carry this setting, here it is the head's.
        "JDK_JAVA_OPTIONS": JAVA_OPTIONS,
        "PYTHONPATH": str(ROOT),
    }
    migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(migrate, env=environment, check=True, capture_output=True, timeout=180)
    yield environment
    assert not list(heads.glob("**/*.json")), "a Ray head or job was left behind"
    shutil.rmtree(heads, ignore_errors=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings by day, and a spec."""
    folder = tmp_path_factory.mktemp("calls")
    for day, call in DAYS.items():
        (folder / "in" / day).mkdir(parents=True)
        shutil.copy(ROOT / "tests/data/sample_calls" / f"{call}.wav", folder / "in" / day)
    (folder / "run.yaml").write_text("llm: {engine: none}\n")
    return folder


def run(dag_id: str, environment: dict[str, str], folder: Path, day: str, **conf: str) -> dict[str, Any]:
    paths = {"input": folder / "in" / day, "output": folder / "out" / day, "spec": folder / "run.yaml"}
    form = {**paths, **conf, "engine": "whisper_torch", "profile": "small"}
    form_json = json.dumps(form, default=str)
    command = [sys.executable, "-c", RUN, dag_id, str(ROOT / "dags"), form_json]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    print(answer.stdout, answer.stderr)
    told: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return told


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
