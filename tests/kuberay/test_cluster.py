"""A cluster spec becomes a manifest that the CRD and the controller both take, or is refused with its reason."""

import json
import shlex

import pytest
from ray.autoscaler._private.kuberay import autoscaling_config

from kuberay.cluster import ClusterSpec, merge, parse_cluster, profile_names, resolve_cluster
from kuberay.errors import InvalidSpecError


def cluster(**fields) -> ClusterSpec:
    return parse_cluster({"image": "ray:1", "head": {"cpu": 1, "memory": "4Gi"}, **fields})


def worker(**fields) -> dict:
    return {"name": "cpu", "cpu": "4", "memory": "8Gi", **fields}


def render(spec: ClusterSpec) -> dict:
    return spec.to_k8s("ray", "default", {}, {})


def test_token_authentication_is_on_unless_switched_off():
    assert render(cluster())["spec"]["authOptions"] == {"mode": "token"}
    assert render(cluster(auth="disabled"))["spec"]["authOptions"] == {"mode": "disabled"}


def test_the_head_takes_no_tasks_and_names_its_ports():
    head = render(cluster())["spec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "dashboard" in [port["name"] for port in head["template"]["spec"]["containers"][0]["ports"]]


def test_a_gpu_group_asks_for_gpus_and_tolerates_their_taint():
    group = render(cluster(workers=[worker(gpus=2, max_replicas=3)]))["spec"]["workerGroupSpecs"][0]
    pod = group["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert cluster(workers=[worker(gpus=2, max_replicas=3)]).num_gpus == 6


def test_spot_workers_beside_an_on_demand_head():
    spec = cluster(
        head={"cpu": 1, "memory": "4Gi", "capacity": "on-demand"},
        workers=[worker(capacity="spot")],
        capacity_label="eks.amazonaws.com/capacityType",
    )
    rendered = render(spec)["spec"]
    assert rendered["headGroupSpec"]["template"]["spec"]["nodeSelector"] == {
        "eks.amazonaws.com/capacityType": "on-demand"
    }
    assert rendered["workerGroupSpecs"][0]["template"]["spec"]["nodeSelector"] == {
        "eks.amazonaws.com/capacityType": "spot"
    }


def test_without_autoscaling_every_group_starts_at_its_largest():
    fixed = render(cluster(workers=[worker(min_replicas=1, max_replicas=3)]))["spec"]["workerGroupSpecs"][0]
    growing = render(cluster(workers=[worker(min_replicas=1, max_replicas=3)], autoscaling={}))["spec"][
        "workerGroupSpecs"
    ][0]
    assert (fixed["replicas"], growing["replicas"]) == (3, 1)


def test_custom_resources_survive_the_shell_that_ray_start_runs_in():
    params = render(cluster(workers=[worker(ray_resources={"spark": 4})]))["spec"]["workerGroupSpecs"][0][
        "rayStartParams"
    ]
    assert [json.loads(word) for word in shlex.split(params["resources"])] == [{"spark": 4}]


@pytest.mark.parametrize("profile", profile_names())
def test_rays_autoscaler_reads_the_resources_of_every_profile(profile):
    """By its own reader, which raises for a fraction, and for quotes that it does not expect."""
    spec = resolve_cluster(profile, {})
    config = autoscaling_config._derive_autoscaling_config_from_ray_cr(render(spec))
    for group in spec.workers:
        resources = config["available_node_types"][group.name]["resources"]
        assert {name: resources[name] for name in group.ray_resources} == group.ray_resources
        assert resources.get("GPU", 0) == group.gpus
    with pytest.raises(InvalidSpecError, match=r"workers\.0\.ray_resources\.spark"):
        cluster(workers=[worker(ray_resources={"spark": 0.5})])


def test_secrets_become_references_never_values():
    spec = cluster(
        head={
            "cpu": 1,
            "memory": "4Gi",
            "secret_env": {"KEY": {"name": "s3", "key": "id"}},
            "env_from_secrets": ["hub"],
        }
    )
    container = render(spec)["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert container["env"] == [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "id"}}}]
    assert container["envFrom"] == [{"secretRef": {"name": "hub"}}]


def test_a_pod_template_is_laid_over_the_rendered_pod():
    over = {
        "metadata": {"annotations": {"a": "b"}},
        "spec": {"containers": [{"name": "ray-worker", "imagePullPolicy": "Always"}]},
    }
    pod = render(cluster(workers=[worker(pod_template=over)]))["spec"]["workerGroupSpecs"][0]["template"]
    assert pod["metadata"]["annotations"] == {"a": "b"}
    assert pod["spec"]["containers"][0]["imagePullPolicy"] == "Always"
    assert pod["spec"]["containers"][0]["image"] == "ray:1"


def test_named_items_merge_by_name_and_other_lists_are_replaced():
    assert merge([{"name": "a", "x": 1}], [{"name": "a", "y": 2}, {"name": "b"}]) == [
        {"name": "a", "x": 1, "y": 2},
        {"name": "b"},
    ]
    assert merge({"args": ["a"]}, {"args": ["b"]}) == {"args": ["b"]}


def test_a_queue_labels_the_cluster_and_marks_an_autoscaling_one_elastic():
    metadata = render(cluster(queue="gpu", autoscaling={}))["metadata"]
    assert metadata["labels"]["kueue.x-k8s.io/queue-name"] == "gpu"
    assert metadata["annotations"]["kueue.x-k8s.io/elastic-job"] == "true"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"head": {"cpu": 1, "memory": "4Gi", "capacity": "spot"}}, "head.capacity"),
        ({"head": {"cpu": 1, "memory": "4 gigs"}}, "head.memory"),
        ({"workers": [worker(min_replicas=3, max_replicas=2)]}, "min_replicas 3 is above max_replicas 2"),
        ({"workers": [worker(replicas=9, max_replicas=2)]}, "replicas 9 is outside 0..2"),
        ({"worker": []}, "unknown key worker"),
    ],
)
def test_a_wrong_spec_is_refused_by_the_field_that_is_wrong(fields, reason):
    with pytest.raises(InvalidSpecError, match=reason):
        cluster(**fields)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"ray_version": "2.51.0"}, "token authentication needs rayVersion 2.52"),
        ({"workers": [worker(), worker()]}, "used twice"),
        ({"workers": [worker(idle_timeout_s=5)]}, "needs autoscaler v2"),
        ({"workers": [worker(priority=1)], "autoscaling": {}, "ray_version": "2.55.0"}, "2.56 or later"),
        (
            {"workers": [worker(pod_template={"spec": {"restartPolicy": "Always"}})], "autoscaling": {}},
            "restartPolicy Always; autoscaler v2 needs Never",
        ),
        (
            {"head": {"cpu": 1, "memory": "4Gi", "env": {"RAY_REDIS_ADDRESS": "r:6379"}}},
            "without gcsFaultToleranceOptions",
        ),
        (
            {
                "head": {"cpu": 1, "memory": "4Gi", "env": {"REDIS_PASSWORD": "x"}},
                "gcs_fault_tolerance": {"redis_address": "redis:6379"},
            },
            "sets REDIS_PASSWORD beside gcsFaultToleranceOptions",
        ),
        ({"head": {"cpu": 1, "memory": "4Gi", "env": {"RAY_enable_autoscaler_v2": "1"}}}, "while autoscaling is off"),
    ],
)
def test_what_the_controller_would_silently_refuse_is_refused_at_rendering(fields, reason):
    spec = cluster(**fields)
    with pytest.raises(InvalidSpecError, match=reason):
        render(spec)


@pytest.mark.parametrize("name", ["a" * 45, "9lives", "Upper", "under_score", ""])
def test_names_that_kuberay_would_cut_or_refuse(name):
    with pytest.raises(InvalidSpecError, match=r"metadata\.name"):
        cluster().to_k8s(name, "default", {}, {})


def test_every_profile_renders():
    assert profile_names() == ["large", "small", "standard"]
    for name in profile_names():
        assert render(resolve_cluster(name))["kind"] == "RayCluster"


def test_an_unknown_profile_names_the_known_ones():
    with pytest.raises(InvalidSpecError, match="there are large, small, standard"):
        resolve_cluster("huge")


def test_overrides_reach_into_a_profile_by_name():
    spec = resolve_cluster("standard", {"image": "ecr/ray:2", "workers": [{"name": "asr", "max_replicas": 9}]})
    by_name = {group.name: group for group in spec.workers}
    assert spec.image == "ecr/ray:2"
    assert (by_name["asr"].max_replicas, by_name["asr"].gpus) == (9, 1)
    assert sorted(by_name) == ["asr", "cpu", "llm"]


def test_files_that_cannot_be_read_or_parsed(tmp_path):
    with pytest.raises(InvalidSpecError, match="cannot be read"):
        resolve_cluster(str(tmp_path / "none.yaml"))
    (tmp_path / "bad.yaml").write_text("image: [")
    with pytest.raises(InvalidSpecError, match="is not YAML"):
        resolve_cluster(str(tmp_path / "bad.yaml"))
