"""The local backend on a real Ray head: one head for the module, started and ended as a user would."""

import asyncio
import os
import shutil
import signal
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kuberay.backend import LogPosition, await_cluster, collect, follow_job
from kuberay.cluster import parse_cluster
from kuberay.errors import ApiError, UnreachableError
from kuberay.local import LocalBackend, LocalSettings
from kuberay.names import Claim
from kuberay.rayjob import make_job

pytestmark = pytest.mark.integration

CLAIM = Claim(dag_id="asr", run_id="r1", task_id="cluster")
JOB_CLAIM = replace(CLAIM, task_id="job")
SPEC = parse_cluster(
    {
        "image": "none",
        "head": {"cpu": 1, "memory": "1Gi"},
        "workers": [{"name": "w", "cpu": 1, "memory": "1Gi", "ray_resources": {"spark": 2}}],
    }
)
LATER = datetime.now(UTC) + timedelta(hours=1)


def run(work):
    async def inside():
        async with LocalBackend(SETTINGS[0]) as backend:
            return await work(backend)

    return asyncio.run(inside())


SETTINGS: list[LocalSettings] = []


def python_whose_ray_fails_to_start_once(folder: Path) -> Path:
    path = folder / "python"
    fail = f'[ "$2" = ray.scripts.scripts ] && mkdir {folder}/tried 2>/dev/null && echo "timed out" && exit 1'
    path.write_text(f'#!/bin/sh\n{fail}\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    # Unix sockets lie below this folder, and their paths are at most 107 bytes long.
    folder = Path("/tmp") / f"kuberay-test-{os.getpid()}"
    ray_python = python_whose_ray_fails_to_start_once(tmp_path_factory.mktemp("python"))
    SETTINGS[:] = [LocalSettings(ray_python=str(ray_python), folder=folder, num_cpus=1)]

    async def start(backend):
        name = await backend.create_cluster(SPEC, CLAIM, LATER)
        status = await await_cluster(backend, name, print, timeout_s=170)
        assert status.state == "ready", status.message
        return name

    name = run(start)
    yield name
    run(lambda backend: backend.delete_cluster(name))
    assert processes_under(folder) == []
    assert not list(folder.glob("*/head.json"))
    shutil.rmtree(folder)


def processes_under(folder):
    """Commands, or environments of commands, that name this folder: a job's driver says it in its environment only."""
    told = [readable(path) for name in ("cmdline", "environ") for path in Path("/proc").glob(f"[0-9]*/{name}")]
    return [text for text in told if str(folder).encode() in text]


def readable(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def job(cluster, code, **fields):
    return make_job(entrypoint=f"python -u -c '{code}'", cluster_name=cluster, **fields)


def follow(name, emit):
    return run(lambda backend: follow_job(backend, name, emit, log_interval_s=0.5))


def test_a_head_whose_start_fails_is_started_again(cluster):
    log = next(SETTINGS[0].folder.glob("*/head.log")).read_text()
    assert log.startswith("timed out\n")
    assert "Ray runtime started" in log


def test_a_job_runs_where_ray_is_and_its_log_is_read_once(cluster):
    spec = job(cluster, 'import ray; print("ray", ray.__version__)', entrypoint_resources={"spark": 1})
    claim = replace(JOB_CLAIM, task_id="prints")
    name = run(lambda backend: backend.submit_job(spec, claim, LATER))
    lines: list[str] = []
    assert follow(name, lines.append).state == "succeeded"
    assert any(line.startswith("ray 2.") for line in lines)
    again: list[str] = []
    assert follow(name, again.append).state == "succeeded"
    assert not any(line.startswith("ray 2.") for line in again)


def test_a_failing_job_says_how_it_failed(cluster):
    spec = job(cluster, "import sys; sys.exit(3)")
    name = run(lambda backend: backend.submit_job(spec, replace(JOB_CLAIM, task_id="fails"), LATER))
    status = follow(name, print)
    assert status.state == "failed"
    assert "exit code 3" in status.message
    assert "\n" not in status.message


def test_a_retry_adopts_a_running_job_and_a_clear_replaces_it(cluster):
    spec = job(cluster, "import time; time.sleep(600)")
    claim = replace(JOB_CLAIM, task_id="sleeps")

    async def attempts(backend):
        first = await backend.submit_job(spec, claim, LATER)
        retried = await backend.submit_job(spec, replace(claim, attempt=2), LATER)
        cleared = await backend.submit_job(spec, replace(claim, attempt=3, times_cleared=1), LATER)
        gone = await anext(backend.watch_job(first))
        await backend.delete_job(cleared)
        return first, retried, cleared, gone

    first, retried, cleared, gone = run(attempts)
    assert first == retried != cleared
    assert gone.state == "gone"


def test_a_deadline_stops_the_job(cluster):
    spec = job(cluster, "import time; time.sleep(600)", deadline_s=5)
    name = run(lambda backend: backend.submit_job(spec, replace(JOB_CLAIM, task_id="deadline"), LATER))
    status = follow(name, print)
    assert (status.state, status.message) == ("failed", "DeadlineExceeded: the job was stopped")


def test_a_job_that_never_starts_is_stopped_at_its_start_deadline(cluster, monkeypatch):
    monkeypatch.setattr("kuberay.local.STOP_JOB_TIMEOUT_S", 3)  # how long Ray may take to start it after all
    spec = job(cluster, "1", entrypoint_resources={"nowhere": 1}, start_deadline_s=5)
    name = run(lambda backend: backend.submit_job(spec, replace(JOB_CLAIM, task_id="waits"), LATER))
    status = follow(name, print)
    assert (status.state, status.message) == ("failed", "PreRunningDeadlineExceeded: the job was stopped")


def test_a_head_that_does_not_answer_says_nothing_about_its_job(cluster):
    busy = UnreachableError("busy")
    answers = [busy, {"status": "RUNNING"}, busy, {"status": "SUCCEEDED", "message": ""}]

    async def answer(*request):
        given = answers.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    async def states(backend):
        name = await backend.submit_job(job(cluster, "1"), replace(JOB_CLAIM, task_id="busy"), LATER)
        backend._ask = answer
        return [status.state async for status in backend.watch_job(name)]

    assert run(states) == ["running", "succeeded"]


def test_a_job_whose_submitter_died_before_it_was_sent_runs_in_the_next_attempt(cluster, monkeypatch):
    spec, claim = job(cluster, 'print("ran")'), replace(JOB_CLAIM, task_id="unsent")

    async def die(*arguments):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(LocalBackend, "_submit", die)
        with pytest.raises(MemoryError):
            run(lambda backend: backend.submit_job(spec, claim, LATER))
    name = run(lambda backend: backend.submit_job(spec, replace(claim, attempt=2), LATER))
    lines: list[str] = []
    assert follow(name, lines.append).state == "succeeded"
    assert lines.count("ran") == 1


def test_the_token_guards_the_head(cluster):
    async def without_token(backend):
        head = backend._head(cluster)
        with pytest.raises(ApiError, match=r"401|403"):
            await backend._ask(replace(head, token="wrong"), "GET", "/api/jobs/")

    run(without_token)


def test_an_unfinished_line_waits_for_its_end(cluster):
    code = 'import sys, time; sys.stdout.write("begun"); sys.stdout.flush(); time.sleep(600)'
    claim = replace(JOB_CLAIM, task_id="unfinished")

    async def read(backend):
        name = await backend.submit_job(job(cluster, code), claim, LATER)
        async for status in backend.watch_job(name):
            if status.state == "running":
                break
        await asyncio.sleep(3)
        before = await backend.read_logs(name, LogPosition())
        await backend._stop(backend._job(name))
        after = await backend.read_logs(name, LogPosition())
        await backend.delete_job(name)
        return before[0], after[0]

    before, after = run(read)
    assert "begun" not in before
    assert "begun" in after


def test_a_job_on_a_cluster_that_is_not_there_is_one_clear_line():
    SETTINGS[:] = SETTINGS or [LocalSettings(folder=Path("/tmp") / f"kuberay-test-{os.getpid()}")]
    with pytest.raises(ApiError, match="local cluster nowhere cannot take a job: there is no such cluster"):
        run(lambda backend: backend.submit_job(job("nowhere", "1"), replace(JOB_CLAIM, task_id="lost"), LATER))


def test_a_head_whose_starter_died_before_it_ran_is_found_and_removed(tmp_path, monkeypatch):
    def die(*arguments):
        raise MemoryError

    monkeypatch.setattr("kuberay.local._detach", die)

    async def start_look_and_delete():
        async with LocalBackend(LocalSettings(folder=tmp_path)) as backend:
            with pytest.raises(MemoryError):
                await backend.create_cluster(SPEC, CLAIM, LATER)
            (name,) = await backend.clusters_of(CLAIM.task_key)
            status = await anext(backend.watch_cluster(name))
            await backend.delete_cluster(name)
            return status.state

    assert asyncio.run(start_look_and_delete()) == "gone"
    assert not list(tmp_path.glob("*"))


def test_collection_ends_what_has_expired(cluster):
    spec = job(cluster, "import time; time.sleep(600)")
    past = datetime.now(UTC) - timedelta(hours=1)
    name = run(lambda backend: backend.submit_job(spec, replace(JOB_CLAIM, task_id="expired"), past))
    found = run(lambda backend: collect(backend, datetime.now(UTC)))
    assert ("RayJob", name) in [(leftover.kind, leftover.name) for leftover in found]
    assert ("RayCluster", cluster) not in [(leftover.kind, leftover.name) for leftover in found]
    assert run(lambda backend: anext(backend.watch_job(name))).state == "gone"


def test_a_head_killed_by_hand_ends_its_jobs(cluster):
    """The last test: it takes the module's head away."""

    async def kill(backend):
        claim = replace(JOB_CLAIM, task_id="cut off")
        name = await backend.submit_job(job(cluster, "import time; time.sleep(600)"), claim, LATER)
        async for status in backend.watch_job(name):
            if status.state == "running":
                os.killpg(backend._head(cluster).group, signal.SIGKILL)
        return status

    status = run(kill)
    assert (status.state, status.message) == ("gone", "the Ray head has ended")
