"""A Kubernetes cluster with KubeRay's own operator on this machine: `python -m tests.contracts.little_cluster`.

Real: the API server, its controllers, the operator, Ray. In little: the one node (`kubernetes_node`), which runs pods
as processes of this machine. From the shell it prints a KUBECONFIG and stays until it is interrupted.

KUBEBUILDER_ASSETS names the folder of Kubernetes' programs, CALLMILL_KUBERAY_CRDS that of KubeRay's CRDs and
CALLMILL_KUBERAY_OPERATOR the operator's program. Needs root, for the pods' network.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

from ray_jobs.runtime import JAVA_OPTIONS
from tests.contracts.kubernetes_api import ADMIN_TOKEN, KubernetesApi, programs
from tests.contracts.kubernetes_node import Node
from tests.contracts.kubernetes_pod import image_environment
from tests.contracts.pod_network import HOST_IP, PodNetwork, entering

OPERATOR = "kuberay"


class LittleCluster:
    """Runs from `start` to `stop`, which also ends what a failed start has left."""

    def __init__(self) -> None:
        # not below /tmp, which is another folder to every pod; short, for etcd's socket
        self.folder = Path(tempfile.mkdtemp(prefix="kubernetes-", dir="/var/tmp"))
        self.kubeconfig = self.folder / "kubeconfig.yaml"
        self.api = KubernetesApi(programs(), self.folder, HOST_IP)
        self._network = PodNetwork()
        self._operator: subprocess.Popen[bytes] | None = None
        self._started = ExitStack()
        self._started.callback(shutil.rmtree, self.folder, ignore_errors=True)

    def start(self) -> "LittleCluster":
        self._started.callback(self._network.stop)
        self._network.start()
        self._started.callback(self.api.stop)
        self.api.start()
        self.kubeconfig.write_text(yaml.safe_dump(self.api.kubeconfig(ADMIN_TOKEN)))
        self.api.install(Path(os.environ["CALLMILL_KUBERAY_CRDS"]))
        self.api.start_controllers("endpoint", "job")
        environment = image_environment(JDK_JAVA_OPTIONS=JAVA_OPTIONS)
        self.node = Node(self.api, self._network, self.folder, environment).start()
        self._started.callback(self.node.stop)
        self._started.callback(self.stop_operator)
        self.start_operator()
        return self

    def stop(self) -> None:
        self._started.close()

    def start_operator(self) -> None:
        """In a network namespace of its own, where the names of services are known."""
        self._network.add(OPERATOR)
        with (self.folder / "operator.log").open("ab") as log:
            self._operator = subprocess.Popen(
                [*entering(OPERATOR), os.environ["CALLMILL_KUBERAY_OPERATOR"], "--enable-leader-election=false"],
                env={**os.environ, "KUBECONFIG": str(self.kubeconfig), "ENABLE_WEBHOOKS": "false"},
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )

    def stop_operator(self) -> None:
        if self._operator is not None:
            self._operator.terminate()
            self._operator.wait(30)
            self._operator = None


@contextmanager
def little_cluster() -> Iterator[LittleCluster]:
    """One that runs, for as long as it is needed."""
    cluster = LittleCluster()
    try:
        yield cluster.start()
    finally:
        cluster.stop()


def missing() -> str:
    """What is not here for such a cluster; empty where all is."""
    if not programs():
        return "KUBEBUILDER_ASSETS does not name a folder of Kubernetes' programs"
    if "CALLMILL_KUBERAY_CRDS" not in os.environ:
        return "CALLMILL_KUBERAY_CRDS does not name a folder of KubeRay's CRDs"
    if not Path(os.environ.get("CALLMILL_KUBERAY_OPERATOR", "/nonexistent")).is_file():
        return "CALLMILL_KUBERAY_OPERATOR does not name the operator's program"
    return "" if os.geteuid() == 0 else "only root can make network namespaces"


def main() -> None:
    if reason := missing():
        raise SystemExit(reason)
    interrupted = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: interrupted.set())
    with little_cluster() as cluster:
        print(f"export KUBECONFIG={cluster.kubeconfig}", flush=True)
        interrupted.wait()


if __name__ == "__main__":
    main()
