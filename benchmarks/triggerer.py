"""Airflow's own triggerer with many deferred Ray jobs in its database; for `python -m benchmarks.airflow`.

The database is what a scheduler and 1,000 workers would have left: one DAG run whose tasks are all deferred, each with
the trigger that `RayJobOperator` defers to. Run as a program, this fills the database that the environment names.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.harness import CommandFailedError

POLL_S = 0.5
DEADLINE_S = 600
DAG_ID = "waiting"

DAG = """
from airflow.sdk import DAG
from kuberay.operators import RayJobOperator

with DAG({dag_id!r}, schedule=None):
    for name in {names!r}:
        RayJobOperator(task_id=name, entrypoint="python -m work", cluster="small")
"""


def kubeconfig(home: Path) -> Path:
    return home / "kubeconfig"


def environment(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "KUBECONFIG": str(kubeconfig(home)),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
    }


def prepare(home: Path, names: Sequence[str], variables: Mapping[str, str]) -> None:
    """An Airflow with a DAG of one task per name. Raises CommandFailedError."""
    (home / "dags").mkdir(parents=True)
    (home / "dags" / "waiting.py").write_text(DAG.format(dag_id=DAG_ID, names=list(names)))
    _run(["airflow", "db", "migrate"], variables)
    _run(["airflow", "dags", "reserialize"], variables)


def defer(variables: Mapping[str, str]) -> None:
    """Defer all its tasks. Raises CommandFailedError."""
    _run(["benchmarks.triggerer"], variables)


def _run(module: Sequence[str], variables: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", *module]
    done = subprocess.run(command, env=dict(variables), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandFailedError(f"{' '.join(command)}:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")


def _defer_all() -> None:
    """Make the run and defer its tasks, in the database that the environment names."""
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.models.trigger import Trigger
    from airflow.utils import timezone
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState, TaskInstanceState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    from kuberay.triggers import RayJobTrigger

    with create_session() as session:
        stored = SerializedDagModel.get(DAG_ID, session=session)
        assert stored is not None
        run = stored.dag.create_dagrun(
            run_id="waiting",
            run_after=timezone.utcnow(),
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.RUNNING,
            session=session,
        )
        where = {"backend": "kubernetes", "namespace": "default", "conn_id": None}
        for task in run.get_task_instances(session=session):
            trigger = Trigger.from_object(RayJobTrigger(where, task.task_id, 24 * 3600))
            session.add(trigger)
            session.flush()
            task.trigger_id, task.state, task.try_number = trigger.id, TaskInstanceState.DEFERRED, 1
            task.next_method, task.next_kwargs = "resume", {}


@contextmanager
def triggerer(home: Path, capacity: int, variables: Mapping[str, str]) -> Iterator[psutil.Process]:
    """The process of `airflow triggerer`; what it prints goes to triggerer.log."""
    command = [sys.executable, "-m", "airflow", "triggerer", "--capacity", str(capacity), "--skip-serve-logs"]
    with (home / "triggerer.log").open("wb") as log:
        process = psutil.Popen(command, env=dict(variables), stdout=log, stderr=log)
        try:
            yield process
        finally:
            family = [*process.children(recursive=True), process]
            for member in family:
                member.terminate()
            _, alive = psutil.wait_procs(family, timeout=20)
            for member in alive:
                member.kill()


def cpu_s(process: psutil.Process) -> float:
    """Processor seconds of it and what it started."""
    times = [member.cpu_times() for member in [process, *process.children(recursive=True)]]
    return sum(time.user + time.system for time in times)


def rss_bytes(process: psutil.Process) -> int:
    return sum(member.memory_info().rss for member in [process, *process.children(recursive=True)])


def wait_until(holds: Callable[[], bool], process: psutil.Process, home: Path) -> None:
    """Raises RuntimeError where the triggerer ends, TimeoutError where it takes too long."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            raise RuntimeError((home / "triggerer.log").read_text()[-2000:])
        if time.monotonic() > deadline:
            raise TimeoutError(f"the triggerer does not hold all triggers after {DEADLINE_S} s")
        time.sleep(POLL_S)


if __name__ == "__main__":
    _defer_all()
