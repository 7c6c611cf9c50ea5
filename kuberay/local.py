"""The same face on one machine: a Ray head as a detached process, jobs over its plain HTTP API, no Kubernetes.

This process needs no Ray: `ray_python` names the interpreter that has it. Each head has its own ports, token and
folder, leads a process group of its own, and is ended with all that it has started, never by `ray stop`, which ends
every Ray on the machine. coreutils' `timeout` bounds its life, so that it is gone after its expiry even if nobody
collects it.
"""

import asyncio
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self

import aiohttp

from kuberay import names
from kuberay.backend import ClusterStatus, JobStatus, Leftover, LogPosition, first_line, utc_now
from kuberay.cluster import ClusterSpec
from kuberay.errors import ApiError, InvalidSpecError, KubeRayError, UnreachableError
from kuberay.names import Claim, Metadata, RunEnded
from kuberay.rayjob import JobSpec

MAX_FOLDER_LENGTH = 26
"""Ray's longest socket below it, ID/ray/session_DATE_TIME_US_PID/sockets/dash_MetricsHead, leaves that much of 107."""

START_TIMEOUT_S = 180
STOP_TIMEOUT_S = 10
STOP_JOB_TIMEOUT_S = 60
POLL_S = 1.0
HEAD_MARK = "KUBERAY_HEAD"  # in the environment of all that a head starts
EXEC_POLLS = 10  # a process that is just becoming another program has no command line for a moment
ANSWERED = "answered"  # a file beside a head's record, once it has been up
START_UNTIL_ANSWERED = 'for attempt in 1 2 3 4 5; do "$@"; [ -e "$0" ] && break; done'
ALREADY_EXISTS = "already exists"  # Ray's answer to a submission id it knows has status 500, as many others
DRIVER_STATES: dict[str, Literal["waiting", "running", "succeeded", "failed"]] = {
    "PENDING": "waiting",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "failed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """Where heads keep their files and how they start. The folder's path is short: Unix sockets lie below it."""

    ray_python: str = sys.executable
    folder: Path = Path("/tmp") / f"kuberay-{os.getuid()}"  # as Ray's own: TMPDIR may be long
    num_cpus: int | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "LocalSettings":
        """KUBERAY_RAY_PYTHON, KUBERAY_LOCAL_FOLDER, KUBERAY_LOCAL_NUM_CPUS; each is optional.

        Raises InvalidSpecError where the number is none, or the folder's path too long.
        """
        num_cpus = environment.get("KUBERAY_LOCAL_NUM_CPUS", "")
        if num_cpus and not (num_cpus.isdecimal() and int(num_cpus)):
            raise InvalidSpecError([f"KUBERAY_LOCAL_NUM_CPUS={num_cpus}: give a whole number from 1"])
        folder = Path(environment.get("KUBERAY_LOCAL_FOLDER", cls().folder)).absolute()
        if len(os.fsencode(folder)) > MAX_FOLDER_LENGTH:
            limit = f"at most {MAX_FOLDER_LENGTH} characters, because Ray's Unix sockets lie below it"
            raise InvalidSpecError([f"KUBERAY_LOCAL_FOLDER={folder}: give a path of {limit}"])
        return cls(
            ray_python=environment.get("KUBERAY_RAY_PYTHON", cls().ray_python),
            folder=folder,
            num_cpus=int(num_cpus) if num_cpus else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """Written before its process starts, so that whoever dies in between leaves nothing that nobody knows of."""

    name: str
    folder: str
    port: int
    token: str
    metadata: Metadata

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return Path(self.folder) / "head.log"

    @property
    def group(self) -> int:
        """The process group; 0 where nothing was started."""
        try:
            return int(_pid_file(self.log).read_text())
        except (FileNotFoundError, ValueError):
            return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    name: str
    cluster: str
    owns_cluster: bool
    start_deadline: str
    deadline: str
    metadata: Metadata
    position: dict[str, Any] = field(default_factory=dict)


class LocalBackend:
    """See `kuberay.backend.Backend` for the verbs."""

    def __init__(self, settings: LocalSettings | None = None) -> None:
        self._settings = settings or LocalSettings()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._session = await self._stack.enter_async_context(aiohttp.ClientSession())
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    # --- clusters -------------------------------------------------------------------------------------------------

    async def create_cluster(self, spec: ClusterSpec, claim: Claim, expires_at: datetime) -> str:
        metadata = _metadata(claim, spec.spec_k8s(), expires_at)
        for head in self._heads():
            if head.metadata["labels"][names.TASK_LABEL] != claim.task_key:
                continue
            if names.same_work(head.metadata, metadata) and _alive(head):
                return head.name
            await self.delete_cluster(head.name)
        await asyncio.to_thread(self._start, spec, claim.name, metadata, expires_at)
        return claim.name

    async def watch_cluster(self, name: str) -> AsyncIterator[ClusterStatus]:
        while True:
            head = self._head(name)
            if head is None or not _alive(head):
                message = f"the Ray head has ended: {self._last_words(name)}" if head else "there is no such cluster"
                yield ClusterStatus(name=name, state="gone", message=message)
                return
            answers = await self._answers(head)
            yield ClusterStatus(name=name, state="ready" if answers else "waiting", dashboard_url=head.url)
            await asyncio.sleep(POLL_S)

    async def delete_cluster(self, name: str) -> None:
        head = self._head(name)
        if head is not None:
            await asyncio.to_thread(_end, head)
        await asyncio.to_thread(shutil.rmtree, self._folder(name), True)

    async def clusters_of(self, task_key: str) -> list[str]:
        return [head.name for head in self._heads() if head.metadata["labels"][names.TASK_LABEL] == task_key]

    # --- jobs -----------------------------------------------------------------------------------------------------

    async def submit_job(self, spec: JobSpec, claim: Claim, expires_at: datetime) -> str:
        metadata = _metadata(claim, spec.spec_k8s(), expires_at)
        for job in self._jobs():
            if job.metadata["labels"][names.TASK_LABEL] != claim.task_key:
                continue
            status = await self._look(job)
            if names.same_work(job.metadata, metadata) and (status is None or status.state not in ("failed", "gone")):
                await self._submit(spec, job)  # whoever made the record may have died before this
                return job.name
            await self.delete_job(job.name)
        now = utc_now()
        job = _Job(
            name=claim.name,
            cluster=spec.cluster_name or claim.name,
            owns_cluster=spec.cluster is not None,
            start_deadline=(now + timedelta(seconds=spec.start_deadline_s or spec.deadline_s)).isoformat(),
            deadline=(now + timedelta(seconds=spec.deadline_s)).isoformat(),
            metadata=metadata,
        )
        self._write_job(job)
        try:
            if spec.cluster:
                await self.create_cluster(spec.cluster, claim, expires_at)
            await self._submit(spec, job)
        except KubeRayError:
            await self.delete_job(job.name)
            raise
        return job.name

    async def watch_job(self, name: str) -> AsyncIterator[JobStatus]:
        while True:
            job = self._job(name)
            if job is None:
                yield JobStatus(name=name, state="gone", message="there is no such job")
                return
            status = await self._look(job)
            if status is not None:
                yield status
                if status.finished:
                    return
            await asyncio.sleep(POLL_S)

    async def delete_job(self, name: str) -> None:
        job = self._job(name)
        if job is None:
            return
        if job.owns_cluster:
            await self.delete_cluster(job.cluster)
        else:
            await self._stop(job)
        self._job_path(name).unlink(missing_ok=True)

    # --- logs -----------------------------------------------------------------------------------------------------

    async def read_logs(self, name: str, position: LogPosition) -> tuple[list[str], LogPosition]:
        job, head = self._job_and_head(name)
        if job is None or head is None or not _alive(head):
            return [], position
        status = await self._look(job)
        text: str = (await self._ask(head, "GET", f"/api/jobs/{name}/logs"))["logs"]
        lines = text.split("\n")
        last = lines.pop()  # what follows the last line end: nothing, or a line still being written
        if last and status is not None and status.finished:
            lines.append(last)
        return lines[position.num_lines :], LogPosition(source=name, num_lines=max(len(lines), position.num_lines))

    async def load_position(self, name: str) -> LogPosition:
        job = self._job(name)
        return LogPosition(**job.position) if job else LogPosition()

    async def save_position(self, name: str, position: LogPosition) -> None:
        job = self._job(name)
        if job is not None:
            self._write_job(replace(job, position=asdict(position)))

    # --- progress and collection ----------------------------------------------------------------------------------

    async def pending(self, name: str) -> list[str]:
        head = self._head(name)
        starting = head is not None and _alive(head) and not await self._answers(head)
        return [f"the Ray head is starting: {self._last_words(name)}"] if starting else []

    async def leftovers(self, now: datetime, run_ended: RunEnded | None = None) -> list[Leftover]:
        jobs = list(self._jobs())
        own = {job.cluster for job in jobs if job.owns_cluster}
        records: list[tuple[Literal["RayJob", "RayCluster"], _Job | _Head]] = [("RayJob", job) for job in jobs]
        records += [("RayCluster", head) for head in self._heads() if head.name not in own]
        return [
            Leftover(kind=kind, name=record.name, reason=reason)
            for kind, record in records
            if (reason := await names.why_leftover(record.metadata, now, run_ended))
        ]

    # --- the head process -----------------------------------------------------------------------------------------

    def _start(self, spec: ClusterSpec, name: str, metadata: Metadata, expires_at: datetime) -> None:
        _check_ray(self._settings.ray_python)
        folder = self._folder(name)
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        dashboard, gcs, client, agent = _free_ports(4)
        token = secrets.token_hex(16)
        lifetime_s = max(60, int((expires_at - utc_now()).total_seconds()))
        command = [
            *("timeout", "--kill-after=20", str(lifetime_s)),
            # On a busy machine Ray gives up its start after 30 s, whatever is set.
            *("sh", "-c", START_UNTIL_ANSWERED, str(folder / ANSWERED)),
            *(self._settings.ray_python, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *("--disable-usage-stats", "--log-style=pretty", "--log-color=false"),
            *(f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
            *(f"--dashboard-agent-listen-port={agent}", f"--temp-dir={folder / 'ray'}"),
            *("--dashboard-host=127.0.0.1", "--include-dashboard=true"),
            f"--resources={json.dumps(_total_resources(spec))}",
            *([f"--num-cpus={self._settings.num_cpus}"] if self._settings.num_cpus else []),
        ]
        head = _Head(name=name, folder=str(folder), port=dashboard, token=token, metadata=metadata)
        _write(folder / "head.json", asdict(head))
        _detach(command, head.log, _environment(self._settings.ray_python, head))

    def _last_words(self, name: str) -> str:
        """The head's last line; where a process of its has died, that of this process, and which it was."""
        log = self._folder(name) / "head.log"
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()] if log.exists() else []
        spoken = [line for line in lines if line and line != "Remaining processes will be killed."] or ["no output"]
        dead = re.match(r"-+ END (\S+) tail", spoken[-1])
        if dead is None:
            return spoken[-1]
        words = [line for line in spoken if not re.match(r"-+ (BEGIN|END) ", line)]
        return f"{dead[1]}: {words[-1]}"

    # --- requests -------------------------------------------------------------------------------------------------

    async def _submit(self, spec: JobSpec, job: _Job) -> None:
        body = {
            "submission_id": job.name,
            "entrypoint": spec.entrypoint,
            "runtime_env": spec.runtime_env,
            "metadata": spec.metadata,
            "entrypoint_num_cpus": spec.entrypoint_num_cpus,
            "entrypoint_num_gpus": spec.entrypoint_num_gpus,
            "entrypoint_resources": spec.entrypoint_resources,
        }
        ends = time.monotonic() + START_TIMEOUT_S
        while True:
            head = await self._ready_head(job.cluster)
            try:
                await self._ask(head, "POST", "/api/jobs/", json=body)
                return
            except ApiError as error:
                if ALREADY_EXISTS in str(error):
                    return
                raise
            except UnreachableError:  # a new head takes jobs some time after it first answers
                if time.monotonic() > ends:
                    raise

    async def _ready_head(self, cluster: str) -> _Head:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                async for status in self.watch_cluster(cluster):
                    head = self._head(cluster)
                    if status.state == "ready" and head is not None:
                        return head
                    message = status.message
        except TimeoutError:
            message = f"it does not answer after {START_TIMEOUT_S} s: {self._last_words(cluster)}"
        raise ApiError(f"local cluster {cluster} cannot take a job: {message}")

    async def _look(self, job: _Job) -> JobStatus | None:
        """The job's status; None where the head does not answer, which says nothing about the job."""
        head = self._head(job.cluster)
        if head is None or not _alive(head):
            return JobStatus(name=job.name, state="gone", message="the Ray head has ended", cluster=job.cluster)
        known = JobStatus(name=job.name, state="waiting", cluster=job.cluster, dashboard_url=head.url)
        try:
            answer = await self._ask(head, "GET", f"/api/jobs/{job.name}")
        except UnreachableError:
            return None
        except ApiError:
            return replace(known, state="gone", message="the Ray head does not know this job")
        state = DRIVER_STATES[answer["status"]]
        for reason, deadline, states in (
            ("DeadlineExceeded", job.deadline, ("waiting", "running")),
            ("PreRunningDeadlineExceeded", job.start_deadline, ("waiting",)),
        ):
            if state in states and utc_now() > datetime.fromisoformat(deadline):
                await self._stop(job)
                return replace(known, state="failed", message=f"{reason}: the job was stopped")
        message = "" if state in ("waiting", "running") else first_line(answer.get("message") or "")
        return replace(known, state=state, message=message)

    async def _stop(self, job: _Job) -> None:
        """Stop the driver and return once it has ended; Ray kills it three seconds after asking.

        One that still waits for resources is left waiting: Ray stops it as soon as it starts, if it ever does.
        """
        head = self._head(job.cluster)
        if head is None or not _alive(head):
            return
        state = "waiting"
        try:
            await self._ask(head, "POST", f"/api/jobs/{job.name}/stop")
            async with asyncio.timeout(STOP_JOB_TIMEOUT_S):
                while state in ("waiting", "running"):
                    state = DRIVER_STATES[(await self._ask(head, "GET", f"/api/jobs/{job.name}"))["status"]]
                    await asyncio.sleep(0.5)
        except TimeoutError:
            if state == "running":
                late = f"{STOP_JOB_TIMEOUT_S} s after it was told to stop"
                raise ApiError(f"job {job.name} is still running {late}") from None
        except KubeRayError:
            return  # the head went away meanwhile, and the job with it

    async def _answers(self, head: _Head) -> bool:
        try:
            await self._ask(head, "GET", "/api/jobs/", attempts=1)
        except KubeRayError:
            return False
        with suppress(FileNotFoundError):  # deleted meanwhile
            (Path(head.folder) / ANSWERED).touch()
        return True

    async def _ask(self, head: _Head, method: str, path: str, attempts: int = 5, json: Any = None) -> Any:
        """Raises ApiError where the head says no, UnreachableError where it does not answer."""
        headers = {"X-Ray-Authorization": f"Bearer {head.token}"}
        for attempt in range(attempts):
            await asyncio.sleep(min(attempt, 3))
            try:
                timeout = aiohttp.ClientTimeout(total=30)
                async with self._session.request(
                    method, head.url + path, json=json, headers=headers, timeout=timeout
                ) as answer:
                    if answer.status < 400:
                        return await answer.json()
                    problem = f"{answer.status} {_last_line(await answer.text())}"
                    if answer.status < 500 or ALREADY_EXISTS in problem:  # else the head is busy
                        raise ApiError(f"{method} {path} on the Ray head: {problem}")
            except (aiohttp.ClientError, TimeoutError) as error:
                problem = str(error) or type(error).__name__
        raise UnreachableError(f"{method} {path} on the Ray head {head.name}: {problem}")

    # --- records --------------------------------------------------------------------------------------------------

    def _folder(self, name: str) -> Path:
        return self._settings.folder / hashlib.sha256(name.encode()).hexdigest()[:8]

    def _job_path(self, name: str) -> Path:
        return self._settings.folder / "jobs" / f"{name}.json"

    def _heads(self) -> Iterator[_Head]:
        for path in sorted(self._settings.folder.glob("*/head.json")):
            if (document := _read(path)) is not None:
                yield _Head(**document)

    def _jobs(self) -> Iterator[_Job]:
        for path in sorted(self._settings.folder.glob("jobs/*.json")):
            if (document := _read(path)) is not None:
                yield _Job(**document)

    def _head(self, name: str) -> _Head | None:
        document = _read(self._folder(name) / "head.json")
        return _Head(**document) if document else None

    def _job(self, name: str) -> _Job | None:
        document = _read(self._job_path(name))
        return _Job(**document) if document else None

    def _job_and_head(self, name: str) -> tuple[_Job | None, _Head | None]:
        job = self._job(name)
        return job, self._head(job.cluster) if job else None

    def _write_job(self, job: _Job) -> None:
        _write(self._job_path(job.name), asdict(job))


def _metadata(claim: Claim, spec: dict[str, Any], expires_at: datetime) -> Metadata:
    return {"labels": claim.labels, "annotations": names.annotations(claim, spec, expires_at)}


def _total_resources(spec: ClusterSpec) -> dict[str, int]:
    """One machine stands for the largest cluster: every custom resource a job may ask for is there."""
    total = dict(spec.head.ray_resources)
    for group in spec.workers:
        for name, amount in group.ray_resources.items():
            total[name] = total.get(name, 0) + amount * group.max_replicas
    return total


def _check_ray(ray_python: str) -> None:
    """Raises InvalidSpecError where the interpreter is not there or has no Ray."""
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('ray') is None)"
    if shutil.which(ray_python) is None:
        reason = "there is no such program"
    elif subprocess.run([ray_python, "-c", look], capture_output=True).returncode:
        reason = "Ray is not installed there"
    else:
        return
    raise InvalidSpecError([f"KUBERAY_RAY_PYTHON={ray_python}: {reason}; name the Python that has Ray"])


def _environment(ray_python: str, head: _Head) -> dict[str, str]:
    """Ours without Airflow's secrets, with `python` meaning the interpreter that has Ray, and the head's mark."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "_AIRFLOW", "RAY_"))}
    path = os.pathsep.join([str(Path(ray_python).parent), kept.get("PATH", os.defpath)])
    return {
        **kept,
        "PATH": path,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": head.token,
        # On a busy machine Ray's agent is late, and with it Ray would give up the whole head after 30 s.
        "RAY_agent_register_timeout_ms": str(START_TIMEOUT_S * 1000),
        HEAD_MARK: head.folder,
    }


def _last_line(text: str) -> str:
    """What happened: Ray answers with a traceback."""
    lines = [line.strip() for line in text.splitlines() if any(map(str.isalnum, line))]
    return lines[-1] if lines else "no reason is given"


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _detach(command: list[str], log: Path, environment: dict[str, str]) -> None:
    """Start a command in a session of its own, as nobody's child; the shell notes its process group beside the log."""
    script = 'setsid "$@" </dev/null >"$0" 2>&1 & echo $! >"$0.pid"'
    subprocess.run(["sh", "-c", script, str(log), *command], env=environment, check=True)


def _pid_file(log: Path) -> Path:
    return log.with_name(f"{log.name}.pid")


def _alive(head: _Head) -> bool:
    return head.folder in _command(head.group)


def _end(head: _Head) -> None:
    """TERM to all of the head's processes, then KILL to what is left and to what that has started meanwhile."""
    _signal(head, signal.SIGTERM)
    if _ended(head, STOP_TIMEOUT_S):
        return
    for _ in range(STOP_TIMEOUT_S):
        _signal(head, signal.SIGKILL)
        if _ended(head, 1):
            return
    raise ApiError(f"processes of the local Ray head {head.name} outlive SIGKILL: {_processes(head)}")


def _signal(head: _Head, sign: signal.Signals) -> None:
    for pid in _processes(head):
        with suppress(ProcessLookupError):
            os.kill(pid, sign)


def _ended(head: _Head, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while running := _processes(head):
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return not running


def _processes(head: _Head) -> list[int]:
    """Process ids of the head's group, and of whatever carries its mark: a job's driver has a session of its own, and
    what Ray renames loses its environment. Zombies, which only wait to be reaped, do not count.
    """
    leader = _command(head.group)
    # None where nothing was started (0 would be the kernel's own), or the number is somebody else's by now.
    group = head.group if head.group and (not leader or head.folder in leader) else None
    mark = f"{HEAD_MARK}={head.folder}\0".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, _, process_group = (path / "stat").read_text(errors="replace").rpartition(")")[2].split()[:3]
            ours = state not in "ZX" and (int(process_group) == group or mark in (path / "environ").read_bytes())
        except OSError:  # gone meanwhile, or another user's
            continue
        if ours:
            found.append(int(path.name))
    return found


def _command(pid: int) -> str:
    """The command line of a process, which names the head's folder in ours; "" where it does not run."""
    with suppress(OSError):
        for _ in range(EXEC_POLLS):
            if command := Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"):
                return command
            time.sleep(0.01)
    return ""


def _write(path: Path, document: dict[str, Any]) -> None:
    """Whole or not at all, and for this user only: a head's record holds its token."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
    with os.fdopen(handle, "w") as file:
        json.dump(document, file)
    os.replace(temporary, path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise InvalidSpecError([f"{path} is not a record of the local backend; delete it"]) from None
    return document
