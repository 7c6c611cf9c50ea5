"""The one node of a Kubernetes cluster on this machine: what a scheduler, a kubelet and a DNS do, in little.

It binds every pod to itself, runs it as processes (`kubernetes_pod`) in a network of their own (`pod_network`), serves
the pods' logs to the API server, and names services in the pods' host files, each standing for the pods behind it.
"""

import ssl
import subprocess
import threading
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes
from kubernetes.client.exceptions import ApiException

from tests.contracts.kubernetes_api import KubernetesApi
from tests.contracts.kubernetes_pod import Manifest, Pod, netns_of
from tests.contracts.pod_network import HOST_IP, PodNetwork

NAME = "this-machine"
PERIOD_S = 0.3


class Node:
    """Runs from `start` to `stop`."""

    def __init__(self, api: KubernetesApi, network: PodNetwork, folder: Path, environment: Mapping[str, str]) -> None:
        """`environment` is what every container's image sets."""
        self.core = kubernetes.client.CoreV1Api(api.admin)
        self._api, self._network, self._folder = api, network, folder
        server = {"KUBERNETES_SERVICE_HOST": HOST_IP, "KUBERNETES_SERVICE_PORT_HTTPS": str(api.port)}
        self._environment = {**environment, **server}
        self._ended = threading.Event()
        self.pods: dict[str, Pod] = {}
        """By uid."""

    def start(self) -> "Node":
        self._server = _log_server(self, self._folder)
        threading.Thread(target=self._server.serve_forever, name="kubelet", daemon=True).start()
        self.core.create_node({"metadata": {"name": NAME}})
        status = {
            "addresses": [{"type": "InternalIP", "address": HOST_IP}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._server.server_port}},
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        self.core.patch_node_status(NAME, {"status": status})
        self._syncing = threading.Thread(target=self._sync, name="node", daemon=True)
        self._syncing.start()
        return self

    def stop(self) -> None:
        self._ended.set()
        self._syncing.join()
        for pod in list(self.pods.values()):
            pod.end()
        self._server.shutdown()

    # ---------------------------------------------------------------------------------------------------- what it does

    def _sync(self) -> None:
        while not self._ended.wait(PERIOD_S):
            try:
                answer = self.core.list_pod_for_all_namespaces(_preload_content=False)
            except Exception:  # the API server is restarted in some tests
                continue
            listed = kubernetes.client.ApiClient().deserialize(answer, "object")["items"]
            for manifest in listed:
                self._sync_pod(manifest)
            for uid in set(self.pods) - {manifest["metadata"]["uid"] for manifest in listed}:
                self._end(uid)  # deleted by force
            self._name_services()

    def _sync_pod(self, manifest: Manifest) -> None:
        meta = manifest["metadata"]
        if "deletionTimestamp" in meta:
            self._end(meta["uid"])
            now = kubernetes.client.V1DeleteOptions(grace_period_seconds=0, preconditions={"uid": meta["uid"]})
            _unless_gone(lambda: self.core.delete_namespaced_pod(meta["name"], meta["namespace"], body=now))
        elif meta["uid"] not in self.pods:
            self._start(manifest)

    def _start(self, manifest: Manifest) -> None:
        meta = manifest["metadata"]
        if "nodeName" not in manifest["spec"]:
            target = {"metadata": {"name": meta["name"]}, "target": {"kind": "Node", "name": NAME}}
            bind = self.core.create_namespaced_pod_binding
            _unless_gone(lambda: bind(meta["name"], meta["namespace"], target, _preload_content=False))

        def secret(name: str, key: str) -> str:
            return b64decode(self.core.read_namespaced_secret(name, meta["namespace"]).data[key]).decode()

        ip = self._network.add(netns_of(manifest))
        pod = Pod(manifest, ip, self._folder, self._environment, secret, self._report)
        if account := manifest["spec"].get("serviceAccountName"):
            pod.give_account(self._account(account, meta["namespace"]))
        self.pods[meta["uid"]] = pod
        self._name_services()
        pod.start()

    def _account(self, name: str, namespace: str) -> dict[str, str]:
        request = {"spec": {"audiences": [self._api.issuer]}}
        token = self.core.create_namespaced_service_account_token(name, namespace, request).status.token
        return {"token": token, "namespace": namespace, "ca.crt": self._api.certificate.read_text()}

    def _end(self, uid: str) -> None:
        pod = self.pods.pop(uid, None)
        if pod is not None:
            pod.end()
            self._network.remove(pod.netns)

    def _report(self, pod: Pod, status: Manifest) -> None:
        patch = self.core.patch_namespaced_pod_status
        _unless_gone(lambda: patch(pod.name, pod.namespace, {"status": {**status, "hostIP": HOST_IP}}))

    def _name_services(self) -> None:
        addresses = {pod.ip: [pod.name] for pod in list(self.pods.values())}
        for service in self.core.list_service_for_all_namespaces().items:
            name, namespace = service.metadata.name, service.metadata.namespace
            wanted = (service.spec.selector or {}).items()
            for pod in list(self.pods.values()):
                labels = pod.manifest["metadata"].get("labels", {}).items()
                if wanted and pod.namespace == namespace and wanted <= labels:
                    addresses[pod.ip] += [f"{name}.{namespace}.svc.cluster.local", f"{name}.{namespace}.svc", name]
        self._network.name(addresses)


def _log_server(node: Node, folder: Path) -> ThreadingHTTPServer:
    """The kubelet's side of `kubectl logs`: /containerLogs/NAMESPACE/POD/CONTAINER."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            _, _, namespace, pod_name, container_name = url.path.split("/")
            options = {name: values[0] for name, values in parse_qs(url.query).items()}
            pods = [p for p in node.pods.values() if (p.namespace, p.name) == (namespace, pod_name)]
            container = pods[0].container(container_name) if pods else None
            if container is None:
                self.send_error(404)
                return
            text = "".join(f"{line}\n" for line in _chosen(container.lines, options))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((HOST_IP, 0), Handler)
    key, certificate = folder / "kubelet.key", folder / "kubelet.crt"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={NAME}", "-days", "2"]
    subprocess.run([*request, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


def _chosen(lines: list[tuple[str, str]], options: Mapping[str, str]) -> list[str]:
    since = options.get("sinceTime", "")
    if "sinceSeconds" in options:
        since = (datetime.now(UTC) - timedelta(seconds=int(options["sinceSeconds"]))).isoformat()
    return [f"{time} {line}" if options.get("timestamps") else line for time, line in list(lines) if time >= since]


def _unless_gone(call: Any) -> None:
    try:
        call()
    except ApiException as error:
        if error.status not in (404, 409):
            raise
