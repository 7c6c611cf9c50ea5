"""Every profile's manifests against KubeRay's own CRDs, strictly: unknown keys and wrong types are errors.

The CRDs are not part of this project: CALLMILL_KUBERAY_CRDS names the folder that holds ray.io_rayclusters.yaml and
ray.io_rayjobs.yaml of KubeRay 1.7 (its helm-chart/kuberay-operator/crds).
"""

import copy
import os
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from kubernetes_validate import validate

from kuberay.cluster import profile_names, resolve_cluster
from kuberay.rayjob import make_job

CRDS = os.environ.get("CALLMILL_KUBERAY_CRDS")
needs_crds = pytest.mark.skipif(not CRDS, reason="CALLMILL_KUBERAY_CRDS does not name a folder of KubeRay's CRDs")


def manifests() -> list[dict]:
    rendered = []
    for name in profile_names():
        cluster = resolve_cluster(name)
        rendered.append(cluster.to_k8s(f"{name}-cluster", "default", {}, {"a": "b"}))
        rendered.append(
            make_job(entrypoint="python -m work", cluster=cluster, runtime_env={"env_vars": {"A": "1"}}).to_k8s(
                f"{name}-job", "default", {}, {}
            )
        )
    rules = [
        {"policy": "DeleteCluster", "job_status": "SUCCEEDED"},
        {"policy": "DeleteSelf", "job_deployment_status": "Failed", "ttl_s": 60},
    ]
    rendered.append(
        make_job(entrypoint="true", cluster=resolve_cluster("small"), deletion_rules=rules).to_k8s(
            "rules", "default", {}, {}
        )
    )
    rendered.append(make_job(entrypoint="true", cluster_name="shared").to_k8s("selector", "default", {}, {}))
    return rendered


def strict(schema: dict) -> dict:
    """A CRD's structural schema as JSON schema: Kubernetes' extensions read, unknown keys refused."""
    kept = {
        key: value
        for key, value in schema.items()
        if key in ("type", "enum", "required", "minimum", "maximum", "pattern")
    }
    if schema.get("x-kubernetes-int-or-string"):
        kept["type"] = ["integer", "string"]
    if "properties" in schema:
        kept["properties"] = {key: strict(value) for key, value in schema["properties"].items()}
        kept["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    if isinstance(schema.get("additionalProperties"), dict):
        kept["additionalProperties"] = strict(schema["additionalProperties"])
    if "items" in schema:
        kept["items"] = strict(schema["items"])
    # Defaulted fields are filled in before the API server validates.
    kept["required"] = [key for key in kept.get("required", []) if "default" not in schema["properties"].get(key, {})]
    return kept


@pytest.fixture(scope="module")
def validators() -> dict[str, Draft202012Validator]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    validators = {}
    for kind, plural in (("RayCluster", "rayclusters"), ("RayJob", "rayjobs")):
        crd = yaml.load((Path(CRDS) / f"ray.io_{plural}.yaml").read_text(), loader)
        version = next(version for version in crd["spec"]["versions"] if version["name"] == "v1")
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        validators[kind] = Draft202012Validator(schema)
    return validators


@needs_crds
@pytest.mark.parametrize("manifest", manifests(), ids=lambda manifest: manifest["metadata"]["name"])
def test_manifests_pass_the_crds(manifest, validators):
    assert [error.message for error in validators[manifest["kind"]].iter_errors(manifest)] == []


@needs_crds
def test_the_check_notices_a_key_that_the_crd_does_not_know(validators):
    manifest = copy.deepcopy(manifests()[0])
    manifest["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagePulPolicy"] = "Always"
    assert list(validators["RayCluster"].iter_errors(manifest))


@pytest.mark.parametrize("manifest", manifests(), ids=lambda manifest: manifest["metadata"]["name"])
def test_pods_and_metadata_are_valid_core_kubernetes(manifest):
    cluster = manifest["spec"] if manifest["kind"] == "RayCluster" else manifest["spec"].get("rayClusterSpec", {})
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]] if cluster else []
    templates = [group["template"] for group in groups]
    templates += [manifest["spec"]["submitterPodTemplate"]] if "submitterPodTemplate" in manifest["spec"] else []
    pods = [{"apiVersion": "v1", "kind": "Pod", "metadata": manifest["metadata"], **template} for template in templates]
    for pod in pods or [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": manifest["metadata"]}]:
        validate(pod, "1.33", strict=True)
