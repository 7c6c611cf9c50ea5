"""The fused workflow end to end on this machine: dag.test, the local backend, the real pipeline, two calls."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
CALLS = ("06_voicemail", "07_delivery_mono")
SPEC = "llm: {engine: none}\n"

RUN = """
import json, sys
from airflow.dag_processing.dagbag import BundleDagBag
from pathlib import Path
folder = Path(sys.argv[1])
dag = BundleDagBag(folder / "asr_workflow_fused.py", bundle_path=folder).dags["asr_workflow_fused"]
for task in dag.tasks:
    task.retries = 0  # a failure is to be seen now, not after three tries
run = dag.test(run_conf=json.loads(sys.argv[2]))
print(json.dumps({task.task_id: task.state for task in run.get_task_instances()}))
"""


def opens() -> str:
    """Ray's Java serialiser reflects into the JDK; the nodes' images carry this setting, here it is the head's."""
    from ray_jobs import runtime

    return runtime.JAVA_OPTIONS


@pytest.fixture
def environment(tmp_path):
    # Unix sockets lie below this folder, and their paths are at most 107 bytes long.
    folder = Path("/tmp") / f"kuberay-fused-{os.getpid()}"
    yield {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "KUBERAY_BACKEND": "local",
        "KUBERAY_RAY_PYTHON": sys.executable,
        "KUBERAY_LOCAL_FOLDER": str(folder),
        "KUBERAY_LOCAL_NUM_CPUS": "6",
        "JDK_JAVA_OPTIONS": opens(),
        "PYTHONPATH": str(ROOT),
    }
    assert not list(folder.glob("*/head.json")), "a Ray head was left behind"
    shutil.rmtree(folder, ignore_errors=True)


def test_calls_go_in_and_a_checked_report_comes_out(environment, tmp_path):
    calls, output, spec = tmp_path / "calls", tmp_path / "out", tmp_path / "run.yaml"
    calls.mkdir()
    for name in CALLS:
        shutil.copy(ROOT / "tests/data/sample_calls" / f"{name}.wav", calls)
    spec.write_text(SPEC)
    conf = {"input": str(calls), "output": str(output), "spec": str(spec), "profile": "small"}
    migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(migrate, env=environment, check=True, capture_output=True, timeout=180)
    command = [sys.executable, "-c", RUN, str(ROOT / "dags"), json.dumps(conf)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    print(answer.stdout, answer.stderr)
    assert json.loads(answer.stdout.splitlines()[-1]) == {"run": "success", "verify": "success"}
    report = json.loads((output / "report.json").read_text())
    assert (report["num_calls"], report["num_ok"], report["accounted"]) == (2, 2, True)
