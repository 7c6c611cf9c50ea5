"""A job spec becomes a RayJob that always ends and always frees its cluster, or is refused with its reason."""

import pytest
import yaml

from kuberay.cluster import parse_cluster
from kuberay.errors import InvalidSpecError
from kuberay.rayjob import JobSpec, make_job
from kuberay.rules import refusals

CLUSTER = parse_cluster({"image": "ray:1", "head": {"cpu": 1, "memory": "4Gi", "capacity": "on-demand"}})


def job(**fields) -> JobSpec:
    return make_job(**{"entrypoint": "python -m work", "cluster": CLUSTER, **fields})


def render(spec: JobSpec) -> dict:
    return spec.to_k8s("ray", "default", {}, {})


def test_a_job_has_a_deadline_no_retries_of_its_own_and_takes_its_cluster_along():
    spec = render(job(deadline_s=60, ttl_s=5))["spec"]
    assert spec["activeDeadlineSeconds"] == 60
    assert spec["backoffLimit"] == 0
    assert (spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"]) == (True, 5)


def test_the_submitter_is_placed_where_the_head_is():
    pod = render(job())["spec"]["submitterPodTemplate"]["spec"]
    assert pod["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}
    assert pod["restartPolicy"] == "Never"


def test_a_job_on_an_existing_cluster_only_names_it():
    spec = render(job(cluster=None, cluster_name="shared"))["spec"]
    assert spec["clusterSelector"] == {"ray.io/cluster": "shared"}
    assert not {"rayClusterSpec", "shutdownAfterJobFinishes", "submitterPodTemplate"} & spec.keys()


def test_runtime_environment_and_resources_travel_as_the_strings_the_crd_wants():
    spec = render(job(runtime_env={"env_vars": {"A": "1"}}, entrypoint_resources={"spark": 1}))["spec"]
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == {"env_vars": {"A": "1"}}
    assert spec["entrypointResources"] == '{"spark": 1.0}'


def test_deletion_rules_replace_the_ttl():
    rules = [
        {"policy": "DeleteCluster", "job_status": "SUCCEEDED"},
        {"policy": "DeleteCluster", "job_deployment_status": "Failed", "ttl_s": 600},
    ]
    spec = render(job(deletion_rules=rules))["spec"]
    assert "shutdownAfterJobFinishes" not in spec
    assert spec["deletionStrategy"]["deletionRules"][1] == {
        "policy": "DeleteCluster",
        "condition": {"jobDeploymentStatus": "Failed", "ttlSeconds": 600},
    }


@pytest.mark.parametrize("fields", [{"cluster_name": "shared"}, {"cluster": None}])
def test_a_job_runs_on_exactly_one_cluster(fields):
    with pytest.raises(InvalidSpecError, match="exactly one of cluster"):
        job(**fields)


@pytest.mark.parametrize(
    ("entrypoint", "reason"),
    [
        ("python a.py && rm -rf /", "holds '&&'"),
        ("python a.py > log", "holds '>'"),
        ("python a.py; python b.py", "holds ';'"),
        ("python a.py\npython b.py", "line break"),
        ("python 'a.py", "does not parse"),
        ("  ", "empty"),
    ],
)
def test_an_entrypoint_that_a_shell_would_act_on_is_refused(entrypoint, reason):
    with pytest.raises(InvalidSpecError, match=reason):
        render(job(entrypoint=entrypoint))


def test_a_quoted_pipeline_is_a_plain_command():
    assert render(job(entrypoint="bash -c 'python a.py | tee log && true'"))


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ([{"policy": "DeleteCluster", "job_status": "SUCCEEDED"}], "nothing deletes the cluster in every case"),
        ([{"policy": "DeleteCluster"}], "exactly one of jobStatus"),
        ([{"policy": "DeleteSelf", "job_status": "FAILED"}] * 2, "repeats DeleteSelf"),
        (
            [
                {"policy": "DeleteSelf", "job_status": "FAILED", "ttl_s": 1},
                {"policy": "DeleteCluster", "job_status": "FAILED", "ttl_s": 2},
            ],
            "DeleteSelf .1 s. comes before DeleteCluster .2 s.",
        ),
    ],
)
def test_deletion_rules_that_the_controller_refuses_or_that_leak(rules, reason):
    with pytest.raises(InvalidSpecError, match=reason):
        render(job(deletion_rules=rules))


def broken(**changes) -> dict:
    """A hand-written RayJob: a good one with fields of its spec replaced; None takes a field away."""
    manifest = render(job())
    manifest["spec"] = {key: value for key, value in {**manifest["spec"], **changes}.items() if value is not None}
    return manifest


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"activeDeadlineSeconds": None}, "activeDeadlineSeconds is not set"),
        ({"activeDeadlineSeconds": 0}, "activeDeadlineSeconds must be above 0"),
        ({"backoffLimit": -1}, "backoffLimit must not be negative"),
        ({"shutdownAfterJobFinishes": False}, "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"),
        (
            {"shutdownAfterJobFinishes": None, "ttlSecondsAfterFinished": None, "suspend": True},
            "suspend needs shutdown",
        ),
        ({"rayClusterSpec": None}, "needs rayClusterSpec"),
        ({"clusterSelector": {}}, "cluster name under the key ray.io/cluster"),
        ({"clusterSelector": {"ray.io/cluster": "x"}, "suspend": True}, "suspend does not go with clusterSelector"),
        ({"clusterSelector": {"ray.io/cluster": "x"}, "backoffLimit": 1}, "backoffLimit above 0 does not go"),
        ({"submissionMode": "SidecarMode"}, "SidecarMode does not take submitterPodTemplate"),
        ({"submissionMode": "InteractiveMode", "backoffLimit": 1}, "does not go with InteractiveMode"),
        ({"runtimeEnvYAML": "- a\n- b"}, "runtimeEnvYAML must be"),
        ({"entrypointResources": "spark"}, "entrypointResources must be"),
        (
            {"deletionStrategy": {"deletionRules": [{"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED"}}]}},
            "exclude",
        ),
    ],
)
def test_hand_written_manifests_are_held_to_the_same_rules(changes, reason):
    assert any(reason in line for line in refusals(broken(**changes))), refusals(broken(**changes))


def test_a_queued_job_must_shut_its_cluster_down():
    manifest = broken(shutdownAfterJobFinishes=None, ttlSecondsAfterFinished=None)
    manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "gpu"
    assert "a queued RayJob needs shutdownAfterJobFinishes" in refusals(manifest)


def test_a_good_manifest_has_nothing_to_refuse():
    assert refusals(render(job())) == []
