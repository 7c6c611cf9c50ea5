"""The operators in a real Airflow (dag.test, with triggers) against a Kubernetes API with a scripted operator."""

import asyncio
import json
import os
import shutil
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import yaml
from kubernetes_asyncio import client as kubernetes

from kuberay.cluster import resolve_cluster
from kuberay.names import Claim
from kuberay.rayjob import make_job
from tests.contracts.fake_kubernetes import FakeKubernetes, Fault

pytestmark = pytest.mark.integration

DAG_FILE = """
from airflow.sdk import DAG
from kuberay.operators import CollectRayOperator, DeleteRayClusterOperator, RayClusterOperator, RayJobOperator

WHERE = {{"kubernetes_conn_id": "fake", "deferrable": {deferrable}}}

with DAG("own_{deferrable}", schedule=None, params={{"name": "x y"}}):
    RayJobOperator(task_id="work", entrypoint="python -m work '{{{{ params.name }}}}'", cluster="small", **WHERE)

with DAG("shared_{deferrable}", schedule=None):
    image = {{"image": "ecr/ray:1"}}
    create = RayClusterOperator(task_id="create", cluster="small", overrides=image, **WHERE).as_setup()
    work = RayJobOperator(task_id="work", entrypoint="python -m work", cluster_name=create.output, **WHERE)
    delete = DeleteRayClusterOperator(task_id="delete", created_by="create", **WHERE).as_teardown(setups=create)
    create >> work >> delete

with DAG("mapped_{deferrable}", schedule=None):
    RayJobOperator.partial(task_id="work", cluster="small", **WHERE).expand(entrypoint=["python -m a", "python -m b"])

with DAG("collect_{deferrable}", schedule=None):
    CollectRayOperator(task_id="collect", **WHERE)
"""

READY = {
    "conditions": [{"type": "HeadPodReady", "status": "True"}, {"type": "RayClusterProvisioned", "status": "True"}]
}
RUNNING = {
    "jobDeploymentStatus": "Running",
    "jobStatus": "RUNNING",
    "rayClusterName": "ray-x",
    "dashboardURL": "d:8265",
}
SUCCEEDED = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
FAILED = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed", "message": "exit code 3"}


@pytest.fixture
def run(airflow_dags, api: FakeKubernetes, monkeypatch):
    """Runs a DAG to its end and returns its run."""
    connection = {"conn_type": "kubernetes", "extra": {"kube_config": json.dumps(api.kubeconfig())}}
    monkeypatch.setenv("AIRFLOW_CONN_FAKE", json.dumps(connection))
    monkeypatch.setattr("kuberay.triggers.MIN_WAIT_S", 0)
    for deferrable in (True, False):
        (airflow_dags / f"dag_{deferrable}.py").write_text(DAG_FILE.format(deferrable=deferrable))

    def run(dag_id: str, deferrable: bool):
        from airflow.dag_processing.dagbag import DagBag

        bag = DagBag(airflow_dags / f"dag_{deferrable}.py")
        assert not bag.import_errors
        return bag.dags[f"{dag_id}_{deferrable}"].test(logical_date=datetime.now(UTC))

    return run


def created(api, plural):
    return [manifest for _, kind, event, manifest in api.events if kind == plural and event == "ADDED"]


def states(dag_run):
    return {instance.task_id: instance.state for instance in dag_run.get_task_instances()}


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_job_with_its_own_cluster_leaves_nothing(run, api, deferrable):
    api.script = [RUNNING, SUCCEEDED]
    assert run("own", deferrable).state == "success"
    assert created(api, "rayjobs")[0]["spec"]["entrypoint"] == "python -m work 'x y'"
    assert api.objects == {}


def test_the_dashboard_and_grafana_are_linked(run, api, monkeypatch):
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    monkeypatch.setenv("KUBERAY_GRAFANA_URL", "https://grafana.example.com/d/ray?var-cluster={namespace}/{name}")
    api.script = [RUNNING, SUCCEEDED]
    dag_run = run("own", True)
    with create_session() as session:
        pushed = {row.key: row.value for row in session.scalars(XComModel.get_many(run_id=dag_run.run_id))}
    name = created(api, "rayjobs")[0]["metadata"]["name"]
    assert pushed["ray_dashboard_url"] == "http://d:8265"
    assert pushed["grafana_url"] == f"https://grafana.example.com/d/ray?var-cluster=default/{name}"


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_job_deleted_by_hand_fails_its_task_and_names_what_happened(run, api, deferrable, capfd):
    def delete_soon(plural, manifest):
        asyncio.get_running_loop().call_later(0.5, api._finalize, plural, manifest["metadata"]["name"])

    api.script, api.on_create = [RUNNING], delete_soon
    assert run("own", deferrable).state == "failed"
    assert "gone, the RayJob was deleted" in "".join(capfd.readouterr())


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_failed_job_fails_its_task_with_the_reason_and_leaves_nothing(run, api, deferrable, caplog):
    api.script = [RUNNING, FAILED]
    assert run("own", deferrable).state == "failed"
    assert api.objects == {}


def test_setup_work_and_teardown_share_a_cluster(run, api):
    api.script, api.cluster_script = [RUNNING, SUCCEEDED], [READY]
    assert states(run("shared", True)) == {"create": "success", "work": "success", "delete": "success"}
    cluster = created(api, "rayclusters")[0]
    assert cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"] == "ecr/ray:1"
    assert created(api, "rayjobs")[0]["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert api.objects == {}


def test_the_cluster_is_deleted_after_a_failure(run, api):
    api.script, api.cluster_script = [FAILED], [READY]
    assert states(run("shared", True)) == {"create": "success", "work": "failed", "delete": "success"}
    assert api.objects == {}


def test_mapped_tasks_have_a_job_each(run, api):
    api.script = [RUNNING, SUCCEEDED]
    assert run("mapped", True).state == "success"
    entrypoints = [job["spec"]["entrypoint"] for job in created(api, "rayjobs")]
    assert sorted(entrypoints) == ["python -m a", "python -m b"]  # Airflow promises no order among mapped tasks
    assert api.objects == {}


def test_collection_leaves_live_runs_alone_and_takes_expired_objects(run, api):
    def managed(name, expires_at):
        annotations = {
            "airflow-kuberay/expires-at": expires_at,
            "airflow-kuberay/dag-id": "x",
            "airflow-kuberay/run-id": "y",
        }
        return {
            "kind": "RayCluster",
            "metadata": {"name": name, "labels": {"airflow-kuberay/managed": "true"}, "annotations": annotations},
            "spec": {},
        }

    api.add("rayclusters", managed("old", "2020-01-01T00:00:00+00:00"))
    api.add("rayclusters", managed("new", "2100-01-01T00:00:00+00:00"))
    assert run("collect", True).state == "success"
    assert list(api.objects) == [("rayclusters", "new")]


@pytest.fixture
def job(api):
    """A running job that an operator and a trigger know by name."""
    cluster = resolve_cluster("small")
    claim = Claim(dag_id="d", run_id="r", task_id="t")
    api.add(
        "rayjobs",
        make_job(entrypoint="python -m work", cluster=cluster).to_k8s(claim.name, "default", claim.labels, {}),
    )
    return claim.name


@pytest.fixture
def where(api, monkeypatch):
    @asynccontextmanager
    async def connect():
        async with kubernetes.ApiClient(kubernetes.Configuration(host=api.url)) as client:
            yield client

    monkeypatch.setattr("kuberay.client.default_connection", connect)
    return {"backend": "kubernetes", "namespace": "default", "conn_id": None}


def test_killing_a_deferred_task_deletes_the_job_and_a_triggerer_restart_does_not(api, job, where):
    from kuberay.triggers import RayJobTrigger

    trigger = RayJobTrigger(where, job, 60)
    asyncio.run(trigger.cleanup())
    assert ("rayjobs", job) in api.objects
    asyncio.run(trigger.on_kill())
    assert api.objects == {}


def test_the_deletion_outlives_the_triggerer_s_impatience(api, job, where):
    """It cancels a killed trigger again each second until it has ended."""
    from kuberay.triggers import RayJobTrigger

    api.step_s = 0.3

    async def killed_and_cancelled():
        killing = asyncio.create_task(RayJobTrigger(where, job, 60).on_kill())
        await asyncio.sleep(0.1)
        killing.cancel()
        await asyncio.wait([killing])
        while api.objects:
            await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(killed_and_cancelled(), 20))


def test_killing_a_task_in_a_signal_handler_deletes_the_job(api, job, where):
    """The handler interrupts whatever the task does, an event loop included."""
    from kuberay.operators import RayJobOperator

    operator = RayJobOperator(task_id="t", entrypoint="python -m work", cluster="small", deferrable=False)
    operator._name = job

    async def interrupted():
        operator.on_kill()

    asyncio.run(interrupted())
    assert api.objects == {}


def test_a_task_killed_while_its_job_is_being_made_leaves_none(api, job, where):
    from kuberay.errors import KubeRayError
    from kuberay.operators import RayJobOperator
    from kuberay.triggers import RayJobTrigger

    operator = RayJobOperator(task_id="t", entrypoint="python -m work", cluster="small")
    operator._name = "not-there-yet"
    operator.on_kill()
    operator._name = job
    with pytest.raises(KubeRayError, match=f"killed while {job} was being made"):
        operator._wait({}, RayJobTrigger(where, job, 60))
    assert api.objects == {}


def test_a_dry_run_shows_the_manifests_and_asks_nobody(api, monkeypatch):
    from kuberay.operators import RayClusterOperator, RayJobOperator

    log = Mock()
    for kind, fields in ((RayClusterOperator, {}), (RayJobOperator, {"entrypoint": "python -m work"})):
        monkeypatch.setattr(kind, "log", log)
        kind(task_id="t", cluster="small", **fields).dry_run()
    shown = [yaml.safe_load(call.args[1])["kind"] for call in log.info.call_args_list]
    assert shown == ["RayCluster", "RayJob"]
    assert api.requests == []


ATTEMPT = {
    "ti": SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1),
    "dag_run": SimpleNamespace(clear_number=0),
}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"cluster": "tiny"}, "no profile 'tiny'; there are large, small, standard, or give a .yaml file"),
        ({"cluster": "nowhere.yaml"}, "nowhere.yaml: cannot be read (No such file or directory)"),
        ({"cluster": "small", "overrides": {"hed": {}}}, "small: unknown key hed"),
        (
            {"cluster": "small", "cluster_name": "ray"},
            "job spec: the document: give exactly one of cluster (the job's own) and cluster_name (an existing one)",
        ),
        ({"cluster": "small", "backend": "nomad"}, "backend 'nomad' is neither kubernetes nor local"),
    ],
)
def test_a_mistake_in_the_dag_is_one_line_and_is_not_tried_again(arguments, line):
    from airflow.sdk.exceptions import AirflowFailException

    from kuberay.operators import RayJobOperator

    with pytest.raises(AirflowFailException) as caught:
        RayJobOperator(task_id="t", entrypoint="python -m work", **arguments).execute(ATTEMPT)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("setting", "value", "line"),
    [
        ("RAY_PYTHON", "/nowhere/python", "there is no such program; name the Python that has Ray"),
        ("RAY_PYTHON", "/bin/false", "Ray is not installed there; name the Python that has Ray"),
        ("LOCAL_NUM_CPUS", "many", "give a whole number from 1"),
        (
            "LOCAL_FOLDER",
            "/a/folder/as/long/as/this/one",
            "give a path of at most 26 characters, because Ray's Unix sockets lie below it",
        ),
    ],
)
def test_a_local_backend_that_cannot_start_is_one_line_and_leaves_nothing(setting, value, line, monkeypatch):
    from airflow.sdk.exceptions import AirflowFailException

    from kuberay.operators import RayJobOperator

    folder = Path("/tmp") / f"kuberay-{os.getpid()}"
    monkeypatch.setenv("KUBERAY_LOCAL_FOLDER", str(folder))
    monkeypatch.setenv(f"KUBERAY_{setting}", value)
    with pytest.raises(AirflowFailException) as caught:
        RayJobOperator(task_id="t", entrypoint="python -m work", cluster="small", backend="local").execute(ATTEMPT)
    assert str(caught.value) == f"KUBERAY_{setting}={value}: {line}"
    assert not list(folder.glob("**/*.json"))
    shutil.rmtree(folder, ignore_errors=True)


def test_an_api_that_does_not_answer_is_one_line_and_worth_a_retry(monkeypatch, tmp_path):
    from kuberay.errors import UnreachableError
    from kuberay.operators import RayJobOperator

    closed = {"server": "http://127.0.0.1:1"}
    kubeconfig = {"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}
    kubeconfig |= {"clusters": [{"name": "c", "cluster": closed}], "users": [{"name": "u", "user": {}}]}
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
    monkeypatch.setattr(
        "kubernetes_asyncio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig")
    )
    monkeypatch.setattr("kuberay.client._backoff_s", lambda *attempt: 0)
    with pytest.raises(UnreachableError, match=r"^cannot list rayjobs, tried 6 times: 503 .*127\.0\.0\.1:1") as caught:
        RayJobOperator(task_id="t", entrypoint="python -m work", cluster="small").execute(ATTEMPT)
    assert "\n" not in str(caught.value)


def test_without_the_rights_a_deferred_task_fails_with_one_line(api, job, where):
    from kuberay.triggers import RayJobTrigger

    refusal = {"message": 'User "airflow" cannot watch resource "rayjobs"'}
    api.faults = [Fault(status=403, path="rayjobs", body=refusal, times=99)]

    async def first_event():
        return await anext(aiter(RayJobTrigger(where, job, 60).run()))

    event = asyncio.run(first_event()).payload
    assert event["state"] == "failed"
    assert 'cannot watch resource "rayjobs"; the rights needed are in' in event["message"]


def test_a_job_that_no_operator_ever_looks_at_is_given_up_after_its_deadline(api, job, where, monkeypatch):
    from kuberay.triggers import RayJobTrigger

    monkeypatch.setattr("kuberay.triggers.DEADLINE_GRACE_S", 0.5)
    outcome = asyncio.run(RayJobTrigger(where, job, 0).outcome())
    assert outcome["state"] == "failed"
    assert outcome["message"].endswith("after its deadline of 0 s; is the KubeRay operator running?")


def test_triggers_survive_their_serialisation():
    from kuberay.triggers import RayClusterGoneTrigger, RayClusterTrigger, RayJobTrigger

    for kind in (RayClusterTrigger, RayClusterGoneTrigger, RayJobTrigger):
        path, arguments = kind({"backend": "local"}, "ray", 5).serialize()
        assert path == f"kuberay.triggers.{kind.__name__}"
        assert kind(**arguments).serialize() == (path, arguments)
