"""Runs the main job as a user does: a process of its own, looked at from outside."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

SAMPLES = Path(__file__).parents[1] / "data" / "sample_calls"


def write_spec(folder: Path, **sections: Any) -> Path:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def start_job(*arguments: object, module: str = "ray_jobs.run") -> subprocess.Popen[str]:
    """The job in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run_job(*arguments: object, module: str = "ray_jobs.run", timeout_s: float = 420) -> tuple[int, str]:
    """Exit code, and everything a user sees."""
    job = start_job(*arguments, module=module)
    try:
        output, _ = job.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        kill(job)
        raise
    return job.returncode, output


def wait_for(what: Callable[[], Any], job: subprocess.Popen[str], timeout_s: float = 240) -> Any:
    """The first true value of `what` while the job runs."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := what():
            return value
        if job.poll() is not None:
            raise AssertionError(f"the job ended first: {job.communicate()[0]}")
        time.sleep(0.05)
    kill(job)
    raise AssertionError("it did not happen in time")


def below(job: subprocess.Popen[str], command: str) -> list[psutil.Process]:
    """The job's descendants whose command line holds `command`."""
    found = []
    for process in psutil.Process(job.pid).children(recursive=True):
        try:
            if command in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill(job: subprocess.Popen[str]) -> None:
    """SIGKILL to the job and everything below it, at once, as an evicted pod gets it."""
    family = [*psutil.Process(job.pid).children(recursive=True), psutil.Process(job.pid)]
    for process in family:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    job.wait()
    psutil.wait_procs(family, timeout=30)


def read_table(output: Path, folder: str) -> pa.Table:
    """All rows of OUTPUT/folder/*.parquet, as any reader of Parquet sees them."""
    return pa.concat_tables([pq.read_table(path) for path in sorted((output / folder).glob("*.parquet"))])


def call_ids(output: Path, folder: str) -> list[str]:
    ids: list[str] = read_table(output, folder)["call_id"].to_pylist() if list((output / folder).glob("*")) else []
    return sorted(ids)


def report(output: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((output / "report.json").read_text())
    return document


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, **changes}
