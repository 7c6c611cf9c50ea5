"""The backend that is KubeRay: RayClusters and RayJobs through the Kubernetes API, over kubernetes_asyncio.

The rights it needs are those of kuberay/manifests/rbac.yaml: rayclusters and rayjobs (get, list, watch, create, patch,
delete), pods (list) and their logs (get), events (list). It never reads a Secret and never talks to a Ray head: a
job's log is the log of the pod that KubeRay submits it with, which outlives the cluster.
"""

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Literal, Self

import aiohttp
from kubernetes_asyncio import client as kubernetes
from kubernetes_asyncio import config as kubernetes_config

from kuberay import names
from kuberay.backend import ClusterStatus, JobStatus, Leftover, LogPosition, first_line, utc_now
from kuberay.cluster import API_VERSION, ClusterSpec
from kuberay.errors import (
    ApiError,
    ForbiddenError,
    KubeRayError,
    NotInstalledError,
    QuotaExceededError,
    UnreachableError,
)
from kuberay.names import Claim, RunEnded
from kuberay.rayjob import JobSpec
from kuberay.rules import Manifest

Connect = Callable[[], AbstractAsyncContextManager[kubernetes.ApiClient]]
Kind = Literal["RayCluster", "RayJob"]

GROUP, VERSION = API_VERSION.split("/")
PLURALS: dict[Kind, str] = {"RayCluster": "rayclusters", "RayJob": "rayjobs"}

WATCH_S = 240
"""Length of one watch: shorter than the five minutes after which load balancers cut idle connections."""

ANSWER_S = 60
"""Longest wait for an answer that is no watch."""

REFUSAL_GRACE_S = 120.0
"""How long a watch that has been allowed takes a refusal for a server that has just started: until such a one has read
its roles, it forbids everything."""

MAX_ATTEMPTS = 6
MAX_BACKOFF_S = 30.0
DELETE_TIMEOUT_S = 900
UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT, GONE = 401, 403, 404, 409, 410
PASSING = {408, 429, 500, 502, 503, 504}
READY_CONDITIONS = ("HeadPodReady", "RayClusterProvisioned")

MAX_WARNINGS = 3
"""Newest different warning events that are told of one object: the operator repeats itself as it retries."""

MAX_PREFACE_LINES = 20
"""Lines a submitter pod may print before the job's own: repeating a few beats losing one when a new pod takes over."""

_SUBMITTED = "' submitted successfully"

RUNS_ANEW = "the head of the cluster was restarted: KubeRay has submitted the job again, it runs from its beginning"


@asynccontextmanager
async def default_connection() -> AsyncIterator[kubernetes.ApiClient]:
    """The API of the pod this runs in, or of the current kubeconfig. Raises ApiError where there is neither."""
    configuration = kubernetes.Configuration()
    try:
        kubernetes_config.load_incluster_config(client_configuration=configuration)
    except kubernetes_config.ConfigException:
        try:
            await kubernetes_config.load_kube_config(client_configuration=configuration)
        except kubernetes_config.ConfigException as error:
            raise ApiError(f"no Kubernetes cluster: not in a pod, and KUBECONFIG names none ({error})") from None
    async with kubernetes.ApiClient(configuration) as api:
        yield api


class KubernetesBackend:
    """See `kuberay.backend.Backend` for the verbs. `connect` opens an API client; it is called again on a 401."""

    def __init__(
        self, namespace: str = "default", connect: Connect = default_connection, *, backoff_s: float = 1.0
    ) -> None:
        self.namespace = namespace
        self._connect = connect
        self._backoff_s = backoff_s
        self._stack = AsyncExitStack()
        self._api: kubernetes.ApiClient | None = None
        self._renewing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    # --- clusters -------------------------------------------------------------------------------------------------

    async def create_cluster(self, spec: ClusterSpec, claim: Claim, expires_at: datetime) -> str:
        annotations = names.annotations(claim, spec.spec_k8s(), expires_at)
        return await self._create_or_adopt(spec.to_k8s(claim.name, self.namespace, claim.labels, annotations), claim)

    async def watch_cluster(self, name: str) -> AsyncIterator[ClusterStatus]:
        async for manifest in self._watch("RayCluster", name):
            status = _cluster_status(name, manifest)
            yield status
            if status.state == "gone":
                return

    async def delete_cluster(self, name: str) -> None:
        await self._delete("RayCluster", name)

    async def clusters_of(self, task_key: str) -> list[str]:
        found = await self._list("RayCluster", f"{names.TASK_LABEL}={task_key}")
        return [manifest["metadata"]["name"] for manifest in found if not _owned(manifest)]

    # --- jobs -----------------------------------------------------------------------------------------------------

    async def submit_job(self, spec: JobSpec, claim: Claim, expires_at: datetime) -> str:
        annotations = names.annotations(claim, spec.spec_k8s(), expires_at)
        return await self._create_or_adopt(spec.to_k8s(claim.name, self.namespace, claim.labels, annotations), claim)

    async def watch_job(self, name: str) -> AsyncIterator[JobStatus]:
        async for manifest in self._watch("RayJob", name):
            status = _job_status(name, manifest)
            selected = (manifest or {}).get("spec", {}).get("clusterSelector", {}).get("ray.io/cluster")
            if selected and not status.finished and await self._is_gone(selected):
                status = replace(status, state="gone", message=f"the RayCluster {selected} it runs on was deleted")
            yield status
            if status.finished:
                return

    async def _is_gone(self, cluster: str) -> bool:
        """Whether a cluster that jobs share is not there: KubeRay lets its jobs wait for it until their deadline.

        Asked with each look at a job, which is every WATCH_S at the latest.
        """
        with suppress(UnreachableError, ForbiddenError):
            return _cluster_status(cluster, await self.read("RayCluster", cluster)).state == "gone"
        return False

    async def delete_job(self, name: str) -> None:
        manifest = await self.read("RayJob", name)
        if manifest is None:
            return
        await self._delete("RayJob", name)
        cluster = manifest.get("status", {}).get("rayClusterName")
        if cluster and "clusterSelector" not in manifest["spec"]:
            await self._until_gone("RayCluster", cluster)

    # --- logs -----------------------------------------------------------------------------------------------------

    async def read_logs(self, name: str, position: LogPosition) -> tuple[list[str], LogPosition]:
        pods = await self._pods(f"job-name={name}")
        pods.sort(key=lambda pod: pod["metadata"]["creationTimestamp"])
        pod_names = [pod["metadata"]["name"] for pod in pods if _has_started(pod)]
        if position.source in pod_names:
            pod_names = pod_names[pod_names.index(position.source) :]
        lines: list[str] = []
        for pod_name in pod_names:
            fresh, position = await self._read_pod(pod_name, position)
            lines += fresh
        return lines, position

    async def _read_pod(self, pod: str, position: LogPosition) -> tuple[list[str], LogPosition]:
        """A second submitter pod follows the same job from its first line: what the first pod showed is skipped.

        Unless it had to submit the job again, for the head was restarted and knows it no more: then it runs anew.
        """
        same = pod == position.source
        since = {"since_seconds": _seconds_since(position.time)} if same and position.time else {}
        answer = await self._call(
            f"get pods/log {pod}",
            lambda: self._core.read_namespaced_pod_log(
                pod, self.namespace, timestamps=True, _preload_content=False, _request_timeout=ANSWER_S, **since
            ),
            missing=None,
        )
        if answer is None:
            return [], position
        stamped = [_split_stamp(line) for line in (await answer.text(errors="replace")).splitlines()]
        num_before = position.num_lines
        if same:
            stamped = [(time, line) for time, line in stamped if _after(time, position.time)]
        elif any(_SUBMITTED in line for _, line in stamped[:MAX_PREFACE_LINES]):
            num_before = 0
        else:
            stamped = stamped[max(0, num_before - MAX_PREFACE_LINES) :]
        if not stamped:
            return [], position
        reached = LogPosition(source=pod, time=stamped[-1][0], num_lines=num_before + len(stamped))
        is_anew = bool(position.source) and not num_before
        return [*([RUNS_ANEW] if is_anew else []), *(line for _, line in stamped)], reached

    async def load_position(self, name: str) -> LogPosition:
        manifest = await self.read("RayJob", name)
        saved = (manifest or {}).get("metadata", {}).get("annotations", {}).get(names.LOG_ANNOTATION)
        return LogPosition(**json.loads(saved)) if saved else LogPosition()

    async def save_position(self, name: str, position: LogPosition) -> None:
        body = {"metadata": {"annotations": {names.LOG_ANNOTATION: json.dumps(asdict(position))}}}
        await self._call(
            f"patch rayjobs {name}",
            lambda: self._custom.patch_namespaced_custom_object(
                *self._path("RayJob"), name, body, _content_type="application/merge-patch+json"
            ),
            missing=None,
        )

    # --- progress and collection ----------------------------------------------------------------------------------

    async def pending(self, name: str) -> list[str]:
        pods = await self._pods(f"ray.io/cluster={name}")
        groups: dict[str, list[Manifest]] = {}
        for pod in pods:
            groups.setdefault(pod["metadata"].get("labels", {}).get("ray.io/group", "?"), []).append(pod)
        lines = [_pending_line(group, members) for group, members in sorted(groups.items())]
        manifest = await self.read("RayCluster", name) or {}
        failure = _condition(manifest, "ReplicaFailure")
        if failure.get("status") == "True":
            lines.append(f"pods cannot be created: {failure.get('message', '')}")
        return [line for line in [*lines, *await self._warnings(name)] if line]

    async def _warnings(self, name: str) -> list[str]:
        """What the operator complains of, newest last: some refusals reach no status, only these."""
        try:
            answer = await self._call(
                "list events",
                lambda: self._core.list_namespaced_event(
                    self.namespace,
                    field_selector=f"involvedObject.name={name},type=Warning",
                    _preload_content=False,
                    _request_timeout=ANSWER_S,
                ),
            )
        except ForbiddenError:  # an older Role: what the pods say is told all the same
            return []
        events = sorted((await answer.json())["items"], key=lambda event: event.get("lastTimestamp") or "")
        lines = [f"{event.get('reason', 'Warning')}: {' '.join(event.get('message', '').split())}" for event in events]
        return list(dict.fromkeys(lines))[-MAX_WARNINGS:]

    async def leftovers(self, now: datetime, run_ended: RunEnded | None = None) -> list[Leftover]:
        found = [
            Leftover(kind=kind, name=manifest["metadata"]["name"], reason=reason)
            for kind in PLURALS
            for manifest in await self._list(kind, names.MANAGED_SELECTOR)
            if not _owned(manifest) and (reason := await names.why_leftover(manifest["metadata"], now, run_ended))
        ]
        # A job's own cluster goes with the job; a shared cluster goes after the jobs on it.
        return sorted(found, key=lambda leftover: leftover.kind, reverse=True)

    # --- objects --------------------------------------------------------------------------------------------------

    async def _create_or_adopt(self, manifest: Manifest, claim: Claim) -> str:
        """At most one live object per task instance: adopt an equal one, remove any other, then create."""
        kind: Kind = manifest["kind"]
        earlier = await self._list(kind, f"{names.TASK_LABEL}={claim.task_key}")
        earlier = [other for other in earlier if not _owned(other)]
        earlier.sort(key=lambda other: int(other["metadata"]["labels"][names.ATTEMPT_LABEL]), reverse=True)
        adopted = next((other["metadata"]["name"] for other in earlier if _adoptable(other, manifest)), None)
        for other in earlier:
            if other["metadata"]["name"] != adopted:
                await self._delete(kind, other["metadata"]["name"])
        return adopted or await self._create(manifest)

    async def _create(self, manifest: Manifest) -> str:
        kind: Kind = manifest["kind"]
        name: str = manifest["metadata"]["name"]
        created = await self._call(
            f"create {PLURALS[kind]} {name}",
            lambda: self._custom.create_namespaced_custom_object(
                *self._path(kind), manifest, field_validation="Strict", _request_timeout=ANSWER_S
            ),
            taken=None,
        )
        if created is None and not _adoptable(await self.read(kind, name) or {}, manifest):
            raise ApiError(f"{kind} {self.namespace}/{name} is not this task's; delete it or rename the task")
        return name

    async def _delete(self, kind: Kind, name: str) -> None:
        """Foreground: the object stays until what it owns is gone, pods included."""
        await self._call(
            f"delete {PLURALS[kind]} {name}",
            lambda: self._custom.delete_namespaced_custom_object(
                *self._path(kind), name, propagation_policy="Foreground", _request_timeout=ANSWER_S
            ),
            missing=None,
        )
        await self._until_gone(kind, name)

    async def _until_gone(self, kind: Kind, name: str) -> None:
        try:
            async with asyncio.timeout(DELETE_TIMEOUT_S):
                async for manifest in self._watch(kind, name):
                    if manifest is None:
                        return
        except TimeoutError:
            raise ApiError(
                f"{kind} {self.namespace}/{name} is still there {DELETE_TIMEOUT_S} s after its deletion; "
                "is the KubeRay operator running?"
            ) from None

    async def read(self, kind: Kind, name: str) -> Manifest | None:
        """The live object; None where there is none."""
        manifest: Manifest | None = await self._call(
            f"get {PLURALS[kind]} {name}",
            lambda: self._custom.get_namespaced_custom_object(*self._path(kind), name, _request_timeout=ANSWER_S),
            missing=None,
        )
        return manifest

    async def _list(self, kind: Kind, label_selector: str) -> list[Manifest]:
        answer = await self._call(
            f"list {PLURALS[kind]}",
            lambda: self._custom.list_namespaced_custom_object(
                *self._path(kind), label_selector=label_selector, _request_timeout=ANSWER_S
            ),
        )
        items: list[Manifest] = answer["items"]
        return items

    async def _pods(self, label_selector: str) -> list[Manifest]:
        answer = await self._call(
            "list pods",
            lambda: self._core.list_namespaced_pod(
                self.namespace, label_selector=label_selector, _preload_content=False, _request_timeout=ANSWER_S
            ),
        )
        pods: list[Manifest] = (await answer.json())["items"]
        return pods

    async def _watch(self, kind: Kind, name: str) -> AsyncIterator[Manifest | None]:
        """The object now and after each change; None once it is gone. Survives lost connections."""
        uid = None
        failures = 0
        allowed_at = time.monotonic()
        while True:
            try:
                manifest, version = await self._look(kind, name)
                allowed_at = time.monotonic()
                if manifest is None or (uid is not None and manifest["metadata"]["uid"] != uid):
                    yield None
                    return
                uid = manifest["metadata"]["uid"]
                yield manifest
                async for changed in self._changes(kind, name, version):
                    failures = 0
                    yield changed
                    if changed is None:
                        return
            except ForbiddenError:
                if uid is None or time.monotonic() - allowed_at > REFUSAL_GRACE_S:
                    raise
                failures += 1
            except (UnreachableError, aiohttp.ClientError, TimeoutError):
                failures += 1
            await asyncio.sleep(_backoff_s(failures, self._backoff_s))

    async def _look(self, kind: Kind, name: str) -> tuple[Manifest | None, str]:
        answer = await self._call(
            f"list {PLURALS[kind]}",
            lambda: self._custom.list_namespaced_custom_object(
                *self._path(kind), field_selector=f"metadata.name={name}", _request_timeout=ANSWER_S
            ),
        )
        return next(iter(answer["items"]), None), answer["metadata"]["resourceVersion"]

    async def _changes(self, kind: Kind, name: str, version: str) -> AsyncIterator[Manifest | None]:
        """One watch, from `version` to its end: the server's time limit, a lost connection or an old version."""
        answer = await self._call(
            f"watch {PLURALS[kind]}",
            lambda: self._custom.list_namespaced_custom_object(
                *self._path(kind),
                field_selector=f"metadata.name={name}",
                resource_version=version,
                watch=True,
                timeout_seconds=WATCH_S,
                _preload_content=False,
                _request_timeout=(30, WATCH_S + 30),
            ),
        )
        if answer.status == GONE:
            return
        async for line in _lines(answer):
            event = json.loads(line)
            if event["type"] == "ERROR":
                return
            yield None if event["type"] == "DELETED" else event["object"]

    # --- requests -------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._api = await self._stack.enter_async_context(self._connect())

    async def _renew(self, refused: kubernetes.ApiClient) -> None:
        """Take the credentials of now, once for all requests that were refused at this moment.

        The refused client stays open to the end: a watch that began before the token was rotated goes on with it.
        """
        async with self._renewing:
            if self._api is refused:
                await self._open()

    @property
    def _client(self) -> kubernetes.ApiClient:
        assert self._api is not None, "open the backend with `async with` first"
        return self._api

    @property
    def _custom(self) -> Any:
        return kubernetes.CustomObjectsApi(self._client)

    @property
    def _core(self) -> Any:
        return kubernetes.CoreV1Api(self._client)

    def _path(self, kind: Kind) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.namespace, PLURALS[kind]

    async def _call(self, doing: str, request: Callable[[], Awaitable[Any]], **expected: None) -> Any:
        """The answer, after retries of what may pass. `missing` and `taken` are the answers for 404 and 409.

        A request that is not read here (`_preload_content=False`) raises nothing itself, so its status is checked too.
        """
        renewed = False
        for attempt in range(MAX_ATTEMPTS):
            client = self._client
            try:
                answer = await request()
                if not isinstance(answer, aiohttp.ClientResponse) or answer.status < 400 or answer.status == GONE:
                    return answer
                error = kubernetes.ApiException(status=answer.status, reason=answer.reason)
                error.body, error.headers = await answer.read(), answer.headers
            except kubernetes.ApiException as refused:
                error = refused
            except (aiohttp.ClientError, TimeoutError, OSError) as unreachable:
                error = kubernetes.ApiException(status=503, reason=str(unreachable) or type(unreachable).__name__)
            if error.status == NOT_FOUND and "missing" in expected:
                return expected["missing"]
            if error.status == CONFLICT and "taken" in expected and _reason(error) == "AlreadyExists":
                return expected["taken"]
            if error.status == UNAUTHORIZED and not renewed:
                renewed = True
                await self._renew(client)
            elif error.status in PASSING or _reason(error) == "Conflict":
                await asyncio.sleep(_retry_after_s(error) or _backoff_s(attempt + 1, self._backoff_s))
            else:
                raise self._explained(doing, error)
        raise UnreachableError(f"cannot {doing}, tried {MAX_ATTEMPTS} times: {error.status} {error.reason}")

    def _explained(self, doing: str, error: Any) -> KubeRayError:
        message = _message(error)
        where = f"cannot {doing} in namespace {self.namespace}"
        if error.status == FORBIDDEN and "exceeded quota" in message:
            return QuotaExceededError(f"{where}: {message}")
        if error.status in (UNAUTHORIZED, FORBIDDEN):
            return ForbiddenError(f"{where}: {message}; the rights needed are in kuberay/manifests/rbac.yaml")
        if error.status == NOT_FOUND and ("page not found" in message or "could not find the requested" in message):
            return NotInstalledError(
                f"{where}: the cluster does not know {GROUP}/{VERSION}; install the KubeRay operator"
            )
        return ApiError(f"{where}: {error.status} {message}")


# --- reading what the operator wrote ------------------------------------------------------------------------------


def _job_status(name: str, manifest: Manifest | None) -> JobStatus:
    """The deployment status says whether it has ended, the job status whether it succeeded."""
    if manifest is None or manifest["metadata"].get("deletionTimestamp"):
        return JobStatus(name=name, state="gone", message="the RayJob was deleted")
    status = manifest.get("status", {})
    deployment, job = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    details = [status.get("reason", ""), first_line(status.get("message", ""))]
    message = ": ".join(detail for detail in details if detail)
    state: Literal["waiting", "running", "succeeded", "failed"] = "waiting"
    if deployment in ("Complete", "Failed", "ValidationFailed"):
        state = "succeeded" if job == "SUCCEEDED" else "failed"
        if job == "STOPPED":
            message = message or "the Ray job was stopped by somebody"
    elif deployment == "Running" and job not in ("", "PENDING"):  # for a moment it has ended and is not told so
        state = "running"
    elif deployment in ("Suspended", "Suspending"):
        message = message or "suspended, by its queue or by somebody"
    return JobStatus(
        name=name,
        state=state,
        message=message,
        cluster=status.get("rayClusterName", ""),
        dashboard_url=f"http://{status['dashboardURL']}" if status.get("dashboardURL") else "",
    )


def _cluster_status(name: str, manifest: Manifest | None) -> ClusterStatus:
    if manifest is None or manifest["metadata"].get("deletionTimestamp"):
        return ClusterStatus(name=name, state="gone", message="the RayCluster was deleted")
    ready = all(_condition(manifest, kind).get("status") == "True" for kind in READY_CONDITIONS)
    failure = _condition(manifest, "ReplicaFailure")
    service = manifest.get("status", {}).get("head", {}).get("serviceName")
    namespace = manifest["metadata"].get("namespace", "default")
    return ClusterStatus(
        name=name,
        state="ready" if ready else "waiting",
        message=failure.get("message", "") if failure.get("status") == "True" else "",
        dashboard_url=f"http://{service}.{namespace}.svc.cluster.local:8265" if service else "",
    )


def _condition(manifest: Manifest, kind: str) -> Manifest:
    conditions = manifest.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == kind), {})


def _pending_line(group: str, pods: list[Manifest]) -> str:
    """ "2 of 4 pods of group asr pending: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."; "" when all run."""
    pending = [pod for pod in pods if pod.get("status", {}).get("phase") == "Pending"]
    if not pending:
        return ""
    reasons = sorted({reason for pod in pending if (reason := _pod_reason(pod))})
    return f"{len(pending)} of {len(pods)} pods of group {group} pending: {'; '.join(reasons) or 'starting'}"


def _pod_reason(pod: Manifest) -> str:
    status = pod.get("status", {})
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message", condition.get("reason", "")))
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return f"{waiting['reason']} {container.get('image', '')}: {waiting.get('message', '')}".rstrip(": ")
    return ""


def _has_started(pod: Manifest) -> bool:
    return pod.get("status", {}).get("phase") in ("Running", "Succeeded", "Failed")


def _owned(manifest: Manifest) -> bool:
    """A RayJob's own cluster carries copies of the job's labels; the job stands for it."""
    return bool(manifest["metadata"].get("ownerReferences"))


def _adoptable(found: Manifest, wanted: Manifest) -> bool:
    """The same work, and neither going away nor failed."""
    theirs = found.get("metadata", {})
    if theirs.get("deletionTimestamp") or not names.same_work(theirs, wanted["metadata"]):
        return False
    return wanted["kind"] == "RayCluster" or _job_status("", found).state != "failed"


# --- reading answers ----------------------------------------------------------------------------------------------


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines of any length, which aiohttp's own reader refuses; an unfinished last one is dropped."""
    rest = b""
    async for chunk in answer.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield line


def _split_stamp(line: str) -> tuple[str, str]:
    time, _, text = line.partition(" ")
    return time, text


def _after(time: str, last: str) -> bool:
    """Order of RFC 3339 stamps in UTC, whose fractions differ in length."""
    return _stamp_key(time) > _stamp_key(last)


def _stamp_key(time: str) -> tuple[str, str]:
    whole, _, fraction = time.rstrip("Z").partition(".")
    return whole, fraction.ljust(9, "0")


def _seconds_since(time: str) -> int:
    """With a minute to spare for clocks that differ; the lines' own stamps decide."""
    whole = datetime.fromisoformat(f"{_stamp_key(time)[0]}+00:00")
    return max(1, int((utc_now() - whole).total_seconds()) + 60)


def _message(error: Any) -> str:
    try:
        message = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        message = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body or error.reason
    return " ".join(str(message).split())


def _reason(error: Any) -> str:
    try:
        return str(json.loads(error.body)["reason"])
    except (TypeError, ValueError, KeyError):
        return ""


def _retry_after_s(error: Any) -> float | None:
    value = (error.headers or {}).get("Retry-After", "")
    return min(float(value), MAX_BACKOFF_S) if re.fullmatch(r"\d+", value) else None


def _backoff_s(failures: int, base_s: float) -> float:
    """Doubling, with jitter, so that a thousand waiting triggers do not come back at the same moment."""
    return min(MAX_BACKOFF_S, base_s * float(2 ** min(failures, 10))) * random.uniform(0.5, 1.0)
