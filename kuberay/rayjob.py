"""One command on a Ray cluster, its own or an existing one, rendered to a RayJob manifest."""

import json
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from kuberay.cluster import API_VERSION, ClusterSpec, Count, Model, Positive, accepted, explain
from kuberay.errors import InvalidSpecError
from kuberay.names import MANAGED_LABEL
from kuberay.rules import Manifest

Amount = Annotated[float, Field(ge=0)]


class DeletionRule(Model):
    """Delete something `ttl_s` seconds after the job reached a status; give exactly one of the two statuses."""

    policy: Literal["DeleteWorkers", "DeleteCluster", "DeleteSelf", "DeleteNone"]
    job_status: Literal["SUCCEEDED", "FAILED"] | None = None
    job_deployment_status: Literal["Failed"] | None = Field(default=None, description="also after a deadline")
    ttl_s: Count = 0

    def to_k8s(self) -> Manifest:
        statuses = {"jobStatus": self.job_status, "jobDeploymentStatus": self.job_deployment_status}
        condition = {key: value for key, value in statuses.items() if value is not None}
        return {"policy": self.policy, "condition": {**condition, "ttlSeconds": self.ttl_s}}


class JobSpec(Model):
    """A plain command and where it runs. KubeRay submits it through a Kubernetes Job, whose log is the job's log."""

    entrypoint: str = Field(description="a plain command, no shell operators; wrap a pipeline in bash -c '...'")
    cluster: ClusterSpec | None = Field(default=None, description="a cluster of the job's own")
    cluster_name: str | None = Field(default=None, description="an existing RayCluster")
    runtime_env: dict[str, Any] = Field(default={}, description="Ray's runtime environment")
    metadata: dict[str, str] = Field(default={}, description="shown beside the job in Ray's dashboard")
    entrypoint_num_cpus: Amount = 0
    entrypoint_num_gpus: Amount = 0
    entrypoint_resources: dict[str, Amount] = Field(default={}, description="pins the driver to a node group")
    deadline_s: Positive = Field(default=24 * 3600, description="from creation to the end, queueing included")
    start_deadline_s: Positive | None = Field(default=3600, description="to the job's start; null: only deadline_s")
    ttl_s: Count = Field(default=300, description="how long the cluster outlives the job if nobody deletes it")
    deletion_rules: tuple[DeletionRule, ...] = Field(default=(), description="in place of ttl_s, per outcome")
    submitter_retries: Count = Field(default=3, description="new submitter pods before the job counts as not submitted")

    @model_validator(mode="after")
    def _one_cluster(self) -> "JobSpec":
        if (self.cluster is None) == (self.cluster_name is None):
            raise ValueError("give exactly one of cluster (the job's own) and cluster_name (an existing one)")
        return self

    def to_k8s(self, name: str, namespace: str, labels: dict[str, str], annotations: dict[str, str]) -> Manifest:
        """The RayJob manifest. Raises InvalidSpecError with every rule that the controller would refuse it for."""
        return accepted(
            {
                "apiVersion": API_VERSION,
                "kind": "RayJob",
                "metadata": self._metadata(name, namespace, labels, annotations),
                "spec": self.spec_k8s(),
            }
        )

    def spec_k8s(self) -> Manifest:
        return {
            "entrypoint": self.entrypoint,
            "submissionMode": "K8sJobMode",
            # Retries belong to the caller: KubeRay's own would run the job again behind its back.
            "backoffLimit": 0,
            "submitterConfig": {"backoffLimit": self.submitter_retries},
            "activeDeadlineSeconds": self.deadline_s,
            **({"preRunningDeadlineSeconds": self.start_deadline_s} if self.start_deadline_s else {}),
            **self._entrypoint_resources(),
            **self._cluster(),
        }

    def _metadata(self, name: str, namespace: str, labels: dict[str, str], annotations: dict[str, str]) -> Manifest:
        if self.cluster:
            return self.cluster.metadata(name, namespace, labels, annotations)
        labels = {MANAGED_LABEL: "true", **labels}
        return {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations}

    def _cluster(self) -> Manifest:
        if self.cluster is None:
            return {"clusterSelector": {"ray.io/cluster": self.cluster_name}}
        rendered = {
            "rayClusterSpec": self.cluster.spec_k8s(),
            "submitterPodTemplate": self.cluster.submitter_template(),
        }
        if self.deletion_rules:
            return {**rendered, "deletionStrategy": {"deletionRules": [rule.to_k8s() for rule in self.deletion_rules]}}
        # Covers success, failure, a deadline and a job stopped by hand; deletion rules know no STOPPED.
        return {**rendered, "shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": self.ttl_s}

    def _entrypoint_resources(self) -> Manifest:
        fields = {
            "runtimeEnvYAML": yaml.safe_dump(self.runtime_env) if self.runtime_env else None,
            "metadata": self.metadata,
            "entrypointNumCpus": self.entrypoint_num_cpus,
            "entrypointNumGpus": self.entrypoint_num_gpus,
            "entrypointResources": json.dumps(self.entrypoint_resources) if self.entrypoint_resources else None,
        }
        return {key: value for key, value in fields.items() if value}


def make_job(**fields: Any) -> JobSpec:
    """A validated JobSpec. Raises InvalidSpecError with one line per mistake."""
    try:
        return JobSpec(**fields)
    except ValidationError as error:
        raise InvalidSpecError([explain("job spec", mistake) for mistake in error.errors()]) from None
