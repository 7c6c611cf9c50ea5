"""Every verb of the Kubernetes backend against an HTTP API, with an operator that plays KubeRay's status sequences."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from kubernetes_asyncio import client as kubernetes

from kuberay.__main__ import main
from kuberay.backend import LogPosition, await_cluster, collect, follow_job
from kuberay.client import RUNS_ANEW, KubernetesBackend, default_connection
from kuberay.cluster import parse_cluster, resolve_cluster
from kuberay.errors import ApiError, ForbiddenError, NotInstalledError, QuotaExceededError, UnreachableError
from kuberay.names import EXPIRY_ANNOTATION, LOG_ANNOTATION, MANAGED_LABEL, Claim
from kuberay.rayjob import make_job
from tests.contracts.fake_kubernetes import Fault

CLUSTER = parse_cluster({"image": "ray:1", "head": {"cpu": 1, "memory": "4Gi"}})
JOB = make_job(entrypoint="python -m work", cluster=CLUSTER)
CLAIM = Claim(dag_id="asr", run_id="r1", task_id="transcribe")
LATER = datetime.now(UTC) + timedelta(hours=1)

INITIALIZING = {"jobDeploymentStatus": "Initializing", "rayClusterName": "ray-abcde", "jobStatus": ""}
PENDING = {"jobDeploymentStatus": "Running", "jobStatus": "PENDING"}
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "dashboardURL": "ray-head-svc.default.svc:8265"}
SUCCEEDED = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}

LOST = "Submitter completed but Ray job not found in RayCluster."


@pytest.fixture
def backend(api):
    @asynccontextmanager
    async def connect():
        async with kubernetes.ApiClient(kubernetes.Configuration(host=api.url)) as client:
            yield client

    return KubernetesBackend(connect=connect, backoff_s=0.01)


def run(backend, work):
    async def inside():
        async with backend:
            return await asyncio.wait_for(work(), 20)

    return asyncio.run(inside())


def submit(backend, spec=JOB, claim=CLAIM):
    return run(backend, lambda: backend.submit_job(spec, claim, LATER))


def follow(backend, name, emit=lambda line: None):
    return run(backend, lambda: follow_job(backend, name, emit, log_interval_s=0.05, pending_interval_s=0.05))


# --- following a job ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "state", "message"),
    [
        ([INITIALIZING, PENDING, RUNNING, SUCCEEDED], "succeeded", ""),
        ([SUCCEEDED], "succeeded", ""),
        ([INITIALIZING, {"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}], "failed", "stopped by somebody"),
        (
            [
                RUNNING,
                {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed", "message": "exit 1"},
            ],
            "failed",
            "AppFailed: exit 1",
        ),
        (
            [RUNNING, {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded", "message": "after 60 s"}],
            "failed",
            "DeadlineExceeded",
        ),
        (
            [INITIALIZING, {"jobDeploymentStatus": "Failed", "reason": "PreRunningDeadlineExceeded"}],
            "failed",
            "PreRunning",
        ),
        (
            [{"jobDeploymentStatus": "Failed", "reason": "SubmissionFailed", "jobStatus": ""}],
            "failed",
            "SubmissionFailed",
        ),
        ([{"jobDeploymentStatus": "Failed", "reason": "SubmissionFailed", "jobStatus": "SUCCEEDED"}], "succeeded", ""),
        ([{"jobDeploymentStatus": "ValidationFailed", "message": "bad spec"}], "failed", "bad spec"),
        (
            [RUNNING, {"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED"}, INITIALIZING, RUNNING, SUCCEEDED],
            "succeeded",
            "",
        ),
        (
            [
                {"jobDeploymentStatus": "Suspending"},
                {"jobDeploymentStatus": "Suspended"},
                INITIALIZING,
                RUNNING,
                SUCCEEDED,
            ],
            "succeeded",
            "",
        ),
    ],
)
def test_the_deployment_status_ends_a_job_and_the_job_status_judges_it(api, backend, script, state, message):
    api.script = script
    status = follow(backend, submit(backend))
    assert status.state == state
    assert message in status.message


def test_progress_is_told_once_per_change(api, backend):
    lines: list[str] = []
    name = submit(backend)
    api.set_status("rayjobs", name, **RUNNING)

    def emit(line):
        lines.append(line)
        if "running" in line:
            api.set_status("rayjobs", name, **RUNNING, startTime="now")
            api.set_status("rayjobs", name, **SUCCEEDED)

    follow(backend, name, emit)
    assert lines == [f"job {name}: running", f"job {name}: succeeded"]


def test_a_job_that_was_quick_has_run_and_waits_for_nothing(api, backend):
    """KubeRay looks at a job now and then: of a quick one it first learns that it has ended."""
    lines: list[str] = []
    message = "Job finished successfully."
    api.script = [INITIALIZING, {**PENDING, "jobStatus": "SUCCEEDED", "message": message}, SUCCEEDED]
    name = submit(backend)
    follow(backend, name, lines.append)
    assert f"job {name}: running, {message}" in lines


def test_a_job_deleted_by_hand_is_gone_not_waited_for(api, backend):
    api.script = [RUNNING]
    name = submit(backend)
    assert follow(backend, name, lambda line: "running" in line and api.remove("rayjobs", name)).state == "gone"


def test_a_shared_cluster_deleted_by_hand_ends_the_job_that_kuberay_lets_wait(api, backend, monkeypatch):
    monkeypatch.setattr("kuberay.client.WATCH_S", 0.1)
    api.script = [{**RUNNING, "rayClusterName": "shared"}]
    api.add("rayclusters", {"kind": "RayCluster", "metadata": {"name": "shared"}, "spec": {}})
    name = submit(backend, make_job(entrypoint="python -m work", cluster_name="shared"))
    status = follow(backend, name, lambda line: "running" in line and api.remove("rayclusters", "shared"))
    assert (status.state, status.message) == ("gone", "the RayCluster shared it runs on was deleted")


@pytest.mark.parametrize(
    ("end", "state", "message"),
    [
        ([INITIALIZING, RUNNING, SUCCEEDED], "succeeded", ""),
        ([{"jobDeploymentStatus": "Failed", "reason": "AppFailed", "message": LOST}], "failed", LOST),
    ],
)
def test_a_job_whose_own_cluster_is_deleted_ends_as_kuberay_says(api, backend, monkeypatch, end, state, message):
    """KubeRay makes the cluster anew and the submitter submits again, as often as its backoffLimit lets it."""
    monkeypatch.setattr("kuberay.client.WATCH_S", 0.1)
    api.script = [{**RUNNING, "rayClusterName": "own"}]
    api.add("rayclusters", {"kind": "RayCluster", "metadata": {"name": "own"}, "spec": {}})
    name = submit(backend)

    def emit(line):
        if line.endswith(": running") and ("rayclusters", "own") in api.objects:
            api.remove("rayclusters", "own")
            for status in end:
                api.set_status("rayjobs", name, **status)

    status = follow(backend, name, emit)
    assert status.state == state
    assert message in status.message


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_poll_that_fails_is_not_a_job_that_fails(api, backend, status):
    api.script = [INITIALIZING, RUNNING, SUCCEEDED]
    name = submit(backend)
    api.faults = [Fault(status=status, path="rayjobs", times=9)]
    assert follow(backend, name).state == "succeeded"


def test_a_poll_that_times_out_is_not_a_job_that_fails(api, backend, monkeypatch):
    monkeypatch.setattr("kuberay.client.ANSWER_S", 0.1)
    api.script = [RUNNING, SUCCEEDED]
    name = submit(backend)
    api.faults = [Fault(status=200, path="rayjobs", times=2, delay_s=1)]
    assert follow(backend, name).state == "succeeded"
    assert api.faults[0].times == 0


def refused(times):
    return Fault(status=403, path="rayjobs", times=times, body={"message": "forbidden"})


def test_a_refusal_in_passing_is_not_a_job_that_fails(api, backend, monkeypatch):
    """An API server that has just started forbids everything until it has read its roles."""
    monkeypatch.setattr("kuberay.client.WATCH_S", 0.1)
    api.script, api.step_s = [RUNNING, SUCCEEDED], 0.3
    name = submit(backend)
    assert follow(backend, name, lambda line: api.faults.append(refused(3))).state == "succeeded"
    assert api.faults[0].times == 0


def test_a_lasting_refusal_is_said(api, backend, monkeypatch):
    monkeypatch.setattr("kuberay.client.WATCH_S", 0.1)
    monkeypatch.setattr("kuberay.client.REFUSAL_GRACE_S", 0.3)
    api.script = [RUNNING]
    name = submit(backend)
    with pytest.raises(ForbiddenError, match="forbidden"):
        follow(backend, name, lambda line: api.faults.append(refused(999)))


def test_a_token_rotated_while_the_job_runs_is_read_again_by_all_who_use_it(api):
    """A watch, the log's reader and the progress of pending pods share one client."""
    tokens = ["first", "second"]
    opened: list[str] = []

    @asynccontextmanager
    async def connect():
        opened.append(api.token)
        header = {"authorization": f"Bearer {api.token}"}
        configuration = kubernetes.Configuration(host=api.url, api_key={"BearerToken": header["authorization"]})
        async with kubernetes.ApiClient(configuration) as client:
            yield client

    api.token = tokens[0]
    backend = KubernetesBackend(connect=connect, backoff_s=0.01)
    api.script = [RUNNING]
    name = submit(backend)
    opened.clear()
    lines: list[str] = []

    def rotate(line):
        lines.append(line)
        if line == "one":
            api.token = tokens[1]
            api.drop_watches = 1
            api.log("submitter-1", "two", job=name)
            api.set_status("rayjobs", name, **SUCCEEDED)

    api.log("submitter-1", "one", job=name)
    assert follow(backend, name, rotate).state == "succeeded"
    assert lines == [f"job {name}: running", "one", f"job {name}: succeeded", "two"]
    assert opened == tokens


def test_retry_after_is_honoured(api, backend):
    api.faults = [Fault(status=429, path="rayjobs", headers={"Retry-After": "1"})]
    start = datetime.now(UTC)
    submit(backend)
    assert datetime.now(UTC) - start >= timedelta(seconds=1)


def test_dropped_watches_resume(api, backend):
    api.script, api.step_s, api.drop_watches = [INITIALIZING, RUNNING, PENDING, RUNNING, SUCCEEDED], 0.1, 3
    assert follow(backend, submit(backend)).state == "succeeded"
    assert [verb for verb, _ in api.requests].count("WATCH") >= 3


def test_an_old_version_is_listed_anew_in_both_forms_of_410(api, backend):
    api.script, api.step_s = [INITIALIZING, RUNNING, SUCCEEDED], 0.1
    api.faults = [Fault(status=410, path="rayjobs", watch=True)]
    api.compacted = 5
    assert follow(backend, submit(backend)).state == "succeeded"


def test_a_quiet_job_costs_one_watch_not_a_poll(api, backend):
    api.script, api.step_s = [RUNNING, SUCCEEDED], 0.5
    name = submit(backend)
    api.requests.clear()
    run(backend, lambda: follow_job(backend, name, lambda line: None, log_interval_s=60))
    assert [(verb, path.rsplit("/")[-1]) for verb, path in api.requests].count(("WATCH", "rayjobs")) == 1


# --- creating and adopting ----------------------------------------------------------------------------------------


def names(api, plural="rayjobs"):
    return sorted(name for kind, name in api.objects if kind == plural)


def test_the_same_attempt_adopts_what_it_created(api, backend):
    assert submit(backend) == submit(backend)
    assert len(names(api)) == 1


def test_a_create_whose_answer_was_lost_is_adopted_on_409(api, backend):
    name = submit(backend)
    api.faults = [Fault(status=200, path="rayjobs", body={"items": [], "metadata": {"resourceVersion": "1"}})]
    assert submit(backend) == name
    assert ("POST", "/apis/ray.io/v1/namespaces/default/rayjobs") in api.requests


def test_a_name_taken_by_a_stranger_is_an_error(api, backend):
    api.add("rayjobs", {"kind": "RayJob", "metadata": {"name": CLAIM.name}, "spec": {}})
    with pytest.raises(ApiError, match="not this task's"):
        submit(backend)


def test_a_retry_after_a_crash_adopts_the_running_job(api, backend):
    api.script = [RUNNING]
    first = submit(backend)
    assert submit(backend, claim=replace(CLAIM, attempt=2)) == first


@pytest.mark.parametrize(
    ("spec", "claim"),
    [
        (JOB, replace(CLAIM, attempt=2, times_cleared=1)),
        (make_job(entrypoint="python -m other", cluster=CLUSTER), replace(CLAIM, attempt=2)),
    ],
    ids=["cleared", "another spec"],
)
def test_a_clear_or_another_spec_replaces_the_job(api, backend, spec, claim):
    first = submit(backend)
    second = submit(backend, spec, claim)
    assert second != first
    assert names(api) == [second]


def test_a_failed_attempt_is_removed_before_the_next_one_is_created(api, backend):
    api.script = [{"jobDeploymentStatus": "Failed", "jobStatus": "FAILED"}]
    follow(backend, submit(backend))
    order: list[list[str]] = []
    api.on_create = lambda plural, manifest: order.append(names(api))
    second = submit(backend, claim=replace(CLAIM, attempt=2))
    assert order == [[second]]


def test_mapped_tasks_do_not_see_each_other(api, backend):
    submit(backend, claim=replace(CLAIM, map_index=0))
    submit(backend, claim=replace(CLAIM, map_index=1))
    assert len(names(api)) == 2


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (
            Fault(
                status=403, method="POST", body={"message": 'rayjobs.ray.io is forbidden: User "airflow" cannot create'}
            ),
            ForbiddenError,
            r"cannot create rayjobs .*rbac\.yaml",
        ),
        (
            Fault(
                status=403, method="POST", body={"message": "exceeded quota: gpus, requested: count/rayjobs.ray.io=1"}
            ),
            QuotaExceededError,
            "exceeded quota: gpus",
        ),
        (Fault(status=422, method="POST", body={"message": "spec.foo: unknown"}), ApiError, "422 spec.foo: unknown"),
        (Fault(status=503, method="POST", times=99), UnreachableError, "tried 6 times: 503"),
    ],
)
def test_a_refused_create_is_one_clear_line(api, backend, fault, error, message):
    api.faults = [fault]
    with pytest.raises(error, match=message) as caught:
        submit(backend)
    assert "\n" not in str(caught.value)


def test_without_the_operator_the_error_says_so(api, backend):
    api.known = set()
    with pytest.raises(NotInstalledError, match="install the KubeRay operator"):
        submit(backend)


def test_an_expired_token_is_renewed_once(api, backend):
    api.faults = [Fault(status=401, path="rayjobs")]
    assert submit(backend) == CLAIM.name
    api.faults = [Fault(status=401, path="rayjobs", times=2)]
    with pytest.raises(ForbiddenError):
        submit(backend)


def test_without_a_cluster_the_error_says_what_to_set(monkeypatch, tmp_path):
    monkeypatch.setattr("kubernetes_asyncio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(ApiError, match="KUBECONFIG"):
        run(KubernetesBackend(connect=default_connection), lambda: asyncio.sleep(0))


# --- cancelling ---------------------------------------------------------------------------------------------------


def own_cluster(job):
    return {
        "kind": "RayCluster",
        "metadata": {"name": "ray-abcde", "labels": {MANAGED_LABEL: "true"}, "ownerReferences": [{"name": job}]},
        "spec": {},
    }


def test_cancel_returns_when_the_job_and_its_cluster_are_gone(api, backend):
    api.script, api.step_s = [INITIALIZING, RUNNING], 0.05
    api.on_create = lambda plural, manifest: api._store("rayclusters", own_cluster(manifest["metadata"]["name"]))
    name = submit(backend)

    async def cancel():
        while "rayClusterName" not in api.objects[("rayjobs", name)].get("status", {}):
            await asyncio.sleep(0.02)
        await backend.delete_job(name)

    run(backend, cancel)
    assert api.objects == {}


def test_cancel_leaves_a_shared_cluster_alone(api, backend):
    api.script = [{**RUNNING, "rayClusterName": "shared"}]
    api.add("rayclusters", {"kind": "RayCluster", "metadata": {"name": "shared"}, "spec": {}})
    name = submit(backend, make_job(entrypoint="python -m work", cluster_name="shared"))
    run(backend, lambda: backend.delete_job(name))
    assert list(api.objects) == [("rayclusters", "shared")]


def test_cancelling_nothing_is_fine(api, backend):
    run(backend, lambda: backend.delete_job("none"))
    run(backend, lambda: backend.delete_cluster("none"))


def test_a_deletion_that_hangs_is_reported(api, backend, monkeypatch):
    monkeypatch.setattr("kuberay.client.DELETE_TIMEOUT_S", 0.3)
    name = submit(backend)
    api.step_s = 60
    with pytest.raises(ApiError, match="is the KubeRay operator running"):
        run(backend, lambda: backend.delete_job(name))


# --- logs ---------------------------------------------------------------------------------------------------------


def test_a_re_attached_reader_prints_no_line_twice(api, backend):
    api.script = [RUNNING]
    name = submit(backend)
    api.log("submitter-1", "one", "two", job=name)
    first: list[str] = []
    second: list[str] = []

    async def interrupted():
        following = asyncio.create_task(follow_job(backend, name, first.append, log_interval_s=0.05))
        while LOG_ANNOTATION not in api.objects[("rayjobs", name)]["metadata"]["annotations"]:
            await asyncio.sleep(0.02)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    run(backend, interrupted)
    api.log("submitter-1", "three", job=name)
    api.set_status("rayjobs", name, **SUCCEEDED)
    follow(backend, name, second.append)
    assert [line for line in first if "job " not in line] == ["one", "two"]
    assert [line for line in second if "job " not in line] == ["three"]


def test_a_second_submitter_pod_repeats_at_most_its_preface_and_loses_nothing(api, backend):
    api.script = [RUNNING]
    name = submit(backend)
    job_lines = [f"line {index}" for index in range(50)]
    api.log("submitter-1", *job_lines, job=name)

    async def read(position):
        return await backend.read_logs(name, position)

    lines, position = run(backend, lambda: read(LogPosition()))
    assert lines == job_lines
    api.log("submitter-2", *job_lines, "line 50", job=name)
    lines, position = run(backend, lambda: read(position))
    assert lines[-1] == "line 50"
    assert len(lines) <= 21
    assert run(backend, lambda: read(position)) == ([], position)


def test_a_job_that_a_second_submitter_pod_had_to_submit_again_is_told_from_its_beginning(api, backend):
    """The head was restarted: what the new pod shows is another run's log, however many lines the first one had."""
    api.script = [RUNNING]
    name = submit(backend)
    submitted = f"SUCC cli.py:67 -- Job '{name}' submitted successfully"
    api.log("submitter-1", submitted, *(f"line {index}" for index in range(50)), job=name)

    async def read(position):
        return await backend.read_logs(name, position)

    _, position = run(backend, lambda: read(LogPosition()))
    api.log("submitter-2", submitted, "line 0", job=name)
    lines, position = run(backend, lambda: read(position))
    assert lines == [RUNS_ANEW, submitted, "line 0"]
    api.log("submitter-3", submitted, "line 0", "line 1", job=name)
    lines, position = run(backend, lambda: read(position))
    assert lines == [RUNS_ANEW, submitted, "line 0", "line 1"]


def test_the_log_is_complete_after_a_job_that_ended_before_the_first_reading(api, backend):
    api.script = [SUCCEEDED]
    name = submit(backend)
    api.log("submitter-1", "only line", job=name, phase="Succeeded")
    lines: list[str] = []
    follow(backend, name, lines.append)
    assert "only line" in lines


def test_a_log_that_cannot_be_read_fails_no_job(api, backend):
    api.script = [RUNNING, SUCCEEDED]
    name = submit(backend)
    api.log("submitter-1", "one", job=name)
    api.faults = [Fault(status=403, path="/log", times=99)]
    assert follow(backend, name).state == "succeeded"


# --- clusters, progress, collection -------------------------------------------------------------------------------

READY = {
    "conditions": [{"type": "HeadPodReady", "status": "True"}, {"type": "RayClusterProvisioned", "status": "True"}],
    "head": {"serviceName": "ray-head-svc"},
}


def create_cluster(backend, claim=CLAIM, expires_at=LATER):
    return run(backend, lambda: backend.create_cluster(CLUSTER, claim, expires_at))


def test_a_cluster_is_ready_when_all_its_first_pods_have_been_up(api, backend):
    api.cluster_script = [{"conditions": [{"type": "HeadPodReady", "status": "True"}]}, READY]
    name = create_cluster(backend)
    status = run(backend, lambda: await_cluster(backend, name, lambda line: None, timeout_s=10))
    assert status.state == "ready"
    assert status.dashboard_url == "http://ray-head-svc.default.svc.cluster.local:8265"


def pending_pod(name, group, reason):
    conditions = [{"type": "PodScheduled", "status": "False", "message": reason}]
    labels = {"ray.io/cluster": CLAIM.name, "ray.io/group": group}
    return {"metadata": {"name": name, "labels": labels}, "status": {"phase": "Pending", "conditions": conditions}}


def test_a_cluster_that_never_starts_says_what_it_waits_for(api, backend):
    gpu = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    api.pods = {str(i): pending_pod(str(i), "asr", gpu) for i in range(2)}
    api.pods["2"] = {**pending_pod("2", "asr", ""), "status": {"phase": "Running"}}
    name = create_cluster(backend)
    lines: list[str] = []
    status = run(backend, lambda: await_cluster(backend, name, lines.append, timeout_s=0.4, pending_interval_s=0.1))
    assert lines == [f"2 of 3 pods of group asr pending: {gpu}"]
    assert status.message == f"not ready after 0 s: 2 of 3 pods of group asr pending: {gpu}"


def test_image_pull_failures_and_quotas_are_told(api, backend):
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}, "image": "ray:typo"}
    api.pods = {"1": {**pending_pod("1", "cpu", ""), "status": {"phase": "Pending", "containerStatuses": [waiting]}}}
    failure = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: cpu"}
    api.cluster_script = [{"conditions": [failure]}]
    name = create_cluster(backend)

    async def pending():
        while not api.objects[("rayclusters", name)].get("status"):
            await asyncio.sleep(0.02)
        return await backend.pending(name)

    assert run(backend, pending) == [
        "1 of 1 pods of group cpu pending: ImagePullBackOff ray:typo: not found",
        "pods cannot be created: exceeded quota: cpu",
    ]


def warning(name, time, reason, message):
    return {"involvedObject": {"name": name}, "lastTimestamp": time, "reason": reason, "message": message}


def test_warnings_that_reach_no_status_are_told_once_each_the_newest_last(api, backend):
    name = create_cluster(backend)
    api.warnings = [
        warning(name, "2026-11-25T10:00:03Z", "FailedToCreateWorkerPod", "no such\n service account"),
        warning(name, "2026-11-25T10:00:02Z", "InvalidRayClusterSpec", "seen twice"),
        warning(name, "2026-11-25T10:00:01Z", "InvalidRayClusterSpec", "seen twice"),
        warning("another", "2026-11-25T10:00:04Z", "Whatever", "not ours"),
    ]
    assert run(backend, lambda: backend.pending(name)) == [
        "InvalidRayClusterSpec: seen twice",
        "FailedToCreateWorkerPod: no such service account",
    ]


def test_without_the_right_to_see_events_the_pods_still_speak(api, backend):
    api.pods = {"1": pending_pod("1", "asr", "0/3 nodes are available")}
    api.faults = [Fault(status=403, path="/events", times=9)]
    name = create_cluster(backend)
    assert run(backend, lambda: backend.pending(name)) == ["1 of 1 pods of group asr pending: 0/3 nodes are available"]


def test_a_job_that_gets_no_cluster_says_why(api, backend):
    name = submit(backend)
    api.warnings = [warning(name, "2026-11-25T10:00:00Z", "FailedToCreateRayCluster", "denied by a webhook")]
    lines: list[str] = []

    async def followed():
        async with asyncio.timeout(0.5):
            await follow_job(backend, name, lines.append, pending_interval_s=0.1)

    with pytest.raises(TimeoutError):
        run(backend, followed)
    assert lines[-1] == "FailedToCreateRayCluster: denied by a webhook"


def test_a_job_that_never_starts_fails_at_its_deadline_and_says_what_it_waited_for(api, backend):
    pulling = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}, "image": "ray:typo"}
    pod = pending_pod("1", "head", "")
    pod["metadata"]["labels"]["ray.io/cluster"] = INITIALIZING["rayClusterName"]
    api.pods = {"1": {**pod, "status": {"phase": "Pending", "containerStatuses": [pulling]}}}
    api.script = [INITIALIZING]
    name = submit(backend)

    def strike(line):
        if "ImagePullBackOff" in line:
            api.set_status("rayjobs", name, jobDeploymentStatus="Failed", reason="PreRunningDeadlineExceeded")

    status = follow(backend, name, strike)
    assert status.state == "failed"
    assert status.message == (
        "PreRunningDeadlineExceeded; 1 of 1 pods of group head pending: ImagePullBackOff ray:typo: not found"
    )


def test_collection_takes_the_expired_and_those_of_ended_runs_and_nothing_else(api, backend):
    expired = create_cluster(
        backend, claim=replace(CLAIM, task_id="expired"), expires_at=datetime.now(UTC) - timedelta(hours=1)
    )
    ended = submit(backend, claim=replace(CLAIM, run_id="ended"))
    alive = submit(backend, claim=replace(CLAIM, run_id="alive"))
    api.add("rayclusters", own_cluster(alive))
    api.add("rayclusters", {"kind": "RayCluster", "metadata": {"name": "somebody-elses"}, "spec": {}})

    async def run_ended(dag_id, run_id):
        return run_id == "ended"

    found = run(backend, lambda: collect(backend, datetime.now(UTC), run_ended, dry_run=True))
    assert [(leftover.kind, leftover.name) for leftover in found] == [("RayJob", ended), ("RayCluster", expired)]
    assert "run ended of DAG asr has ended" in found[0].reason
    run(backend, lambda: collect(backend, datetime.now(UTC), run_ended))
    assert names(api) == [alive]
    assert names(api, "rayclusters") == ["ray-abcde", "somebody-elses"]


# --- python -m kuberay on a live cluster --------------------------------------------------------------------------


@pytest.fixture
def kubeconfig(api, tmp_path, monkeypatch):
    path = tmp_path / "config"
    path.write_text(json.dumps(api.kubeconfig()))
    monkeypatch.setattr("kubernetes_asyncio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))


def test_diff_shows_what_was_changed_by_hand_and_not_what_the_server_filled_in(api, kubeconfig, capsys):
    manifest = resolve_cluster("small").to_k8s("ray", "default", {}, {})
    manifest["spec"]["suspend"] = False
    api.add("rayclusters", manifest)
    assert main(["diff", "--profile", "small"]) == 0
    api.objects[("rayclusters", "ray")]["spec"]["workerGroupSpecs"][0]["replicas"] = 7
    assert main(["diff", "--profile", "small"]) == 1
    assert capsys.readouterr().out.endswith("spec.workerGroupSpecs[0].replicas: live 7, rendered 1\n")
    assert main(["diff", "--profile", "small", "--name", "other"]) == 1


def test_gc_tells_first_and_deletes_then(api, backend, kubeconfig, capsys):
    name = create_cluster(backend, expires_at=datetime.now(UTC) - timedelta(hours=1))
    assert main(["gc", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith(f"would delete RayCluster {name}: expired at ")
    assert names(api, "rayclusters") == [name]
    assert main(["gc"]) == 0
    assert names(api, "rayclusters") == []


def test_every_object_carries_an_expiry(api, backend):
    annotations = api.objects[("rayjobs", submit(backend))]["metadata"]["annotations"]
    assert datetime.fromisoformat(annotations[EXPIRY_ANNOTATION]) > datetime.now(UTC)
