"""A Ray cluster as a typed spec, rendered to a RayCluster manifest that KubeRay will reconcile.

A ClusterSpec is YAML: see profiles/. Unknown keys are refused. Whatever the fields do not cover goes through a group's
`pod_template`, merged over what we render: mappings by key, lists of named things (containers, env, volumes) by name.
"""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kuberay.errors import InvalidSpecError
from kuberay.names import MANAGED_LABEL
from kuberay.rules import ELASTIC_ANNOTATION, QUEUE_LABEL, Manifest, refusals

API_VERSION = "ray.io/v1"
PROFILES = Path(__file__).parent / "profiles"

Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class Model(BaseModel):
    """Frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class SecretKey(Model):
    name: str = Field(description="name of the Secret")
    key: str

    def to_k8s(self) -> Manifest:
        return {"valueFrom": {"secretKeyRef": {"name": self.name, "key": self.key}}}


class NodeGroup(Model):
    """Pods of one kind. Requests equal limits, so Ray's view of a node and the kubelet's agree."""

    image: str | None = Field(default=None, description="null: the cluster's image")
    cpu: Quantity
    memory: Quantity
    ephemeral_storage: Quantity | None = Field(default=None, description="room for spilled objects and logs")
    env: dict[str, str] = {}
    secret_env: dict[str, SecretKey] = Field(default={}, description="environment variables read from Secrets")
    env_from_secrets: tuple[str, ...] = Field(default=(), description="Secrets whose every key becomes a variable")
    ray_resources: dict[str, Count] = Field(
        default={}, description="custom Ray resources of each pod; Ray's autoscaler takes whole numbers only"
    )
    capacity: Literal["spot", "on-demand"] | None = Field(default=None, description="null: wherever there is room")
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, Any], ...] = ()
    affinity: dict[str, Any] = {}
    pod_template: dict[str, Any] = Field(default={}, description="laid over the rendered pod template")


class HeadGroup(NodeGroup):
    capacity: Literal["on-demand"] | None = Field(default=None, description="a lost head is a lost job: never spot")


class WorkerGroup(NodeGroup):
    name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,30}[a-z0-9])?$")]
    min_replicas: Count = 0
    max_replicas: Positive = 1
    replicas: Count | None = Field(default=None, description="at the start; null: min, or max without autoscaling")
    gpus: Count = Field(default=0, description="GPUs of each pod")
    gpu_resource: str = Field(default="nvidia.com/gpu", description="the device plugin's name for them")
    idle_timeout_s: Count | None = Field(default=None, description="idle seconds before a pod goes; autoscaler v2")
    priority: Count | None = Field(default=None, description="which group grows first; autoscaler v2, Ray 2.56")

    @model_validator(mode="after")
    def _ordered(self) -> "WorkerGroup":
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        if self.replicas is not None and not self.min_replicas <= self.replicas <= self.max_replicas:
            raise ValueError(f"replicas {self.replicas} is outside {self.min_replicas}..{self.max_replicas}")
        return self


class Autoscaling(Model):
    version: Literal["v1", "v2"] = "v2"
    idle_timeout_s: Count = 60
    upscaling: Literal["Default", "Aggressive", "Conservative"] = "Default"


class GcsFaultTolerance(Model):
    """Cluster state outside the head, in Redis, so that a restarted head goes on with the job."""

    redis_address: str
    redis_password: SecretKey | None = None
    namespace: str | None = Field(default=None, description="key prefix in Redis; null: the cluster's uid")


class ClusterSpec(Model):
    """One Ray cluster. Nothing in it names a task or a time: the same spec serves every run."""

    ray_version: str = "2.60.0"
    image: str = Field(description="image of every group that names none")
    image_pull_secrets: tuple[str, ...] = ()
    head: HeadGroup
    workers: tuple[WorkerGroup, ...] = ()
    autoscaling: Autoscaling | None = Field(default=None, description="null: every group keeps its replicas")
    auth: Literal["token", "disabled"] = Field(default="token", description="KubeRay makes the token's Secret itself")
    gcs_fault_tolerance: GcsFaultTolerance | None = None
    service_account: str | None = Field(default=None, description="on EKS, the one that carries the IAM role")
    priority_class: str | None = None
    queue: str | None = Field(default=None, description="Kueue's LocalQueue")
    capacity_label: str = Field(
        default="karpenter.sh/capacity-type", description="node label with the values spot and on-demand"
    )
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}

    @property
    def num_gpus(self) -> int:
        """GPUs when every group is at its largest."""
        return sum(group.gpus * group.max_replicas for group in self.workers)

    def to_k8s(self, name: str, namespace: str, labels: dict[str, str], annotations: dict[str, str]) -> Manifest:
        """The RayCluster manifest. Raises InvalidSpecError with every rule that the controller would refuse it for."""
        return accepted(
            {
                "apiVersion": API_VERSION,
                "kind": "RayCluster",
                "metadata": self.metadata(name, namespace, labels, annotations),
                "spec": self.spec_k8s(),
            }
        )

    def metadata(self, name: str, namespace: str, labels: dict[str, str], annotations: dict[str, str]) -> Manifest:
        queue = {QUEUE_LABEL: self.queue} if self.queue else {}
        elastic = {ELASTIC_ANNOTATION: "true"} if self.queue and self.autoscaling else {}
        return {
            "name": name,
            "namespace": namespace,
            "labels": {**self.labels, MANAGED_LABEL: "true", **queue, **labels},
            "annotations": {**self.annotations, **elastic, **annotations},
        }

    def spec_k8s(self) -> Manifest:
        spec: Manifest = {
            "rayVersion": self.ray_version,
            "authOptions": {"mode": self.auth},
            "headGroupSpec": self._head(),
            "workerGroupSpecs": [self._worker(group) for group in self.workers],
        }
        if self.autoscaling:
            spec["enableInTreeAutoscaling"] = True
            spec["autoscalerOptions"] = {
                "version": self.autoscaling.version,
                "idleTimeoutSeconds": self.autoscaling.idle_timeout_s,
                "upscalingMode": self.autoscaling.upscaling,
            }
        if self.gcs_fault_tolerance:
            spec["gcsFaultToleranceOptions"] = self._fault_tolerance(self.gcs_fault_tolerance)
        return spec

    def submitter_template(self) -> Manifest:
        """Pod that submits a job: placed like the head, because losing it costs a resubmission."""
        amounts = {"cpu": "500m", "memory": "512Mi"}
        container = {
            "name": "submitter",
            "image": self.head.image or self.image,
            "resources": {"limits": amounts, "requests": dict(amounts)},
        }
        return {"spec": {"restartPolicy": "Never", **self._placement(self.head), "containers": [container]}}

    def _head(self) -> Manifest:
        # num-cpus 0 keeps tasks off the head, where they would compete with the control store for memory.
        params = {"num-cpus": "0", "dashboard-host": "0.0.0.0", **_resources_param(self.head)}
        ports = [{"name": name, "containerPort": port} for name, port in HEAD_PORTS.items()]
        return {"rayStartParams": params, "template": self._template(self.head, "ray-head", {"ports": ports})}

    def _worker(self, group: WorkerGroup) -> Manifest:
        start = group.min_replicas if self.autoscaling else group.max_replicas
        rendered: Manifest = {
            "groupName": group.name,
            "replicas": start if group.replicas is None else group.replicas,
            "minReplicas": group.min_replicas,
            "maxReplicas": group.max_replicas,
            "rayStartParams": _resources_param(group),
            "template": self._template(group, "ray-worker", {}),
        }
        optional = {"idleTimeoutSeconds": group.idle_timeout_s, "priority": group.priority}
        return rendered | {key: value for key, value in optional.items() if value is not None}

    def _template(self, group: NodeGroup, container_name: str, extra: Manifest) -> Manifest:
        secrets = [{"secretRef": {"name": secret}} for secret in group.env_from_secrets]
        container = {
            "name": container_name,
            "image": group.image or self.image,
            "resources": _resources(group),
            **_given({"env": _env(group), "envFrom": secrets}),
            **extra,
        }
        rendered = {"spec": {**self._placement(group), "containers": [container]}}
        template: Manifest = merge(rendered, group.pod_template)
        return template

    def _placement(self, group: NodeGroup) -> Manifest:
        capacity = {self.capacity_label: group.capacity} if group.capacity else {}
        tolerations = list(group.tolerations)
        if isinstance(group, WorkerGroup) and group.gpus:
            tolerations.append({"key": group.gpu_resource, "operator": "Exists", "effect": "NoSchedule"})
        return _given(
            {
                "serviceAccountName": self.service_account,
                "priorityClassName": self.priority_class,
                "imagePullSecrets": [{"name": name} for name in self.image_pull_secrets],
                "nodeSelector": {**group.node_selector, **capacity},
                "tolerations": tolerations,
                "affinity": group.affinity,
            }
        )

    @staticmethod
    def _fault_tolerance(options: GcsFaultTolerance) -> Manifest:
        return _given(
            {
                "redisAddress": options.redis_address,
                "redisPassword": options.redis_password.to_k8s() if options.redis_password else None,
                "externalStorageNamespace": options.namespace,
            }
        )


HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}
"""Once the head names one port, KubeRay exposes only the named ones, so all four are named."""


def accepted(manifest: Manifest) -> Manifest:
    """The manifest itself. Raises InvalidSpecError where the controller would refuse it."""
    if reasons := refusals(manifest):
        raise InvalidSpecError([f"{manifest['kind']} {manifest['metadata']['name']}: {reason}" for reason in reasons])
    return manifest


def resolve_cluster(cluster: str | dict[str, Any], overrides: dict[str, Any] | None = None) -> ClusterSpec:
    """The spec behind a profile's name, a YAML file's path or a mapping, with `overrides` laid over it.

    Raises InvalidSpecError with one line per mistake.
    """
    if isinstance(cluster, dict):
        return parse_cluster(merge(cluster, overrides or {}))
    path = Path(cluster) if cluster.endswith((".yaml", ".yml")) else PROFILES / f"{cluster}.yaml"
    if path.parent == PROFILES and not path.is_file():
        raise InvalidSpecError(
            [f"no profile {cluster!r}; there are {', '.join(profile_names())}, or give a .yaml file"]
        )
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSpecError([f"{path}: cannot be read ({error.strerror})"]) from None
    except yaml.YAMLError as error:
        raise InvalidSpecError([f"{path}: is not YAML: {' '.join(str(error).split())}"]) from None
    return parse_cluster(merge(document, overrides or {}), source=cluster)


def profile_names() -> list[str]:
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def parse_cluster(document: Any, *, source: str = "cluster spec") -> ClusterSpec:
    """Validate a document; see `resolve_cluster`."""
    try:
        return ClusterSpec.model_validate(document)
    except ValidationError as error:
        raise InvalidSpecError([explain(source, mistake) for mistake in error.errors()]) from None


def explain(source: str, mistake: Any) -> str:
    """One line for one of pydantic's errors."""
    location = ".".join(str(part) for part in mistake["loc"]) or "the document"
    if mistake["type"] == "extra_forbidden":
        return f"{source}: unknown key {location}"
    return f"{source}: {location}: {mistake['msg'].removeprefix('Value error, ')}"


def merge(base: Any, over: Any) -> Any:
    """`over` laid on `base`: mappings by key, lists of named items by name, anything else replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{key: merge(base[key], value) if key in base else value for key, value in over.items()}}
    if _named(base) and _named(over):
        laid_over = {item["name"]: item for item in over}
        kept = [merge(item, laid_over.pop(item["name"], {})) for item in base]
        return [*kept, *laid_over.values()]
    return over


def _named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) and "name" in item for item in value)


def _resources(group: NodeGroup) -> Manifest:
    amounts: Manifest = {"cpu": group.cpu, "memory": group.memory}
    if group.ephemeral_storage:
        amounts["ephemeral-storage"] = group.ephemeral_storage
    if isinstance(group, WorkerGroup) and group.gpus:
        amounts[group.gpu_resource] = str(group.gpus)
    return {"limits": amounts, "requests": dict(amounts)}


def _resources_param(group: NodeGroup) -> dict[str, str]:
    """Custom resources as JSON quoted for the shell that `ray start` runs in.

    In single quotes, for two more read it: KubeRay strips quotes and knows no escapes (where it cannot read them, it
    adds no num-gpus either), and Ray's autoscaler drops the first and last character.
    """
    return {"resources": shlex.quote(json.dumps(group.ray_resources))} if group.ray_resources else {}


def _env(group: NodeGroup) -> list[Manifest]:
    literal = [{"name": name, "value": value} for name, value in group.env.items()]
    return literal + [{"name": name, **secret.to_k8s()} for name, secret in group.secret_env.items()]


def _given(fields: Manifest) -> Manifest:
    """Without what is empty, so that a manifest says only what was asked for."""
    return {key: value for key, value in fields.items() if value}
