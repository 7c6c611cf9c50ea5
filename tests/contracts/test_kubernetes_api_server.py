"""The Kubernetes backend against a real API server, with the rights of the Role that we ship and nothing more.

What the contract tests' own server can only imitate is the real thing here: the CRDs' schemas, authorisation, quotas,
service account tokens, watches of a server that restarts, the garbage collector. The test plays KubeRay's operator.
Skipped where KUBEBUILDER_ASSETS or CALLMILL_KUBERAY_CRDS is not set.
"""

import asyncio
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import kubernetes
import pytest

from kuberay import client
from kuberay.__main__ import differences, main
from kuberay.backend import LogPosition, await_cluster, collect, follow_job, utc_now
from kuberay.cluster import parse_cluster
from kuberay.errors import ApiError, ForbiddenError, NotInstalledError, QuotaExceededError
from kuberay.names import MANAGED_LABEL, Claim
from kuberay.rayjob import make_job
from tests.contracts.kubernetes_api import KubernetesApi, programs
from tests.contracts.kubernetes_pod import until
from tests.contracts.kubernetes_site import ACCOUNT, LATER, Site
from tests.contracts.test_manifests import manifests

CRDS = os.environ.get("CALLMILL_KUBERAY_CRDS")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not programs(), reason="KUBEBUILDER_ASSETS does not name a folder of Kubernetes' programs"),
    pytest.mark.skipif(not CRDS, reason="CALLMILL_KUBERAY_CRDS does not name a folder of KubeRay's CRDs"),
]

CLUSTER = parse_cluster({"image": "ray:1", "head": {"cpu": 1, "memory": "4Gi"}})
JOB = make_job(entrypoint="python -m work", cluster=CLUSTER)
CLAIM = Claim(dag_id="asr", run_id="r1", task_id="transcribe")
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayClusterName": "ray-abcde"}
SUCCEEDED = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED", "rayClusterName": "ray-abcde"}


@pytest.fixture(scope="module")
def server() -> Iterator[KubernetesApi]:
    # /tmp: the path of etcd's socket has to be short
    api = KubernetesApi(programs(), Path(tempfile.mkdtemp(prefix="kubernetes-", dir="/tmp")))
    try:
        api.start()
        api.install(Path(CRDS))
        api.start_controllers()
        yield api
    finally:
        api.stop()


@pytest.fixture
def site(server) -> "OperatedSite":
    return OperatedSite(server)


class OperatedSite(Site):
    """One whose KubeRay operator is the test."""

    def submit(self, job=JOB, claim=CLAIM):
        return self.run(lambda backend: backend.submit_job(job, claim, LATER))

    def set_status(self, plural, name, status):
        self.custom.patch_namespaced_custom_object_status(
            "ray.io", "v1", self.namespace, plural, name, {"status": status}
        )

    def create_own_cluster(self, job):
        """What the operator makes of a RayJob."""
        owner = self.get("rayjobs", job)
        reference = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": job, "uid": owner["metadata"]["uid"]}
        manifest = CLUSTER.to_k8s("ray-abcde", self.namespace, {MANAGED_LABEL: "true"}, {})
        manifest["metadata"]["ownerReferences"] = [{**reference, "controller": True, "blockOwnerDeletion": True}]
        self.custom.create_namespaced_custom_object("ray.io", "v1", self.namespace, "rayclusters", manifest)

    def pod(self, name, cluster, group):
        labels = {"ray.io/cluster": cluster, "ray.io/group": group}
        container = {"name": "ray", "image": "ray:1"}
        self.core.create_namespaced_pod(
            self.namespace, {"metadata": {"name": name, "labels": labels}, "spec": {"containers": [container]}}
        )

    def warn(self, name, reason, message):
        about = {"name": name, "namespace": self.namespace}
        event = {"type": "Warning", "reason": reason, "message": message, "involvedObject": about}
        self.core.create_namespaced_event(self.namespace, {"metadata": {"generateName": "warning-"}, **event})


# --- what the schemas say -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("manifest", manifests(), ids=lambda manifest: manifest["metadata"]["name"])
def test_every_profile_is_stored_as_rendered(site, manifest):
    """The server prunes what it does not know and refuses what has the wrong type."""
    plural = client.PLURALS[manifest["kind"]]
    manifest = {**manifest, "metadata": {**manifest["metadata"], "namespace": site.namespace}}
    site.custom.create_namespaced_custom_object("ray.io", "v1", site.namespace, plural, manifest)
    stored = site.get(plural, manifest["metadata"]["name"])
    assert list(differences(manifest["spec"], stored["spec"], "spec")) == []


# --- a job's life with the Role's rights --------------------------------------------------------------------------


def test_a_job_lives_and_goes_with_its_cluster(site):
    lines: list[str] = []
    name = site.submit()
    site.pod("head", "ray-abcde", "headgroup")
    site.warn(name, "FailedToCreateWorkerPod", "no such service account")

    def operate():
        site.create_own_cluster(name)
        for status in ({**RUNNING, "jobDeploymentStatus": "Initializing", "jobStatus": "PENDING"}, RUNNING, SUCCEEDED):
            time.sleep(0.5)
            site.set_status("rayjobs", name, status)

    async def life(backend):
        operator = threading.Thread(target=operate)
        operator.start()
        status = await follow_job(backend, name, lines.append, log_interval_s=0.1, pending_interval_s=0.1)
        operator.join()
        position = LogPosition(source="submitter", num_lines=3)
        await backend.save_position(name, position)
        assert await backend.load_position(name) == position
        await backend.delete_job(name)
        return status

    assert site.run(life).state == "succeeded"
    assert f"job {name}: running" in lines
    assert any("1 of 1 pods of group headgroup pending" in line for line in lines)
    assert site.names("rayjobs") == site.names("rayclusters") == []


def test_a_shared_cluster_gets_ready_and_is_deleted_after_its_jobs(site):
    async def life(backend):
        name = await backend.create_cluster(CLUSTER, CLAIM, LATER)
        conditions = [
            {
                "type": kind,
                "status": "True",
                "reason": "Up",
                "message": "all pods are up",
                "lastTransitionTime": utc_now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            for kind in client.READY_CONDITIONS
        ]
        site.set_status("rayclusters", name, {"conditions": conditions, "head": {"serviceName": "ray-head-svc"}})
        status = await await_cluster(backend, name, lambda line: None, timeout_s=20)
        assert status.dashboard_url == f"http://ray-head-svc.{site.namespace}.svc.cluster.local:8265"
        await backend.delete_cluster(name)

    site.run(life)
    assert site.names("rayclusters") == []


def follow_while(site, name, operate, timeout_s=90):
    """Follow a job to its end, and read it once more; the operator acts as soon as the job is said to run."""
    site.set_status("rayjobs", name, RUNNING)

    async def follow(backend):
        operator = threading.Thread(target=operate)

        def emit(line):
            if line.endswith("running"):
                operator.start()

        status = await follow_job(backend, name, emit, log_interval_s=0.2)
        operator.join()
        await backend.read("RayJob", name)
        return status.state

    return site.run(follow, timeout_s)


def test_a_job_deleted_by_hand_is_gone(site):
    name = site.submit()

    def delete():
        site.custom.delete_namespaced_custom_object("ray.io", "v1", site.namespace, "rayjobs", name)

    assert follow_while(site, name, delete) == "gone"


def test_an_api_server_that_restarts_is_not_a_job_that_fails(site):
    name = site.submit()

    def restart():
        site.server.stop_server()
        time.sleep(2)
        site.server.start_server()
        site.set_status("rayjobs", name, SUCCEEDED)

    assert follow_while(site, name, restart, timeout_s=180) == "succeeded"


def test_a_token_that_is_no_longer_valid_is_replaced_while_the_job_runs(site):
    """The account is deleted and made anew, as a rotation does it; a token of the old one is refused at once."""
    name = site.submit()

    def rotate():
        site.core.delete_namespaced_service_account(ACCOUNT, site.namespace)
        until(lambda: ACCOUNT not in [a.metadata.name for a in _accounts(site)], "the account is gone", 60)
        site.core.create_namespaced_service_account(site.namespace, {"metadata": {"name": ACCOUNT}})
        site.tokens.append(site.token())
        time.sleep(1)
        site.set_status("rayjobs", name, SUCCEEDED)

    assert follow_while(site, name, rotate) == "succeeded"
    assert len(site.tokens) == 2


def _accounts(site):
    return site.core.list_namespaced_service_account(site.namespace).items


# --- creating and adopting ----------------------------------------------------------------------------------------


def test_two_workers_at_once_create_one_job(site):
    async def both(backend):
        async with site.backend() as other:
            return await asyncio.gather(*(each.submit_job(JOB, CLAIM, LATER) for each in (backend, other)))

    assert site.run(both) == [CLAIM.name] * 2
    assert site.names("rayjobs") == [CLAIM.name]


def test_a_retry_adopts_and_a_clear_replaces(site):
    first = site.submit()
    assert site.submit(claim=replace(CLAIM, attempt=2)) == first
    second = site.submit(claim=replace(CLAIM, attempt=3, times_cleared=1))
    assert site.names("rayjobs") == [second]


def test_collection_takes_what_has_expired(site, tmp_path, monkeypatch, capsys):
    past = utc_now() - timedelta(minutes=1)
    expired = site.run(lambda backend: backend.submit_job(JOB, CLAIM, past))
    alive = site.submit(claim=replace(CLAIM, task_id="alive"))
    config = tmp_path / "config"
    config.write_text(json.dumps(site.server.kubeconfig(site.tokens[-1])))
    monkeypatch.setattr("kubernetes_asyncio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(config))
    assert main(["gc", "--namespace", site.namespace]) == 0
    assert capsys.readouterr().out.startswith(f"deleted RayJob {expired}: expired at ")
    assert site.names("rayjobs") == [alive]

    async def ended(dag_id, run_id):
        return True

    assert site.run(lambda backend: collect(backend, utc_now(), ended, dry_run=True))[0].name == alive


# --- refusals -----------------------------------------------------------------------------------------------------


def test_a_missing_right_is_named_with_its_verb_and_resource(site):
    rights = kubernetes.client.RbacAuthorizationV1Api(site.server.admin)
    rights.delete_namespaced_role_binding(ACCOUNT, site.namespace)
    with pytest.raises(ForbiddenError, match=r'cannot list resource "rayjobs" in API group "ray.io".*rbac\.yaml'):
        wait_for_refusal(site)


def wait_for_refusal(site):
    for _ in range(50):  # the server learns of rights with a delay
        site.submit()
        time.sleep(0.1)


def test_a_quota_is_said_to_be_exceeded(site):
    quota = {"metadata": {"name": "jobs"}, "spec": {"hard": {"count/rayjobs.ray.io": "1"}}}
    site.core.create_namespaced_resource_quota(site.namespace, quota)
    until(lambda: site.core.read_namespaced_resource_quota("jobs", site.namespace).status.hard, "the quota counts", 60)
    site.submit()
    with pytest.raises(QuotaExceededError, match=r"exceeded quota: jobs, requested: count/rayjobs\.ray\.io=1"):
        site.submit(claim=replace(CLAIM, task_id="another"))


def test_what_the_schema_refuses_is_said_in_one_line(site):
    async def refused(backend):
        manifest = JOB.to_k8s("wrong", site.namespace, CLAIM.labels, {})
        manifest["spec"]["backoffLimit"] = "three"
        await backend._create(manifest)

    with pytest.raises(ApiError, match=r"422 .*spec\.backoffLimit.*integer") as caught:
        site.run(refused)
    assert "\n" not in str(caught.value)


def test_a_kind_the_cluster_does_not_know_means_that_kuberay_is_not_installed(site, monkeypatch):
    monkeypatch.setattr(client, "VERSION", "v9")
    with pytest.raises(NotInstalledError, match="install the KubeRay operator"):
        site.submit()
