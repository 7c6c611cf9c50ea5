"""Whole DAGs by dag.test in an Airflow of their own, over days of one call each."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DAYS = {"2026-11-23": "06_voicemail", "2026-11-24": "07_delivery_mono"}

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


def make_airflow(home: Path, **settings: str) -> dict[str, str]:
    """The environment of an Airflow whose database is there."""
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": str(ROOT),
        **settings,
    }
    migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(migrate, env=environment, check=True, capture_output=True, timeout=180)
    return environment


def lay_out(folder: Path) -> None:
    """Recordings by day, and a spec."""
    for day, call in DAYS.items():
        (folder / "in" / day).mkdir(parents=True)
        shutil.copy(ROOT / "tests/data/sample_calls" / f"{call}.wav", folder / "in" / day)
    (folder / "run.yaml").write_text("llm: {engine: none}\n")


def run(dag_id: str, environment: Mapping[str, str], folder: Path, day: str, **conf: str) -> dict[str, Any]:
    """The states of its tasks, their labels, and the reports that were checked."""
    paths = {"input": folder / "in" / day, "output": folder / "out" / day, "spec": folder / "run.yaml"}
    form = {**paths, **conf, "engine": "whisper_torch", "profile": "small"}
    form_json = json.dumps(form, default=str)
    command = [sys.executable, "-c", RUN, dag_id, str(ROOT / "dags"), form_json]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    print(answer.stdout, answer.stderr)
    told: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return told
