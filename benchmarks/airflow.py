"""What the Airflow side costs: `python -m benchmarks.airflow [--triggers N] [--window-s S] [--rounds N]`.

import_s           each DAG file in a fresh process that has imported Airflow, as the DAG processor's have; median
start_s            local backend: from the operator's request to the first line of the job's own code, with a cluster of
                   its own (a Ray head is started) and on one that runs; median
waiting, running   N deferred tasks in one process of Airflow's triggerer, against the contract tests' Kubernetes API in
                   another process; jobs that wait for their cluster, and jobs that run and print a line every ten
                   seconds: CPU seconds of the triggerer and API calls per job, both per minute, and memory per job
                   above that of the empty triggerer
"""

import argparse
import asyncio
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import structlog

from benchmarks import triggerer
from kuberay.backend import utc_now
from kuberay.cluster import resolve_cluster
from kuberay.local import LocalBackend, LocalSettings
from kuberay.names import Claim
from kuberay.rayjob import make_job
from tests.contracts.fake_kubernetes import FakeKubernetes

DAGS = Path(__file__).parents[1] / "dags"
ENGINES = ("ray", "torch", "pyspark", "raydp", "vllm", "pyarrow", "kubernetes", "kubernetes_asyncio")
SETTLE_S = 30
LINE_S = 10
WAITING = {"jobDeploymentStatus": "Initializing", "jobStatus": "", "rayClusterName": "ray-abcde"}
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayClusterName": "ray-abcde"}

IMPORT = """
import importlib, sys, time
import airflow.sdk, airflow.dag_processing.dagbag
began = time.perf_counter()
importlib.import_module(sys.argv[1])
print(time.perf_counter() - began, [name for name in sys.argv[2:] if name in sys.modules])
"""


def main() -> None:
    options = _parser().parse_args()
    _silence()
    result = {
        "import_s": {path.stem: import_s(path, options.rounds) for path in sorted(DAGS.glob("*.py")) if _is_dag(path)},
        "start_s": asyncio.run(start_s(options.rounds)),
        "triggers": options.triggers,
        "waiting": triggers_cost(options.triggers, WAITING, options.window_s),
        "running": triggers_cost(options.triggers, RUNNING, options.window_s),
    }
    print(json.dumps({"benchmark": "airflow", **result}))


def import_s(path: Path, rounds: int) -> float:
    """Raises AssertionError where parsing imports an engine."""
    environment = {**os.environ, "PYTHONPATH": f"{DAGS}:{DAGS.parent}", "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    took = []
    with tempfile.TemporaryDirectory() as home:
        for _ in range(rounds):
            answer = subprocess.run(
                [sys.executable, "-c", IMPORT, path.stem, *ENGINES],
                env={**environment, "AIRFLOW_HOME": home},
                capture_output=True,
                text=True,
                check=True,
            )
            seconds, _, engines = answer.stdout.splitlines()[-1].partition(" ")
            assert engines == "[]", f"{path.name} imports {engines}"
            took.append(float(seconds))
    return round(statistics.median(took), 2)


def _is_dag(path: Path) -> bool:
    return path.name not in (DAGS / ".airflowignore").read_text().split()


async def start_s(rounds: int) -> dict[str, float]:
    folder = Path(tempfile.mkdtemp(prefix="kuberay-", dir="/tmp"))
    took: dict[str, list[float]] = {"own_cluster": [], "running_cluster": []}
    try:
        async with LocalBackend(LocalSettings(folder=folder, num_cpus=1)) as backend:
            for attempt in range(rounds):
                own = {"cluster": resolve_cluster("small")}
                seconds, name = await _start(backend, folder, own, f"own-{attempt}")
                took["own_cluster"].append(seconds)
                seconds, other = await _start(backend, folder, {"cluster_name": name}, f"shared-{attempt}")
                took["running_cluster"].append(seconds)
                await backend.delete_job(other)
                await backend.delete_job(name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {key: round(statistics.median(seconds), 1) for key, seconds in took.items()}


async def _start(backend: LocalBackend, folder: Path, cluster: dict[str, Any], task_id: str) -> tuple[float, str]:
    """Seconds from the request to the job's first line, and the job's name, which is its own cluster's too."""
    stamp = folder / task_id
    code = f"import pathlib, time; pathlib.Path({str(stamp)!r}).write_text(str(time.time()))"
    spec = make_job(entrypoint=f'python -c "{code}"', **cluster)
    began = time.time()
    name = await backend.submit_job(
        spec, Claim(dag_id="b", run_id="r", task_id=task_id), utc_now() + timedelta(hours=1)
    )
    async for status in backend.watch_job(name):
        assert status.state not in ("failed", "gone"), status.message
    return float(stamp.read_text()) - began, name


def triggers_cost(num_triggers: int, status: dict[str, str], window_s: float) -> dict[str, float]:
    """Let Airflow's triggerer take the triggers up and settle, then look at one window of time."""
    with tempfile.TemporaryDirectory() as folder, _kubernetes(Path(folder), num_triggers, status) as requests:

        def count(what: str) -> int:
            requests.send(what)
            return int(requests.recv())

        home, variables = Path(folder), triggerer.environment(Path(folder))
        triggerer.prepare(home, [_name(index) for index in range(num_triggers)], variables)
        with triggerer.triggerer(home, num_triggers, variables) as process:
            time.sleep(SETTLE_S)
            empty_bytes = triggerer.rss_bytes(process)
            triggerer.defer(variables)
            triggerer.wait_until(lambda: count("watches") >= num_triggers, process, home)
            time.sleep(SETTLE_S)
            calls, cpu_s = count("requests"), triggerer.cpu_s(process)
            time.sleep(window_s)
            calls, cpu_s = count("requests") - calls, triggerer.cpu_s(process) - cpu_s
            held_bytes = triggerer.rss_bytes(process) - empty_bytes
    return {
        "cpu_s_per_minute": round(cpu_s * 60 / window_s, 1),
        "kib_per_job": round(held_bytes / num_triggers / 1024),
        "api_calls_per_job_per_minute": round(calls / num_triggers * 60 / window_s, 1),
    }


@contextmanager
def _kubernetes(folder: Path, num_jobs: int, status: dict[str, str]) -> Iterator[Connection]:
    """The API in a process of its own, which folder/kubeconfig names: a pipe that answers how much was asked of it."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs, num_jobs, status))
    server.start()
    try:
        triggerer.kubeconfig(folder).write_text(json.dumps(ours.recv()))
        yield ours
    finally:
        ours.send("stop")
        server.join()


def _serve(requests: Connection, num_jobs: int, status: dict[str, str]) -> None:
    _silence()
    api = FakeKubernetes().start()
    spec = make_job(entrypoint="python -m work", cluster=resolve_cluster("small"))
    for index in range(num_jobs):
        api.add("rayjobs", {**spec.to_k8s(_name(index), "default", {}, {}), "status": status})
    ended = threading.Event()
    if status == RUNNING:
        threading.Thread(target=_print_lines, args=(api, num_jobs, ended)).start()
    requests.send(api.kubeconfig())
    while (asked := requests.recv()) != "stop":
        asked_for = [verb for verb, _ in api.requests if asked == "requests" or verb == "WATCH"]
        requests.send(len(asked_for))
    ended.set()
    api.stop()


def _silence() -> None:
    """No line for each line of a job, which goes to the tasks' logs in a triggerer, nor for each request."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    logging.disable(logging.INFO)


def _print_lines(api: FakeKubernetes, num_jobs: int, ended: threading.Event) -> None:
    while not ended.wait(LINE_S):
        for index in range(num_jobs):
            api.log(
                f"pod-{index}",
                "a line of some eighty characters, as a stage's progress might well be, or so",
                job=_name(index),
            )


def _name(index: int) -> str:
    return f"job-{index}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--triggers", type=int, default=1000)
    parser.add_argument("--window-s", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    return parser


if __name__ == "__main__":
    main()
