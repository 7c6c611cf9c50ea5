"""A pod whose containers are processes of this machine, each pod in a network namespace with an address of its own.

Images are not run: every container finds this machine's file system, with a /tmp, /dev/shm and host name of its pod's
own. Of the rest of a pod it knows what KubeRay writes: environment, init containers, restart policies, readiness.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from tests.contracts.pod_network import entering

Manifest = dict[str, Any]

GRACE_S = 5.0
RESTART_S = 2.0
PROBE_S = 2.0

_IN_ITS_OWN = """
hostname "$1"; mount --bind "$2/tmp" /tmp; mount --bind "$2/profile.d" /etc/profile.d; mount --bind "$3" /dev/shm
mount -t tmpfs tmpfs /run; mkdir -p /run/secrets/kubernetes.io
[ ! -d "$2/serviceaccount" ] || cp -r "$2/serviceaccount" /run/secrets/kubernetes.io/
shift 3; exec "$@"
"""


def netns_of(manifest: Manifest) -> str:
    """The network namespace that a pod is to have."""
    return f"pod-{manifest['metadata']['uid'][:8]}"


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Container:
    """One container's process, whenever it is started; its log is kept over restarts."""

    def __init__(self, manifest: Manifest, prefix: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name: str = manifest["name"]
        self.manifest, self.environment = manifest, environment
        self.lines: list[tuple[str, str]] = []
        """When a line was written (RFC 3339), and the line."""
        self.num_starts = 0
        self.exit_code: int | None = None
        self.is_ready = False
        self._started = self._ended = ""
        self._prefix = list(prefix)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [*self.manifest.get("command", []), *self.manifest.get("args", [])]
        self.num_starts += 1
        self.exit_code, self._started = None, now()
        self._process = subprocess.Popen(
            [*self._prefix, *(_expand(word, self.environment) for word in command)],
            env=dict(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        threading.Thread(target=self._collect, args=(self._process,), daemon=True).start()

    def wait(self) -> int:
        assert self._process is not None
        self.exit_code = self._process.wait()
        self._ended, self.is_ready = now(), False
        return self.exit_code

    def end(self) -> None:
        """As the kubelet ends it: a request, some seconds, and force. Its namespace's other processes go with it."""
        if self._process is None or self._process.poll() is not None:
            return
        for child in psutil.Process(self._process.pid).children():
            child.terminate()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def status(self) -> Manifest:
        state: Manifest = {"waiting": {"reason": "PodInitializing"}}
        if self.exit_code is not None:
            reason = "Error" if self.exit_code else "Completed"
            times = {"startedAt": self._started, "finishedAt": self._ended}
            state = {"terminated": {"exitCode": abs(self.exit_code), "reason": reason, **times}}
        elif self._process is not None:
            state = {"running": {"startedAt": self._started}}
        image = self.manifest["image"]
        num_restarts = max(0, self.num_starts - 1)
        names = {"name": self.name, "image": image, "imageID": image}
        return {**names, "state": state, "ready": self.is_ready, "restartCount": num_restarts}

    def _collect(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.lines.append((now(), line.rstrip("\n")))


class Pod:
    """Runs from `start` to `end`; `report` is told its status whenever that changes."""

    def __init__(
        self,
        manifest: Manifest,
        ip: str,
        folder: Path,
        image_environment: Mapping[str, str],
        secret: Callable[[str, str], str],
        report: Callable[["Pod", Manifest], None],
    ) -> None:
        """`folder`: its own place in it is made here. `secret(name, key)` is the value of a secret of its namespace."""
        meta = manifest["metadata"]
        self.name, self.namespace, self.uid, self.ip = meta["name"], meta["namespace"], meta["uid"], ip
        self.manifest = manifest
        self.netns = netns_of(manifest)
        self._folder, self._shm = folder / self.netns, Path("/dev/shm", self.netns)
        self._secret, self._report = secret, report
        self._is_ending = threading.Event()
        self._start_time = now()
        self._last_status: Manifest = {}
        for place in (self._folder / "tmp", self._folder / "profile.d", self._shm):
            place.mkdir(parents=True)
        path = image_environment["PATH"]
        (self._folder / "profile.d" / "path.sh").write_text(f"export PATH={path}\n")  # a login shell sets it anew
        spec = manifest["spec"]
        apart = ["--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        prefix = [*entering(self.netns), "unshare", *apart]
        prefix += ["bash", "-c", _IN_ITS_OWN, "bash", self.name, str(self._folder), str(self._shm)]
        self.init_containers, self.containers = (
            [Container(c, prefix, self._environment(c, image_environment)) for c in spec.get(key, [])]
            for key in ("initContainers", "containers")
        )

    def give_account(self, files: Mapping[str, str]) -> None:
        """What the kubelet mounts of a service account, by name of file; before the start."""
        (self._folder / "serviceaccount").mkdir()
        for name, text in files.items():
            (self._folder / "serviceaccount" / name).write_text(text)

    def start(self) -> None:
        for run in (self._run, self._probe):
            threading.Thread(target=run, name=f"{self.name}-{run.__name__}", daemon=True).start()

    def end(self) -> None:
        self._is_ending.set()
        for container in (*self.init_containers, *self.containers):
            container.end()
        for place in (self._folder, self._shm):
            shutil.rmtree(place, ignore_errors=True)

    def container(self, name: str) -> Container | None:
        return next((c for c in (*self.init_containers, *self.containers) if c.name == name), None)

    # ------------------------------------------------------------------------------------------------------ its life

    def _run(self) -> None:
        self._tell("Pending")
        for container in self.init_containers:
            while self._code_of(container) != 0:
                if self._is_ending.wait(RESTART_S):
                    return None
                if self.manifest["spec"]["restartPolicy"] == "Never":
                    return self._tell("Failed")
        threads = [threading.Thread(target=self._keep, args=(c,), daemon=True) for c in self.containers]
        for thread in threads:
            thread.start()
        self._tell("Running")
        for thread in threads:
            thread.join()
        return self._tell("Failed" if any(c.exit_code for c in self.containers) else "Succeeded")

    def _keep(self, container: Container) -> None:
        """Run it, again where the restart policy says so."""
        policy = self.manifest["spec"]["restartPolicy"]
        while not self._is_ending.is_set():
            code = self._code_of(container)
            if policy == "Never" or (policy == "OnFailure" and code == 0):
                return
            self._is_ending.wait(RESTART_S)

    def _code_of(self, container: Container) -> int:
        container.start()
        return container.wait()

    def _probe(self) -> None:
        """What is ready, every two seconds, whatever period the probes ask for."""
        while not self._is_ending.wait(PROBE_S):
            for container in self.containers:
                probe = container.manifest.get("readinessProbe", {}).get("exec")
                is_up = "running" in container.status()["state"]
                container.is_ready = is_up and (probe is None or self._answers(container, probe["command"]))
            if self._last_status.get("phase") == "Running":
                self._tell("Running")

    def _answers(self, container: Container, command: Sequence[str]) -> bool:
        entered = [*entering(self.netns), *command]
        try:
            done = subprocess.run(entered, env=dict(container.environment), capture_output=True, timeout=20)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def _tell(self, phase: str) -> None:
        if self._is_ending.is_set():
            return
        is_up = phase == "Running"
        is_ready = is_up and all(container.is_ready for container in self.containers)
        conditions = {"PodScheduled": True, "Initialized": phase != "Pending"}
        conditions |= {"ContainersReady": is_ready, "Ready": is_ready}
        status = {
            "phase": phase,
            "podIP": self.ip,
            "podIPs": [{"ip": self.ip}],
            "startTime": self._start_time,
            "conditions": [{"type": name, "status": str(holds)} for name, holds in conditions.items()],
            "containerStatuses": [container.status() for container in self.containers],
            "initContainerStatuses": [container.status() for container in self.init_containers],
        }
        if status != self._last_status:
            self._last_status = status
            self._report(self, status)

    # ------------------------------------------------------------------------------------------------ its environment

    def _environment(self, container: Manifest, image_environment: Mapping[str, str]) -> dict[str, str]:
        environment = dict(image_environment)
        for entry in container.get("env", []):
            source = entry.get("valueFrom")
            value = self._value(source, container) if source else _expand(entry.get("value", ""), environment)
            environment[entry["name"]] = value
        return environment

    def _value(self, source: Manifest, container: Manifest) -> str:
        if reference := source.get("secretKeyRef"):
            return self._secret(reference["name"], reference["key"])
        if reference := source.get("fieldRef"):
            return self._field(reference["fieldPath"])
        kind, resource = source["resourceFieldRef"]["resource"].split(".")
        return str(container["resources"][kind][resource])

    def _field(self, path: str) -> str:
        if path in ("status.podIP", "status.hostIP"):
            return self.ip
        section, name, key = re.fullmatch(r"(\w+)\.(\w+)(?:\['(.*)'\])?", path).groups()  # type: ignore[union-attr]
        value = self.manifest[section].get(name, {} if key else "")
        return str(value[key] if key else value)


def image_environment(**more: str) -> dict[str, str]:
    """What our image sets: this interpreter's programs and this checkout's code."""
    path = os.pathsep.join(
        [str(Path(sys.executable).parent), *["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]]
    )
    return {"PATH": path, "PYTHONPATH": str(Path.cwd()), "HOME": os.environ.get("HOME", "/root"), **more}


def _expand(text: str, environment: Mapping[str, str]) -> str:
    """Kubernetes' own references, `$(NAME)`; unknown ones stay."""
    return re.sub(r"\$\((\w+)\)", lambda found: environment.get(found[1], found[0]), text)


def until(holds: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not after {timeout_s:.0f} s: {what}")
        time.sleep(0.2)
