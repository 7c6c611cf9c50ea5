"""The workflows on clusters of KubeRay's own operator: dag.test, the shipped Role's rights, the real pipeline.

Skipped, with what is missing, where `tests.contracts.little_cluster` cannot be had.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.contracts.kubernetes_pod import until
from tests.contracts.kubernetes_site import Site
from tests.contracts.little_cluster import LittleCluster, little_cluster, missing
from tests.dags.dag_runs import lay_out, make_airflow, run

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LittleCluster]:
    with little_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def site(cluster: LittleCluster) -> Site:
    return Site(cluster.api)


@pytest.fixture(scope="module")
def folder(cluster: LittleCluster) -> Path:
    """Where pods find it too."""
    folder = cluster.folder / "calls"
    lay_out(folder)
    return folder


@pytest.fixture(scope="module")
def environment(cluster: LittleCluster, site: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    kubeconfig = cluster.folder / "airflow.yaml"
    kubeconfig.write_text(yaml.safe_dump(cluster.api.kubeconfig(site.tokens[-1], site.namespace)))
    home = tmp_path_factory.mktemp("airflow")
    return make_airflow(
        home, KUBERAY_BACKEND="kubernetes", KUBERAY_NAMESPACE=site.namespace, KUBECONFIG=str(kubeconfig)
    )


def assert_nothing_is_left(site: Site) -> None:
    assert site.names("rayjobs") == site.names("rayclusters") == []
    until(lambda: site.core.list_namespaced_pod(site.namespace).items == [], "all pods are gone")


def test_the_staged_workflow_sets_up_a_cluster_runs_three_jobs_and_takes_it_down(environment, folder, site):
    told = run("asr_workflow", environment, folder, "2026-11-23")
    stages = ["setup_cluster", "preprocess", "transcribe", "postprocess", "verify", "teardown_cluster"]
    assert told["states"] == dict.fromkeys(stages, "success")
    (report,) = told["reports"]
    assert (report["num_calls"], report["num_ok"], report["accounted"]) == (1, 1, True)
    assert_nothing_is_left(site)


def test_the_fused_workflow_runs_one_job_on_a_cluster_of_its_own(environment, folder, site):
    told = run("asr_workflow_fused", environment, folder, "2026-11-24")
    assert told["states"] == {"run": "success", "verify": "success"}
    assert [report["num_ok"] for report in told["reports"]] == [1]
    assert_nothing_is_left(site)
