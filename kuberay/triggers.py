"""Airflow triggers that wait for Ray clusters and jobs, tell what happens, and cancel when a user says so.

`on_kill` runs when somebody fails, clears or marks a deferred task: it deletes the work. `cleanup` also runs when the
triggerer restarts, so it is left alone: another triggerer goes on waiting, from the log position kept with the job.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from airflow.triggers.base import BaseTrigger, TriggerEvent

from kuberay.backend import Backend, JobStatus, await_cluster, follow_job
from kuberay.errors import InvalidSpecError, KubeRayError
from kuberay.local import LocalBackend, LocalSettings

DEADLINE_GRACE_S = 600
"""How long after a job's deadline KubeRay may take to say so before we stop waiting for it."""

MIN_WAIT_S = 10.0
"""An event sooner than this after the deferral can resume the task before the scheduler has heard that the process
which deferred it ended, for which Airflow's supervisor takes up to 5 s; it would then take the resumed one for dead."""

_deletions: set[asyncio.Task[None]] = set()  # an event loop itself holds its tasks but weakly


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """The backend of an operator or trigger; `conn_id` is a Kubernetes connection, None the pod's own or KUBECONFIG."""

    backend: Literal["kubernetes", "local"] = "kubernetes"
    namespace: str = "default"
    conn_id: str | None = None

    def open(self, connection_extras: dict[str, Any] | None = None) -> Backend:
        """The backend, to be opened with `async with`; extras spare it from reading the connection itself."""
        if self.backend == "local":
            return LocalBackend(LocalSettings.from_environment())
        if self.backend != "kubernetes":
            raise InvalidSpecError([f"backend {self.backend!r} is neither kubernetes nor local"])
        from kuberay import client  # kubernetes_asyncio takes a second to import, which no DAG file should wait for

        if self.conn_id is None:
            return client.KubernetesBackend(self.namespace, client.default_connection)
        from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook

        hook = AsyncKubernetesHook(conn_id=self.conn_id, connection_extras=connection_extras)
        return client.KubernetesBackend(self.namespace, hook.get_conn)


class RayTrigger(BaseTrigger):
    """What the triggers share: where the object is, its name, and an event no sooner than Airflow can take it."""

    def __init__(self, where: dict[str, Any], name: str, timeout_s: float) -> None:
        super().__init__()
        self.where = where
        self.name = name
        self.timeout_s = timeout_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return path, {"where": self.where, "name": self.name, "timeout_s": self.timeout_s}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        outcome, _ = await asyncio.gather(self.outcome(), asyncio.sleep(MIN_WAIT_S))
        yield TriggerEvent(outcome)

    async def outcome(self, connection_extras: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fields of a JobStatus or ClusterStatus; an error of ours is an outcome too. What an operator waits for
        that does not defer."""
        try:
            async with Where(**self.where).open(connection_extras) as backend:
                return await self._wait(backend)
        except KubeRayError as error:
            return {"name": self.name, "state": "failed", "message": str(error)}

    async def _wait(self, backend: Backend) -> dict[str, Any]:
        raise NotImplementedError

    async def on_kill(self) -> None:
        """Delete the work. The triggerer cancels a killed trigger each second until it ends, this method included, so
        the deletion is a task of its own, which goes on in the triggerer's loop.
        """

        async def delete() -> None:
            async with Where(**self.where).open() as backend:
                await self._delete(backend)

        deletion = asyncio.create_task(delete())
        _deletions.add(deletion)
        deletion.add_done_callback(_deletions.discard)
        await asyncio.shield(deletion)

    async def _delete(self, backend: Backend) -> None:
        """Nothing, where waiting is all there is to stop."""


class RayClusterTrigger(RayTrigger):
    """Waits until a cluster is ready."""

    async def _wait(self, backend: Backend) -> dict[str, Any]:
        return asdict(await await_cluster(backend, self.name, self.log.info, timeout_s=self.timeout_s))

    async def _delete(self, backend: Backend) -> None:
        await backend.delete_cluster(self.name)


class RayClusterGoneTrigger(RayTrigger):
    """Deletes a cluster, again if need be, and waits until it is gone; killing it leaves the deletion under way."""

    async def _wait(self, backend: Backend) -> dict[str, Any]:
        await backend.delete_cluster(self.name)
        return {"name": self.name, "state": "gone", "message": ""}


class RayJobTrigger(RayTrigger):
    """Follows a job to its end, its log in the task's log."""

    async def _wait(self, backend: Backend) -> dict[str, Any]:
        """With a limit of our own, for when KubeRay itself does not run and no deadline strikes."""
        try:
            async with asyncio.timeout(self.timeout_s + DEADLINE_GRACE_S):
                return asdict(await follow_job(backend, self.name, self.log.info))
        except TimeoutError:
            late = f"no end {DEADLINE_GRACE_S} s after its deadline of {self.timeout_s:.0f} s"
            status = JobStatus(name=self.name, state="failed", message=f"{late}; is the KubeRay operator running?")
            return asdict(status)

    async def _delete(self, backend: Backend) -> None:
        await backend.delete_job(self.name)
