"""Airflow operators for Ray clusters and jobs: deferrable, re-attaching, cancelling.

    create = RayClusterOperator(task_id="create", cluster="standard").as_setup()
    work = RayJobOperator(task_id="work", entrypoint="python -m work", cluster_name=create.output)
    delete = DeleteRayClusterOperator(task_id="delete", created_by="create").as_teardown(setups=create)

A retry after a crash adopts the running work; a clear, a failure and a kill delete it and return once it is gone: two
attempts never run at once. Set a task's limits with `deadline_s`: Airflow does not enforce `execution_timeout` while a
task is deferred. For a run's settings outside a DAG see `kuberay.local.LocalSettings` and the two links below.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Literal, TypeVar

import yaml
from airflow.sdk import BaseOperator, BaseOperatorLink, Connection
from airflow.sdk.api.client import ServerResponseError
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError

from kuberay.backend import Backend, blocking, collect, utc_now
from kuberay.cluster import resolve_cluster
from kuberay.errors import InvalidSpecError, KubeRayError
from kuberay.names import Claim
from kuberay.rayjob import JobSpec, make_job
from kuberay.triggers import RayClusterGoneTrigger, RayClusterTrigger, RayJobTrigger, RayTrigger, Where

Answer = TypeVar("Answer")

EXPIRY_MARGIN_S = 3600
"""How long an object may outlive its deadline before collection takes it."""


class RayDashboardLink(BaseOperatorLink):
    """Ray's own dashboard, or where KUBERAY_DASHBOARD_URL, a template with {namespace} and {name}, has it."""

    name = "Ray dashboard"
    xcom_key = "ray_dashboard_url"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """What Airflow keeps for its UI whenever the task pauses or ends."""
        return operator.urls.get(self.xcom_key, "")


class GrafanaLink(BaseOperatorLink):
    """Grafana for this cluster, where KUBERAY_GRAFANA_URL is a template with {namespace} and {name}."""

    name = "Grafana"
    xcom_key = "grafana_url"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return operator.urls.get(self.xcom_key, "")


class _RayOperator(BaseOperator):
    """What the operators share: the backend, the attempt's claim, the links."""

    def __init__(
        self,
        *,
        backend: Literal["kubernetes", "local"] = "kubernetes",
        namespace: str = "default",
        kubernetes_conn_id: str | None = None,
        deferrable: bool = True,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.backend = backend
        self.namespace = namespace
        self.kubernetes_conn_id = kubernetes_conn_id
        self.deferrable = deferrable
        self.urls: dict[str, str] = {}
        self._name: str | None = None
        self._killed = False

    def execute(self, context: Any) -> Any:
        try:
            return self.start(context)
        except InvalidSpecError as error:
            raise AirflowFailException(str(error)) from None  # no retry makes it right

    def start(self, context: Any) -> Any:
        """Ask for what this operator is about, and wait for it."""
        raise NotImplementedError

    @property
    def where(self) -> Where:
        return Where(backend=self.backend, namespace=self.namespace, conn_id=self.kubernetes_conn_id)

    def _on_backend(self, work: Callable[[Backend], Coroutine[Any, Any, Answer]]) -> Answer:
        """Open the backend, do the work, close it."""
        extras = self._connection_extras()

        async def opened() -> Answer:
            async with self.where.open(extras) as backend:
                return await work(backend)

        return blocking(opened())

    def _connection_extras(self) -> dict[str, Any] | None:
        """The connection, read outside any event loop; a trigger reads it inside of its own."""
        if self.backend != "kubernetes" or self.kubernetes_conn_id is None:
            return None
        extras: dict[str, Any] = Connection.get(self.kubernetes_conn_id).extra_dejson
        return extras

    def _wait(self, context: Any, trigger: RayTrigger) -> Any:
        """Deferred or not, the task goes on in `resume` with the trigger's outcome.

        Airflow lets a killed task run on for a few seconds, in which what it was making may have come to be.
        """
        if self._killed:
            self.on_kill()
            raise KubeRayError(f"killed while {self._name} was being made; it is deleted")
        if self.deferrable:
            self.defer(trigger=trigger, method_name="resume")
        return self.resume(context, blocking(trigger.outcome(self._connection_extras())))

    def resume(self, context: Any, event: dict[str, Any]) -> Any:
        """Where the task goes on after the trigger: all it needs is in the event."""
        raise NotImplementedError

    def on_kill(self) -> None:
        self._killed = True
        if (name := self._name) is not None:
            self._on_backend(lambda backend: self._delete(backend, name))

    async def _delete(self, backend: Backend, name: str) -> None:
        """Delete what this operator has made under `name`."""
        raise NotImplementedError

    def _push_links(self, context: Any, dashboard_url: str, name: str) -> None:
        """Now, and not only when the task pauses or ends, as Airflow does: a task that does not defer has them, too."""
        place = {"namespace": self.namespace, "name": name}
        template = os.environ.get("KUBERAY_DASHBOARD_URL")
        self.urls = {
            RayDashboardLink.xcom_key: template.format(**place) if template else dashboard_url,
            GrafanaLink.xcom_key: os.environ.get("KUBERAY_GRAFANA_URL", "").format(**place),
        }
        for key, url in self.urls.items():
            context["ti"].xcom_push(key=key, value=url)


class RayClusterOperator(_RayOperator):
    """Setup: a cluster for the tasks that follow; returns its name once it is ready.

    `cluster` is a profile's name, the path of a YAML spec, or the spec itself; `overrides` are laid over it. The
    cluster has no deadline of its own, so it expires after `lifetime_s` seconds and collection takes it.
    """

    operator_extra_links = (RayDashboardLink(), GrafanaLink())
    template_fields: Sequence[str] = ("cluster", "overrides", "backend", "namespace", "kubernetes_conn_id")

    def __init__(
        self,
        *,
        cluster: str | dict[str, Any],
        overrides: dict[str, Any] | None = None,
        lifetime_s: int = 24 * 3600,
        start_timeout_s: int = 1800,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.cluster = cluster
        self.overrides = overrides
        self.lifetime_s = lifetime_s
        self.start_timeout_s = start_timeout_s

    def start(self, context: Any) -> str:
        spec = resolve_cluster(self.cluster, self.overrides)
        claim = claim_of(context)
        expires_at = utc_now() + timedelta(seconds=self.lifetime_s)
        self._name = claim.name
        name = self._name = self._on_backend(lambda backend: backend.create_cluster(spec, claim, expires_at))
        self.log.info("cluster %s is asked for; it expires at %s", name, expires_at.isoformat(timespec="seconds"))
        ready: str = self._wait(context, RayClusterTrigger(asdict(self.where), name, self.start_timeout_s))
        return ready

    def resume(self, context: Any, event: dict[str, Any]) -> str:
        name: str = event["name"]
        self._name = name
        if event["state"] != "ready":
            self._on_backend(lambda backend: backend.delete_cluster(name))
            raise KubeRayError(f"cluster {name} did not start and was deleted: {event['message']}")
        self._push_links(context, event["dashboard_url"], name)
        return name

    async def _delete(self, backend: Backend, name: str) -> None:
        await backend.delete_cluster(name)

    def dry_run(self) -> None:
        spec = resolve_cluster(self.cluster, self.overrides)
        self.log.info("%s", yaml.safe_dump(spec.to_k8s("dry-run", self.namespace, {}, {}), sort_keys=False))


class DeleteRayClusterOperator(_RayOperator):
    """Teardown: deletes what the task `created_by` of this run has created, by whichever attempt, and waits for that.

    It goes by label, not by the other task's result: a setup that crashed half-way is cleaned up as well.
    """

    template_fields: Sequence[str] = ("created_by", "backend", "namespace", "kubernetes_conn_id")

    def __init__(self, *, created_by: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.created_by = created_by

    def start(self, context: Any) -> None:
        claim = claim_of(context, task_id=self.created_by)
        found = self._on_backend(lambda backend: backend.clusters_of(claim.task_key))
        self.log.info("clusters of task %s: %s", self.created_by, ", ".join(found) or "none")
        if found:
            self._wait(context, RayClusterGoneTrigger(asdict(self.where), found[0], 0))

    def resume(self, context: Any, event: dict[str, Any]) -> None:
        """One cluster is gone; look again, so that every one is."""
        if event["state"] != "gone":
            raise KubeRayError(f"cluster {event['name']} was not deleted: {event['message']}")
        self.start(context)


class RayJobOperator(_RayOperator):
    """A command on a Ray cluster: an existing one (`cluster_name`) or one of its own (`cluster`, `overrides`).

    Fails unless the job succeeds, and deletes the job, with its own cluster, either way. `deadline_s` counts from
    creation, queueing included. Returns {"job", "cluster"}, the names.
    """

    operator_extra_links = (RayDashboardLink(), GrafanaLink())
    template_fields: Sequence[str] = (
        "entrypoint",
        "cluster",
        "cluster_name",
        "overrides",
        "runtime_env",
        "job",
        "backend",
        "namespace",
        "kubernetes_conn_id",
    )

    def __init__(
        self,
        *,
        entrypoint: str,
        cluster: str | dict[str, Any] | None = None,
        cluster_name: str | None = None,
        overrides: dict[str, Any] | None = None,
        runtime_env: dict[str, Any] | None = None,
        deadline_s: int = 24 * 3600,
        job: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.entrypoint = entrypoint
        self.cluster = cluster
        self.cluster_name = cluster_name
        self.overrides = overrides
        self.runtime_env = runtime_env
        self.deadline_s = deadline_s
        self.job = job

    @property
    def spec(self) -> JobSpec:
        """The job as KubeRay gets it; `job` holds further fields of JobSpec."""
        return make_job(
            entrypoint=self.entrypoint,
            cluster=None if self.cluster is None else resolve_cluster(self.cluster, self.overrides),
            cluster_name=self.cluster_name,
            runtime_env=self.runtime_env or {},
            deadline_s=self.deadline_s,
            **(self.job or {}),
        )

    def start(self, context: Any) -> dict[str, str]:
        spec = self.spec
        claim = claim_of(context)
        expires_at = utc_now() + timedelta(seconds=spec.deadline_s + spec.ttl_s + EXPIRY_MARGIN_S)
        self._name = claim.name
        name = self._name = self._on_backend(lambda backend: backend.submit_job(spec, claim, expires_at))
        self.log.info("job %s: %s", name, "submitted" if name == claim.name else "adopted from an earlier attempt")
        with suppress(KubeRayError):  # a link is not worth failing for
            self._push_links(
                context, self._on_backend(lambda backend: dashboard_url(backend, name)), self.cluster_name or name
            )
        names: dict[str, str] = self._wait(context, RayJobTrigger(asdict(self.where), name, self.deadline_s))
        return names

    def resume(self, context: Any, event: dict[str, Any]) -> dict[str, str]:
        name: str = event["name"]
        self._name = name
        self._push_links(context, event.get("dashboard_url", ""), self.cluster_name or name)
        self._on_backend(lambda backend: backend.delete_job(name))
        if event["state"] != "succeeded":
            raise KubeRayError(f"job {name}: {event['state']}, {event['message'] or 'no reason is known'}")
        return {"job": name, "cluster": event["cluster"]}

    async def _delete(self, backend: Backend, name: str) -> None:
        await backend.delete_job(name)

    def dry_run(self) -> None:
        self.log.info("%s", yaml.safe_dump(self.spec.to_k8s("dry-run", self.namespace, {}, {}), sort_keys=False))


class CollectRayOperator(_RayOperator):
    """Deletes jobs and clusters that this package made and that have expired or whose DAG run has ended."""

    template_fields: Sequence[str] = ("backend", "namespace", "kubernetes_conn_id")

    def start(self, context: Any) -> list[str]:
        state_of = context["ti"].get_dagrun_state

        async def run_ended(dag_id: str, run_id: str) -> bool:
            try:
                state: str = await asyncio.to_thread(state_of, dag_id, run_id)
            except (AirflowRuntimeError, ServerResponseError):
                return False  # a run of another Airflow, or one that was deleted: its expiry decides
            return state in ("success", "failed")

        found = self._on_backend(lambda backend: collect(backend, utc_now(), run_ended))
        for leftover in found:
            self.log.info("deleted %s %s: %s", leftover.kind, leftover.name, leftover.reason)
        return [leftover.name for leftover in found]


async def dashboard_url(backend: Backend, job: str) -> str:
    """Where a job's dashboard is now; "" before its cluster has one."""
    async for status in backend.watch_job(job):
        return status.dashboard_url
    return ""


def claim_of(context: Any, task_id: str | None = None) -> Claim:
    """The running task attempt, or the same instance of another task."""
    instance, run = context["ti"], context["dag_run"]
    return Claim(
        dag_id=instance.dag_id,
        run_id=instance.run_id,
        task_id=task_id or instance.task_id,
        map_index=-1 if instance.map_index is None else instance.map_index,
        attempt=instance.try_number,
        times_cleared=getattr(run, "clear_number", 0) or 0,
    )
