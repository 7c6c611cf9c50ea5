"""A real Kubernetes API server over etcd, with the controllers that delete dependents and count quotas.

KUBEBUILDER_ASSETS names the folder with `etcd` and `kube-apiserver`, as for controller-runtime's envtest, and with
`kube-controller-manager`. There are no nodes: pods are objects, nothing runs, and the KubeRay operator is the test.
"""

import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import kubernetes
import yaml

Manifest = dict[str, Any]

CONTROLLERS = ("garbagecollector", "resourcequota", "serviceaccount")
ADMIN_TOKEN = "admin"
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 20


class KubernetesApi:
    """Runs from `start` to `stop`; `admin` is a client that may do everything."""

    def __init__(self, programs: Path, folder: Path, address: str = "127.0.0.1") -> None:
        """`address`: where it listens."""
        self._programs, self._folder, self._address = programs, folder, address
        self._etcd_port, self._peer_port, self.port, self._manager_port = _free_ports(4)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.issuer = "https://kubernetes.default.svc"
        self.certificate = folder / "certificates" / "apiserver.crt"
        """Signed by itself, so the authority that clients are to trust."""
        self.url = f"https://{address}:{self.port}"

    def start(self) -> "KubernetesApi":
        (self._folder / "tokens.csv").write_text(f'{ADMIN_TOKEN},admin,admin,"system:masters"\n')
        (self._folder / "admin.yaml").write_text(yaml.safe_dump(self.kubeconfig(ADMIN_TOKEN)))
        key = self._folder / "service-accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        etcd = f"http://127.0.0.1:{self._etcd_port}"
        peer = f"http://127.0.0.1:{self._peer_port}"
        self._run(
            "etcd",
            f"--data-dir={self._folder / 'etcd'}",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )
        self.start_server()
        self.admin = kubernetes.client.ApiClient(self._configuration(ADMIN_TOKEN))
        return self

    def start_server(self) -> None:
        key = self._folder / "service-accounts.key"
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--bind-address={self._address}",
            f"--secure-port={self.port}",
            f"--cert-dir={self._folder / 'certificates'}",
            f"--token-auth-file={self._folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            "--service-cluster-ip-range=10.0.0.0/24",
            f"--service-account-issuer={self.issuer}",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
        )
        self._until(self._is_up, "the API server is up")

    def start_controllers(self, *more: str) -> None:
        """After the custom resources are known: the garbage collector looks for new ones only now and then."""
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={self._folder / 'admin.yaml'}",
            f"--controllers={','.join((*CONTROLLERS, *more))}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--port=0",  # else one that everybody may use, and that a second manager would miss
            f"--secure-port={self._manager_port}",
            f"--cert-dir={self._folder / 'certificates'}",
        )

    def stop_server(self) -> None:
        self._end("kube-apiserver")

    def stop(self) -> None:
        for name in reversed(list(self._processes)):
            self._end(name)
        shutil.rmtree(self._folder, ignore_errors=True)

    def apply(self, path: Path, namespace: str = "default") -> None:
        """Create what a file of core kinds or CRDs holds."""
        for document in yaml.safe_load_all(path.read_text()):
            kubernetes.utils.create_from_dict(self.admin, document, namespace=namespace)

    def install(self, folder: Path) -> None:
        """The CRDs of a folder; they are served when this returns."""
        for path in sorted(folder.glob("*.yaml")):
            self.apply(path)
            for crd in yaml.safe_load_all(path.read_text()):
                self._until(partial(self._serves, crd["spec"]), f"{crd['metadata']['name']} are served")

    def kubeconfig(self, token: str, namespace: str = "default") -> Manifest:
        cluster = {"server": self.url, "insecure-skip-tls-verify": True}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
        }

    def _configuration(self, token: str) -> kubernetes.client.Configuration:
        configuration = kubernetes.client.Configuration(host=self.url, api_key={"authorization": f"Bearer {token}"})
        configuration.verify_ssl = False
        return configuration

    def _run(self, program: str, *flags: str) -> None:
        with (self._folder / f"{program}.log").open("ab") as log:
            self._processes[program] = subprocess.Popen(
                [self._programs / program, *flags], stdout=log, stderr=log, cwd=self._folder
            )

    def _end(self, program: str) -> None:
        process = self._processes.pop(program)
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _is_up(self) -> bool:
        trusting = ssl._create_unverified_context()
        request = urllib.request.Request(f"{self.url}/readyz", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
        try:
            with urllib.request.urlopen(request, context=trusting, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _serves(self, crd: Manifest) -> bool:
        custom = kubernetes.client.CustomObjectsApi(self.admin)
        try:
            custom.list_cluster_custom_object(crd["group"], crd["versions"][0]["name"], crd["names"]["plural"])
        except kubernetes.client.ApiException:
            return False
        return True

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not holds():
            for program, process in self._processes.items():
                if process.poll() is not None:
                    log = (self._folder / f"{program}.log").read_text(errors="replace")
                    raise RuntimeError(f"{program} ended with {process.returncode}:\n{log[-2000:]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"not after {START_TIMEOUT_S} s: {what}")
            time.sleep(0.2)


def programs() -> Path | None:
    """The folder of the programs, where all are there."""
    folder = Path(os.environ.get("KUBEBUILDER_ASSETS", "/nonexistent"))
    needed = ("etcd", "kube-apiserver", "kube-controller-manager")
    return folder if all((folder / name).is_file() for name in needed) else None


def _free_ports(number: int) -> Sequence[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
