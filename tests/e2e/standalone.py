"""Airflow as `make airflow` starts it, driven over REST, and its processes, which a test may kill."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import psutil

from dags.standalone import ray_folder
from kuberay.backend import await_cluster, utc_now
from kuberay.cluster import resolve_cluster
from kuberay.local import LocalBackend, LocalSettings
from kuberay.names import Claim

ROOT = Path(__file__).resolve().parents[2]
AIRFLOW = str(Path(sys.executable).with_name("airflow"))
WAIT_TIMEOUT_S = 400
GRACE_S = 30


class Airflow:
    """One started Airflow. `stop` is Ctrl-C."""

    def __init__(self, home: Path, dags: Path, port: int) -> None:
        self._replaced: list[subprocess.Popen[bytes]] = []
        self._heads = ray_folder(home)
        self.url = f"http://127.0.0.1:{port}"
        # What other tests of this process have set is not this Airflow's.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "KUBERAY"))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dags.standalone", home, "--dags", dags, "--port", str(port)],
            env={**inherited, "KUBERAY_LOCAL_NUM_CPUS": "1"},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if match := re.search(r"user (\w+), password (\S+)", line):
                login = {"username": match[1], "password": match[2]}
                break
        else:
            raise AssertionError(f"Airflow did not start: {self.said}{(home / 'standalone.log').read_text()[-3000:]}")
        self._token = self._ask("POST", "/auth/token", login)["access_token"]

    def stop(self) -> int:
        for process in self._replaced:
            end(psutil.Process(process.pid))
            process.wait()
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(120)

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> "Run":
        wait_until(lambda: self.dag_is_known(dag_id), f"{dag_id} is parsed")
        answer = self.api("POST", f"/dags/{dag_id}/dagRuns", {"conf": conf, "logical_date": None})
        return Run(self, dag_id, answer["dag_run_id"])

    def dag_is_known(self, dag_id: str) -> bool:
        return dag_id in [dag["dag_id"] for dag in self.api("GET", "/dags")["dags"]]

    def restart(self, component: str) -> None:
        """End a component of the standalone Airflow and start another in its place."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        old = next(process for process in family if process.cmdline()[1:] == [AIRFLOW, component])
        environment = old.environ()
        end(old)
        self._replaced.append(
            subprocess.Popen([AIRFLOW, component], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        )

    def start_cluster(self) -> str:
        """A Ray head of no task's; returns its name once it takes jobs."""

        async def start() -> str:
            async with LocalBackend(LocalSettings(folder=self._heads, num_cpus=1)) as backend:
                claim = Claim(dag_id="tests", run_id="tests", task_id="shared")
                name = await backend.create_cluster(resolve_cluster("small"), claim, utc_now() + timedelta(hours=1))
                status = await await_cluster(backend, name, print, timeout_s=WAIT_TIMEOUT_S)
                assert status.state == "ready", status.message
                return name

        return asyncio.run(start())

    def rays(self) -> list[str]:
        """What runs of the Ray heads that this Airflow has started, and the records it has of them."""
        jobs = processes_with(self._heads, "KUBERAY_HEAD")
        return processes_with(self._heads) + jobs + [str(record) for record in self._heads.glob("**/*.json")]

    def api(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._ask(method, f"/api/v2{path}", body, {"Authorization": f"Bearer {self._token}"})

    def _ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json", **(headers or {})}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


class Run:
    """One run of a DAG whose only task is `work`."""

    def __init__(self, airflow: Airflow, dag_id: str, run_id: str) -> None:
        self._airflow = airflow
        self._dag_id = dag_id
        self._run = f"/dags/{dag_id}/dagRuns/{run_id}"
        self._run_id = run_id

    @property
    def task(self) -> dict[str, Any]:
        task: dict[str, Any] = self._airflow.api("GET", f"{self._run}/taskInstances/work")
        return task

    @property
    def states(self) -> list[str]:
        """Of the mapped instances of `work`."""
        return [task["state"] for task in self._airflow.api("GET", f"{self._run}/taskInstances")["task_instances"]]

    def wait(self, state: str) -> None:
        wait_until(lambda: self.task["state"] == state, f"the task is {state}", lambda: str(self.task))

    def mark_failed(self) -> None:
        self._airflow.api("PATCH", f"{self._run}/taskInstances/work", {"new_state": "failed"})

    def clear(self) -> None:
        body = {"dry_run": False, "dag_run_id": self._run_id, "task_ids": ["work"], "only_failed": False}
        self._airflow.api("POST", f"/dags/{self._dag_id}/clearTaskInstances", {**body, "reset_dag_runs": True})

    @property
    def log(self) -> list[str]:
        """The lines of all attempts so far."""
        return [line for attempt in range(self.task["try_number"]) for line in self.log_of(attempt + 1)]

    def log_of(self, attempt: int) -> list[str]:
        """None before the attempt has begun."""
        try:
            answer = self._airflow.api("GET", f"{self._run}/taskInstances/work/logs/{attempt}?full_content=true")
        except HTTPError:
            return []
        return [entry["event"] if isinstance(entry, dict) else entry for entry in answer["content"]]

    def get(self, path: str) -> Any:
        return self._airflow.api("GET", f"{self._run}/taskInstances/work/{path}")


def processes_with(path: Path, variable: str | None = None) -> list[str]:
    """Commands that name this path, or that run with it in an environment variable."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # gone meanwhile
            command = " ".join(process.cmdline())
            if str(path) in (process.environ().get(variable, "") if variable else command):
                found.append(command)
    return found


def end(process: psutil.Process) -> None:
    """As Kubernetes ends a pod: asked first, killed with all it started when the time of grace is over.

    A scheduler may hang there: it awaits executor workers that it forked while other threads of it ran.
    """
    family = [process, *process.children(recursive=True)]
    process.terminate()
    ended = time.monotonic() + GRACE_S
    while not has_ended(process) and time.monotonic() < ended:
        time.sleep(0.1)
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()


def has_ended(process: psutil.Process) -> bool:
    """Whether it runs no more, though its parent may not have taken notice."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(holds: Callable[[], bool], what: str, told: Callable[[], str] = str) -> None:
    ends = time.monotonic() + WAIT_TIMEOUT_S
    while not holds():
        assert time.monotonic() < ends, f"not within {WAIT_TIMEOUT_S} s: {what} {told()}"
        time.sleep(0.5)
