"""A namespace of a Kubernetes API server with what our rbac.yaml brings, as Airflow's account sees it."""

import asyncio
import itertools
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import kubernetes
import kubernetes_asyncio

from kuberay.backend import utc_now
from kuberay.client import KubernetesBackend
from tests.contracts.kubernetes_api import KubernetesApi

ACCOUNT = "airflow-kuberay"
LATER = utc_now() + timedelta(hours=1)

_numbers = itertools.count()


class Site:
    """Makes a namespace of its own."""

    def __init__(self, server: KubernetesApi) -> None:
        self.server, self.namespace = server, f"test-{next(_numbers)}"
        self.core = kubernetes.client.CoreV1Api(server.admin)
        self.custom = kubernetes.client.CustomObjectsApi(server.admin)
        self.core.create_namespace({"metadata": {"name": self.namespace}})
        server.apply(Path("kuberay/manifests/rbac.yaml"), self.namespace)
        self.tokens = [self.token()]

    def token(self) -> str:
        request = {"spec": {"audiences": [self.server.issuer]}}
        return self.core.create_namespaced_service_account_token(ACCOUNT, self.namespace, request).status.token

    def backend(self) -> KubernetesBackend:
        """With the newest of the tokens each time it connects."""

        @asynccontextmanager
        async def connect():
            configuration = kubernetes_asyncio.client.Configuration(
                host=self.server.url, api_key={"BearerToken": f"Bearer {self.tokens[-1]}"}
            )
            configuration.verify_ssl = False
            async with kubernetes_asyncio.client.ApiClient(configuration) as api:
                yield api

        return KubernetesBackend(self.namespace, connect, backoff_s=0.1)

    def run(self, work, timeout_s=90):
        """What the coroutine `work` makes of a backend."""

        async def inside():
            async with self.backend() as backend:
                return await asyncio.wait_for(work(backend), timeout_s)

        return asyncio.run(inside())

    def names(self, plural):
        items = self.custom.list_namespaced_custom_object("ray.io", "v1", self.namespace, plural)["items"]
        return sorted(item["metadata"]["name"] for item in items)

    def get(self, plural, name):
        return self.custom.get_namespaced_custom_object("ray.io", "v1", self.namespace, plural, name)
