"""The Kubernetes backend against KubeRay's own operator and real Ray clusters, on a little Kubernetes of this machine.

Skipped, with what is missing, where `little_cluster` cannot be had. `pytest -m kubernetes` is for clusters elsewhere.
"""

import asyncio
import json
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from kuberay.backend import JobStatus, await_cluster, follow_job
from kuberay.client import RUNS_ANEW
from kuberay.cluster import ClusterSpec, parse_cluster
from kuberay.names import Claim
from kuberay.rayjob import JobSpec, make_job
from tests.contracts.kubernetes_pod import until
from tests.contracts.kubernetes_site import LATER, Site
from tests.contracts.little_cluster import LittleCluster, little_cluster, missing

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.timeout(600),
]

IMAGE = "not-pulled-here:1"
HEAD = parse_cluster({"image": IMAGE, "head": {"cpu": "1", "memory": "3Gi"}})
WORKER = {"name": "cpu", "cpu": "2", "memory": "4Gi", "ray_resources": {"spark": 4}}
HEAD_AND_WORKERS = parse_cluster(
    {
        "image": IMAGE,
        "head": {"cpu": "1", "memory": "3Gi"},
        "workers": [{**WORKER, "min_replicas": 2, "max_replicas": 2}],
    }
)
CLAIM = Claim(dag_id="asr", run_id="r1", task_id="transcribe")
SAMPLES = Path("tests/data/sample_calls").resolve()

COUNT_SLOWLY = "import time; [print('line', i, flush=True) or time.sleep(1) for i in range(12)]"

ON_WORKERS = """
import ray, socket, time
ray.init()
@ray.remote(num_cpus=2, resources={"spark": 4})
def work():
    time.sleep(5)
    return socket.gethostname()
print(len(set(ray.get([work.remote() for _ in range(2)]))), "nodes worked")
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LittleCluster]:
    with little_cluster() as cluster:
        yield cluster


@pytest.fixture
def site(cluster: LittleCluster) -> Site:
    return Site(cluster.api)


def python(code: str) -> str:
    return shlex.join(["python", "-c", code])


def run_job(site: Site, job: JobSpec, lines: list[str], claim: Claim = CLAIM) -> JobStatus:
    """From its creation to its end; the job stays."""

    async def life(backend):
        name = await backend.submit_job(job, claim, LATER)
        return await follow_job(backend, name, lines.append, log_interval_s=1, pending_interval_s=1)

    return site.run(life, timeout_s=300)


async def follow_until(backend, job: JobSpec, lines: list[str], line: str) -> tuple[str, asyncio.Task[JobStatus]]:
    """The job's name, and who follows it, once it has told this line."""
    name = await backend.submit_job(job, CLAIM, LATER)
    following = asyncio.create_task(follow_job(backend, name, lines.append, log_interval_s=0.5))
    while line not in lines:
        await asyncio.sleep(0.1)
    return name, following


def make_cluster(site: Site, spec: ClusterSpec) -> str:
    """The name of a shared cluster that is ready."""

    async def ready(backend):
        name = await backend.create_cluster(spec, CLAIM, LATER)
        return await await_cluster(backend, name, lambda line: None, timeout_s=120)

    status = site.run(ready, timeout_s=150)
    assert status.state == "ready", status.message
    return status.name


def delete_job(site: Site, name: str) -> None:
    site.run(lambda backend: backend.delete_job(name), timeout_s=120)


def pods(site: Site) -> Sequence[str]:
    return [pod.metadata.name for pod in site.core.list_namespaced_pod(site.namespace).items]


def assert_nothing_is_left(site: Site, cluster: LittleCluster) -> None:
    """Neither objects nor processes."""
    assert site.names("rayjobs") == site.names("rayclusters") == []
    until(lambda: pods(site) == [], "its pods are gone")
    assert [pod.name for pod in cluster.node.pods.values() if pod.namespace == site.namespace] == []


def test_a_job_runs_tells_its_log_once_and_leaves_nothing(site: Site, cluster: LittleCluster) -> None:
    lines: list[str] = []
    status = run_job(site, make_job(entrypoint=python("print(6 * 7)"), cluster=HEAD), lines)
    assert status.state == "succeeded", status.message
    assert lines.count("42") == 1
    assert any(line.startswith(f"job {status.name}: running") for line in lines)
    delete_job(site, status.name)
    assert_nothing_is_left(site, cluster)


def test_a_job_that_fails_says_why(site: Site) -> None:
    status = run_job(site, make_job(entrypoint=python("raise SystemExit('no calls')"), cluster=HEAD), [])
    assert status.state == "failed"
    assert "exit code 1" in status.message
    delete_job(site, status.name)


def test_another_worker_takes_a_running_job_up_where_the_first_stopped_reading(site: Site) -> None:
    job = make_job(entrypoint=python(COUNT_SLOWLY), cluster=HEAD)
    first: list[str] = []
    second: list[str] = []

    async def first_worker(backend):
        _, following = await follow_until(backend, job, first, "line 3")
        following.cancel()  # as a triggerer does that is told to end
        with suppress(asyncio.CancelledError):
            await following

    site.run(first_worker, timeout_s=120)
    status = run_job(site, job, second, replace(CLAIM, attempt=2))
    assert status.state == "succeeded"
    assert [line for line in first + second if line.startswith("line ")] == [f"line {i}" for i in range(12)]
    delete_job(site, status.name)


def test_cancelling_a_running_job_ends_its_processes(site: Site, cluster: LittleCluster) -> None:
    job = make_job(entrypoint=python("import time; print('up', flush=True); time.sleep(3600)"), cluster=HEAD)
    lines: list[str] = []

    async def cancelled(backend):
        name, following = await follow_until(backend, job, lines, "up")
        await backend.delete_job(name)
        return await following

    assert site.run(cancelled, timeout_s=120).state == "gone"
    assert_nothing_is_left(site, cluster)


def test_an_operator_that_restarts_loses_nothing(site: Site, cluster: LittleCluster) -> None:
    lines: list[str] = []

    def restart() -> None:
        until(lambda: "line 1" in lines, "the job runs")
        cluster.stop_operator()
        time.sleep(5)
        cluster.start_operator()

    restarting = threading.Thread(target=restart)
    restarting.start()
    status = run_job(site, make_job(entrypoint=python(COUNT_SLOWLY), cluster=HEAD), lines)
    restarting.join()
    assert status.state == "succeeded"
    assert [line for line in lines if line.startswith("line ")] == [f"line {i}" for i in range(12)]
    delete_job(site, status.name)


def test_a_job_whose_head_dies_runs_again_and_says_so(site: Site, cluster: LittleCluster) -> None:
    lines: list[str] = []

    def kill_head() -> None:
        until(lambda: "line 1" in lines, "the job runs")
        heads = [p for p in cluster.node.pods.values() if p.namespace == site.namespace and "-head-" in p.name]
        heads[0].containers[0].end()

    killing = threading.Thread(target=kill_head)
    killing.start()
    status = run_job(site, make_job(entrypoint=python(COUNT_SLOWLY), cluster=HEAD), lines)
    killing.join()
    assert status.state == "succeeded", status.message
    second_run = lines[lines.index(RUNS_ANEW) :]
    assert [line for line in second_run if line.startswith("line ")] == [f"line {i}" for i in range(12)]
    delete_job(site, status.name)
    assert_nothing_is_left(site, cluster)


def test_a_job_without_room_says_what_it_waits_for(site: Site, cluster: LittleCluster) -> None:
    site.core.create_namespaced_resource_quota(
        site.namespace, {"metadata": {"name": "no-pods"}, "spec": {"hard": {"pods": "0"}}}
    )
    until(lambda: site.core.read_namespaced_resource_quota("no-pods", site.namespace).status.hard, "the quota holds")
    job = make_job(entrypoint="python -V", cluster=HEAD, start_deadline_s=15)
    status = run_job(site, job, [])
    assert status.state == "failed"
    assert "exceeded quota: no-pods" in status.message
    delete_job(site, status.name)
    assert_nothing_is_left(site, cluster)


def test_a_job_on_a_cluster_that_is_not_there_is_over_at_once(site: Site) -> None:
    status = run_job(site, make_job(entrypoint="python -V", cluster_name="no-such-cluster"), [])
    assert status.state == "gone"
    assert "no-such-cluster" in status.message
    delete_job(site, status.name)


def test_jobs_share_a_cluster_that_is_there_until_it_is_deleted(site: Site, cluster: LittleCluster) -> None:
    gpu_group = {"name": "asr", "cpu": "1", "memory": "2Gi", "gpus": 1, "ray_resources": {"asr": 1}}
    groups = [{**group, "min_replicas": 1} for group in (WORKER, gpu_group)]
    name = make_cluster(site, parse_cluster({"image": IMAGE, "head": HEAD.head.model_dump(), "workers": groups}))
    count = "import ray; ray.init(); has = ray.cluster_resources(); print(*(has[k] for k in ('spark', 'asr', 'GPU')))"
    for task_id in ("one", "two"):
        lines: list[str] = []
        job = make_job(entrypoint=python(count), cluster_name=name)
        done = run_job(site, job, lines, replace(CLAIM, task_id=task_id))
        assert done.state == "succeeded", done.message
        assert "4.0 1.0 1.0" in lines
        delete_job(site, done.name)
    site.run(lambda backend: backend.delete_cluster(name), timeout_s=120)
    assert_nothing_is_left(site, cluster)


def test_a_cluster_grows_for_the_work_and_shrinks_again(site: Site, cluster: LittleCluster) -> None:
    """Ray's autoscaler beside the head, with the rights that KubeRay gives it."""
    group = {**WORKER, "min_replicas": 0, "max_replicas": 2, "idle_timeout_s": 5}
    growing = parse_cluster({"image": IMAGE, "head": HEAD.head.model_dump(), "workers": [group], "autoscaling": {}})

    def num_workers() -> int:
        return sum("-worker-" in name for name in pods(site))

    name = make_cluster(site, growing)
    assert num_workers() == 0
    lines: list[str] = []
    program = cluster.folder / "work.py"
    program.write_text(ON_WORKERS)
    job = make_job(entrypoint=f"python {program}", cluster_name=name)
    done = run_job(site, job, lines)
    assert done.state == "succeeded", done.message
    assert "2 nodes worked" in lines
    until(lambda: num_workers() == 0, "idle workers are gone")
    delete_job(site, done.name)
    site.run(lambda backend: backend.delete_cluster(name), timeout_s=120)
    assert_nothing_is_left(site, cluster)


def test_the_main_job_runs_on_a_cluster_of_kuberays(site: Site, cluster: LittleCluster) -> None:
    """Three nodes with addresses of their own: the driver on the head, the stages spread over two workers."""
    out = cluster.folder / "out"
    settings = {
        "input.uri": SAMPLES,
        "output.uri": out,
        "llm.engine": "none",
        "asr.actors": json.dumps({"num_cpus": 1}),
        "etl.spark": json.dumps({"executor_memory": "1g", "executor_resources": {"spark": 1}}),
    }
    options = [f"--set={name}={value}" for name, value in settings.items()]
    lines: list[str] = []
    entrypoint = shlex.join([Path(sys.executable).name, "-m", "ray_jobs.run", *options])
    status = run_job(site, make_job(entrypoint=entrypoint, cluster=HEAD_AND_WORKERS), lines)
    assert status.state == "succeeded", "\n".join(lines[-20:])
    report = json.loads((out / "report.json").read_text())
    assert (report["num_ok"], report["accounted"]) == (8, True)
    hosts = {stage["worker"].split(":")[0] for part in report["partitions"] for stage in part["stages"]}
    assert len(hosts) > 1, hosts
    delete_job(site, status.name)
    assert_nothing_is_left(site, cluster)
