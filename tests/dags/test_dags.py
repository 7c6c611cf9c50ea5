"""The DAG files as Airflow's parser sees them: they load, quickly, without any engine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DAGS = Path("dags").resolve()

pytestmark = pytest.mark.integration

LOAD = """
import json, sys
from pathlib import Path
from airflow.dag_processing.dagbag import BundleDagBag
bag = BundleDagBag(sys.argv[1], bundle_path=Path(sys.argv[1]))
engines = ["kubernetes", "kubernetes_asyncio", "ray", "raydp", "torch", "pyspark", "vllm", "pyarrow", "transformers"]
print(json.dumps({
    "errors": bag.import_errors,
    "dags": {id: {task.task_id: task.task_type for task in dag.tasks} for id, dag in bag.dags.items()},
    "params": {id: sorted(dag.params) for id, dag in bag.dags.items()},
    "engines": [name for name in engines if name in sys.modules],
}))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> dict:
    home = str(tmp_path_factory.mktemp("airflow"))
    environment = {**os.environ, "AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    command = [sys.executable, "-c", LOAD, str(DAGS)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    return json.loads(answer.stdout.splitlines()[-1])


def test_every_dag_loads(loaded):
    assert loaded["errors"] == {}
    assert sorted(loaded["dags"]) == ["asr_backfill", "asr_workflow_fused", "ray_collect"]


def test_parsing_touches_no_engine(loaded):
    assert loaded["engines"] == []


def test_the_forms_ask_for_what_a_run_needs(loaded):
    common = ["input", "output", "profile", "spec"]
    assert loaded["params"]["asr_workflow_fused"] == common
    assert loaded["params"]["asr_backfill"] == sorted([*common, "first_day", "last_day"])


def test_the_fused_workflow_is_one_job_and_a_check(loaded):
    assert loaded["dags"]["asr_workflow_fused"] == {"run": "RayJobOperator", "verify": "_PythonDecoratedOperator"}
