"""The manifests that come with the package are valid, and grant exactly what the client asks for."""

import re
from pathlib import Path

import pytest
import yaml
from kubernetes_validate import validate

MANIFESTS = sorted(Path("kuberay/manifests").glob("*.yaml"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_shipped_manifest_is_valid(path):
    for document in yaml.safe_load_all(path.read_text()):
        validate(document, "1.33", strict=True)


def test_the_role_grants_the_verbs_the_client_uses_and_no_secrets():
    documents = list(yaml.safe_load_all(Path("kuberay/manifests/rbac.yaml").read_text()))
    rules = next(document for document in documents if document["kind"] == "Role")["rules"]
    granted = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    source = Path("kuberay/client.py").read_text()
    custom = {f"{verb}_namespaced_custom_object" for verb in ("get", "list", "create", "patch", "delete")}
    assert custom == set(re.findall(r"_custom\.(\w+)\(", source))
    core = {"list_namespaced_pod", "list_namespaced_event", "read_namespaced_pod_log"}
    assert core == set(re.findall(r"_core\.(\w+)\(", source))
    verbs = ("get", "list", "watch", "create", "patch", "delete")
    assert granted == {(kind, verb) for kind in ("rayclusters", "rayjobs") for verb in verbs} | {
        ("pods", "list"),
        ("events", "list"),
        ("pods/log", "get"),
    }


def test_the_collector_uses_the_role_and_an_entry_point_that_exists():
    (collector,) = yaml.safe_load_all(Path("kuberay/manifests/collector.yaml").read_text())
    pod = collector["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "airflow-kuberay"
    assert "python -m kuberay gc" in pod["containers"][0]["command"][-1]
