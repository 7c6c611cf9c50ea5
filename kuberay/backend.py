"""The face that Kubernetes and the local head share, what it reports, and how to follow it to the end.

Everything is asyncio, so that one triggerer holds a thousand waiting jobs. A synchronous caller wraps it in `blocking`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, Self, TypeVar

from kuberay.cluster import ClusterSpec
from kuberay.errors import ApiError, UnreachableError
from kuberay.names import Claim, RunEnded
from kuberay.rayjob import JobSpec

Answer = TypeVar("Answer")

Emit = Callable[[str], None]
"""Takes one line for a person; the caller decides where it goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """What is known of a job. `failed` includes stopped, deadline passed and refused; `gone` is deleted by somebody."""

    name: str
    state: Literal["waiting", "running", "succeeded", "failed", "gone"]
    message: str = ""
    cluster: str = ""
    dashboard_url: str = ""

    @property
    def finished(self) -> bool:
        return self.state in ("succeeded", "failed", "gone")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """What is known of a cluster; `ready` once the head and every pod asked for at the start have been up together."""

    name: str
    state: Literal["waiting", "ready", "gone"]
    message: str = ""
    dashboard_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPosition:
    """How far a job's log has been read.

    `source` names the stream (a pod, a job), `time` is the RFC 3339 stamp of its last line where lines are stamped,
    `num_lines` counts the lines read of all streams.
    """

    source: str = ""
    time: str = ""
    num_lines: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """An object that should no longer exist, and why."""

    kind: Literal["RayCluster", "RayJob"]
    name: str
    reason: str


class Backend(Protocol):
    """Where clusters and jobs live. Open it with `async with`.

    Each verb raises ApiError or one of its kinds where the answer is no, and UnreachableError where there was none
    after retries. The watches retry for ever: a poll that fails is not a job that fails.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exception: object) -> None: ...

    async def create_cluster(self, spec: ClusterSpec, claim: Claim, expires_at: datetime) -> str:
        """Name of the cluster for this claim: created, or adopted from this or an earlier attempt."""

    def watch_cluster(self, name: str) -> AsyncIterator[ClusterStatus]:
        """The status now, and again after each change, until `gone`."""

    async def delete_cluster(self, name: str) -> None:
        """Delete it and return once it is gone; fine where there is none."""

    async def clusters_of(self, task_key: str) -> list[str]:
        """Names of the clusters that a task instance has created, whichever attempt it was (`Claim.task_key`)."""

    async def submit_job(self, spec: JobSpec, claim: Claim, expires_at: datetime) -> str:
        """Name of the job for this claim: created, or adopted from this or an earlier attempt."""

    def watch_job(self, name: str) -> AsyncIterator[JobStatus]:
        """The status now, and again after each change, until it has finished."""

    async def delete_job(self, name: str) -> None:
        """Cancel: delete it with its own cluster, if it has one, and return once both are gone."""

    async def read_logs(self, name: str, position: LogPosition) -> tuple[list[str], LogPosition]:
        """Lines of the job's output after `position`, without line ends, and the position after them."""

    async def load_position(self, name: str) -> LogPosition:
        """The position last saved with the job."""

    async def save_position(self, name: str, position: LogPosition) -> None:
        """Keep the position with the job, where the next reader, in whichever process, finds it."""

    async def pending(self, name: str) -> list[str]:
        """What a cluster, or a job that has none yet, waits for: a line per worker group, then warnings; or nothing."""

    async def leftovers(self, now: datetime, run_ended: RunEnded | None = None) -> list[Leftover]:
        """Objects past their expiry, and those of runs that have ended where `run_ended` is given."""


async def follow_job(
    backend: Backend, name: str, emit: Emit, *, log_interval_s: float = 15.0, pending_interval_s: float = 30.0
) -> JobStatus:
    """Emit the job's progress and log until it has finished; returns its last status.

    Log lines that an earlier reader has saved as read are not emitted again. The message of a job that failed before it
    ran says what it still waits for.
    """
    latest = JobStatus(name=name, state="waiting")
    has_run = False
    log = _LogReader(backend, name, emit)

    async def report_pending() -> None:
        told: list[str] = []
        while True:
            await asyncio.sleep(pending_interval_s)
            if latest.state == "waiting":
                lines = await _quietly(backend.pending(latest.cluster or name), [])
                for line in lines if lines != told else []:
                    emit(line)
                told = lines

    async def pump_logs() -> None:
        while True:
            await asyncio.sleep(log_interval_s)
            if latest.state != "waiting":
                await log.read()

    helpers = [asyncio.create_task(report_pending()), asyncio.create_task(pump_logs())]
    try:
        async for status in backend.watch_job(name):
            if (status.state, status.message) != (latest.state, latest.message):
                emit(f"job {name}: {status.state}{f', {status.message}' if status.message else ''}")
            has_run = has_run or status.state == "running"
            latest = status
            if status.finished:
                break
    finally:
        await _stop(helpers)
    await log.read()
    if latest.state == "failed" and not has_run:
        waits_for = await _quietly(backend.pending(latest.cluster or name), [])
        return replace(latest, message="; ".join(filter(None, [latest.message, *waits_for])))
    return latest


async def await_cluster(
    backend: Backend, name: str, emit: Emit, *, timeout_s: float, pending_interval_s: float = 30.0
) -> ClusterStatus:
    """Emit what the cluster waits for until it is ready or gone, or `timeout_s` has passed; returns its last status."""
    latest = ClusterStatus(name=name, state="waiting")
    waiting_for: list[str] = []

    async def report_pending() -> None:
        while True:
            await asyncio.sleep(pending_interval_s)
            lines = await _quietly(backend.pending(name), waiting_for)
            for line in lines if lines != waiting_for else []:
                emit(line)
            waiting_for[:] = lines

    helper = asyncio.create_task(report_pending())
    try:
        async with asyncio.timeout(timeout_s):
            async for status in backend.watch_cluster(name):
                latest = status
                if status.state != "waiting":
                    return status
    except TimeoutError:
        waiting_for[:] = await _quietly(backend.pending(name), waiting_for)
    finally:
        await _stop([helper])
    why = "; ".join(waiting_for) or latest.message or "no reason is known"
    return ClusterStatus(name=name, state="waiting", message=f"not ready after {timeout_s:.0f} s: {why}")


class _LogReader:
    """Emits each line of a job's log once; a log that cannot be read now is read later and never fails a job."""

    def __init__(self, backend: Backend, name: str, emit: Emit) -> None:
        self._backend = backend
        self._name = name
        self._emit = emit
        self._position: LogPosition | None = None

    async def read(self) -> None:
        with suppress(UnreachableError, ApiError):
            if self._position is None:
                self._position = await self._backend.load_position(self._name)
            before = self._position
            lines, self._position = await self._backend.read_logs(self._name, before)
            for line in lines:
                self._emit(line)
            if self._position != before:
                await self._backend.save_position(self._name, self._position)


async def collect(
    backend: Backend, now: datetime, run_ended: RunEnded | None = None, *, dry_run: bool = False
) -> list[Leftover]:
    """Delete what should no longer exist, jobs before the clusters they run on; returns what it was."""
    found = await backend.leftovers(now, run_ended)
    for leftover in found if not dry_run else []:
        await (backend.delete_job if leftover.kind == "RayJob" else backend.delete_cluster)(leftover.name)
    return found


async def _quietly(answer: Awaitable[list[str]], otherwise: list[str]) -> list[str]:
    try:
        return await answer
    except (UnreachableError, ApiError):
        return otherwise


async def _stop(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task


def blocking(coroutine: Coroutine[Any, Any, Answer]) -> Answer:
    """Run a coroutine to its end from synchronous code, also in a signal handler that has interrupted an event loop."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def first_line(text: str) -> str:
    """What happened, without the end of the log that Ray appends to it: the log is shown anyway."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line.partition(", last available logs")[0]


def utc_now() -> datetime:
    return datetime.now(UTC)
