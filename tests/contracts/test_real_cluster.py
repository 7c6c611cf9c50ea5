"""One job on a real cluster: `KUBECONFIG=... pytest -m kubernetes`, with the KubeRay operator installed.

CALLMILL_TEST_NAMESPACE names the namespace (default), CALLMILL_TEST_IMAGE an image with Ray 2.60 that nodes can pull.
"""

import asyncio
import os
from datetime import timedelta

import pytest

from kuberay.backend import follow_job, utc_now
from kuberay.client import KubernetesBackend
from kuberay.cluster import parse_cluster
from kuberay.names import Claim
from kuberay.rayjob import make_job

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.skipif("KUBECONFIG" not in os.environ, reason="KUBECONFIG does not name a cluster"),
]

IMAGE = os.environ.get("CALLMILL_TEST_IMAGE", "rayproject/ray:2.60.0-py311")
NAMESPACE = os.environ.get("CALLMILL_TEST_NAMESPACE", "default")


def test_a_job_runs_tells_its_log_and_leaves_nothing():
    cluster = parse_cluster({"image": IMAGE, "head": {"cpu": "1", "memory": "3Gi"}})
    job = make_job(entrypoint="python -c 'print(6 * 7)'", cluster=cluster, deadline_s=900)
    started = utc_now()
    claim = Claim(dag_id="test", run_id=started.isoformat(), task_id="job")
    lines: list[str] = []

    async def whole_life():
        async with KubernetesBackend(NAMESPACE) as backend:
            name = await backend.submit_job(job, claim, started + timedelta(hours=1))
            try:
                return await follow_job(backend, name, lines.append, log_interval_s=2)
            finally:
                await backend.delete_job(name)
                assert await backend.read("RayJob", name) is None

    status = asyncio.run(whole_life())
    assert status.state == "succeeded", status.message
    assert lines.count("42") == 1
