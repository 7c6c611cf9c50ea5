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
form_field = lambda param: {**param.schema, "description": param.description}
bag = BundleDagBag(sys.argv[1], bundle_path=Path(sys.argv[1]))
engines = ["kubernetes", "kubernetes_asyncio", "ray", "raydp", "torch", "pyspark", "vllm", "pyarrow", "transformers"]
print(json.dumps({
    "errors": bag.import_errors,
    "dags": {id: {task.task_id: task.task_type for task in dag.tasks} for id, dag in bag.dags.items()},
    "order": {id: {t.task_id: sorted(t.downstream_task_ids) for t in dag.tasks} for id, dag in bag.dags.items()},
    "setups": [task.task_id for task in bag.dags["asr_workflow"].tasks if task.is_setup],
    "teardowns": [task.task_id for task in bag.dags["asr_workflow"].tasks if task.is_teardown],
    "params": {id: {key: form_field(dag.params.get_param(key)) for key in dag.params} for id, dag in bag.dags.items()},
    "outlets": {id: [asset.name for task in dag.tasks for asset in task.outlets] for id, dag in bag.dags.items()},
    "pools": {task.task_id: task.pool for task in bag.dags["asr_backfill"].tasks},
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
    assert sorted(loaded["dags"]) == ["asr_backfill", "asr_workflow", "asr_workflow_fused", "ray_collect"]


def test_parsing_touches_no_engine(loaded):
    assert loaded["engines"] == []


def test_the_forms_ask_for_what_a_run_needs_and_say_what_it_is(loaded):
    common = {"input", "output", "engine", "model", "profile", "spec"}
    assert set(loaded["params"]["asr_workflow"]) == set(loaded["params"]["asr_workflow_fused"]) == common
    assert set(loaded["params"]["asr_backfill"]) == common | {"first_day", "last_day"}
    form = loaded["params"]["asr_workflow"]
    assert all(field["type"] and field["title"] and field["description"] for field in form.values())
    assert form["engine"]["enum"][:2] == [None, "whisper_torch"]


def test_the_staged_workflow_is_three_jobs_on_a_cluster_that_is_always_deleted(loaded):
    assert loaded["order"]["asr_workflow"] == {
        "setup_cluster": ["postprocess", "preprocess", "teardown_cluster", "transcribe"],
        "preprocess": ["transcribe"],
        "transcribe": ["postprocess"],
        "postprocess": ["verify"],
        "verify": ["teardown_cluster"],
        "teardown_cluster": [],
    }
    assert (loaded["setups"], loaded["teardowns"]) == (["setup_cluster"], ["teardown_cluster"])


def test_the_fused_workflow_is_one_job_and_a_check(loaded):
    assert loaded["dags"]["asr_workflow_fused"] == {"run": "RayJobOperator", "verify": "_PythonDecoratedOperator"}


def test_the_backfill_runs_as_many_days_at_once_as_its_pool_has_slots(loaded):
    assert loaded["order"]["asr_backfill"] == {
        "days": ["day.run", "day.verify"],
        "day.run": ["day.verify"],
        "day.verify": [],
    }
    assert loaded["pools"]["day.run"] == "asr_backfill"


def test_every_workflow_tells_the_transcripts_asset(loaded):
    for dag_id in ("asr_workflow", "asr_workflow_fused", "asr_backfill"):
        assert loaded["outlets"][dag_id] == ["transcripts"]
