"""An Airflow of its own, started as `make airflow` does: runs are killed, cleared and cut off, and nothing is left.

The job is cheap and says what happened to it: see stamping_job.py.
"""

import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.standalone import Airflow, Run, processes_with, wait_until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(1200),
]

JOB = Path(__file__).with_name("stamping_job.py")

DAGS = """
from datetime import timedelta
from airflow.sdk import DAG
from kuberay.operators import RayJobOperator

COMMON = {"task_id": "work", "backend": "local", "retries": 2, "retry_delay": timedelta(seconds=1)}
SHARED = {**COMMON, "cluster_name": "{{ dag_run.conf.cluster }}"}
STAMPS = "python JOB '{{ dag_run.conf.folder }}'"

with DAG("deferred", schedule=None):
    RayJobOperator(entrypoint=STAMPS, cluster="small", **COMMON)

with DAG("held", schedule=None):
    RayJobOperator(entrypoint=STAMPS, deferrable=False, **SHARED)

with DAG("pooled", schedule=None):
    RayJobOperator.partial(pool="asr_backfill", **SHARED).expand(entrypoint=[STAMPS] * 2)

with DAG("instant", schedule=None):
    RayJobOperator(entrypoint="echo at once", **SHARED)
"""


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    home, dags = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("dags")
    (dags / "work.py").write_text(DAGS.replace("JOB", str(JOB)))
    airflow = Airflow(home, dags, free_port())
    yield airflow
    assert airflow.stop() == 0
    assert processes_with(home) == []
    assert airflow.rays() == []


@pytest.fixture(scope="module")
def cluster(airflow: Airflow) -> str:
    """A Ray head that jobs share, on which they start at once; it ends with Airflow."""
    return airflow.start_cluster()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    (tmp_path / "release").touch()  # whatever happened, no job goes on for ever


def test_a_run_survives_its_triggerer_and_the_scheduler_and_its_log_is_told_once(airflow, folder):
    run = airflow.trigger("deferred", {"folder": str(folder)})
    wait_until(lambda: "line 5" in run.log, "the job's log is in the task's log")
    airflow.restart("triggerer")
    airflow.restart("scheduler")
    told = len(lines(run))
    wait_until(lambda: len(lines(run)) > told, "the new triggerer goes on")
    (folder / "release").touch()
    run.wait("success")
    assert stamps(folder) == ["start", "end"]
    assert lines(run) == [f"line {number}" for number in range(1, len(lines(run)) + 1)]
    assert not airflow.rays()


def test_clearing_and_killing_a_run_end_its_job_before_another_starts(airflow, folder):
    run = airflow.trigger("deferred", {"folder": str(folder)})
    wait_until(lambda: stamps(folder) == ["start"] and followed(run), "the job runs")
    run.clear()
    wait_until(lambda: stamps(folder) == ["start"] * 2 and followed(run), "the second attempt runs")
    run.mark_failed()
    wait_until(lambda: not airflow.rays(), "the killed attempt is gone", lambda: str(airflow.rays()))
    run.clear()
    wait_until(lambda: stamps(folder) == ["start"] * 3, "the third attempt runs")
    (folder / "release").touch()
    run.wait("success")
    assert stamps(folder) == ["start", "start", "start", "end"]
    assert not airflow.rays()


def test_a_retry_after_a_crash_takes_up_the_running_job(airflow, cluster, folder):
    run = airflow.trigger("held", {"folder": str(folder), "cluster": cluster})
    wait_until(lambda: "line 5" in run.log, "the job's log is in the task's log")
    crashed = run.task
    os.kill(crashed["pid"], signal.SIGKILL)
    again = crashed["try_number"] + 1
    wait_until(lambda: (run.task["try_number"], run.task["state"]) == (again, "running"), "it is tried again")
    (folder / "release").touch()
    run.wait("success")
    assert stamps(folder) == ["start", "end"]
    assert any("adopted from an earlier attempt" in line for line in run.log)
    assert lines(run) == [f"line {number}" for number in range(1, len(lines(run)) + 1)]
    assert processes_with(folder) == []


def test_mapped_jobs_take_turns_where_the_pool_has_one_slot_though_they_defer(airflow, cluster, folder):
    run = airflow.trigger("pooled", {"folder": str(folder), "cluster": cluster})
    wait_until(lambda: stamps(folder) == ["start"], "one job runs")
    wait_until(lambda: "deferred" in run.states, "its task is deferred")
    assert sorted(run.states) == ["deferred", "scheduled"]
    (folder / "release").touch()
    wait_until(lambda: run.states == ["success", "success"], "both have ended", lambda: str(run.states))
    assert stamps(folder) == ["start", "end"] * 2
    assert processes_with(folder) == []


def test_a_job_that_ends_before_anybody_looks_succeeds_and_is_linked(airflow, cluster):
    run = airflow.trigger("instant", {"cluster": cluster})
    run.wait("success")
    assert run.log.count("at once") == 1
    assert re.match(r"http://127.0.0.1:\d+$", run.get("links")["extra_links"]["Ray dashboard"])
    names = run.get("xcomEntries/return_value")["value"]
    assert names["job"].startswith("instant-work-")
    assert names["cluster"] == cluster
    assert run.task["rendered_fields"]["entrypoint"] == "echo at once"


def followed(run: Run) -> bool:
    """Whether a triggerer has taken up the latest attempt: before that, Airflow tells nobody of a kill."""
    return run.task["state"] == "deferred" and any(": running" in line for line in run.log_of(run.task["try_number"]))


def stamps(folder: Path) -> list[str]:
    path = folder / "stamps"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def lines(run: Run) -> list[str]:
    return [line for line in run.log if re.fullmatch(r"line \d+", line)]


def free_port() -> int:
    """The first of three free ones, which is what Airflow takes here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
