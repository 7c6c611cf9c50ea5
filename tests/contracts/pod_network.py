"""Pods' network on this machine: a bridge, a namespace with an address for each, and names in their host files.

Needs root. One at a time.
"""

import itertools
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

BRIDGE, HOST_IP, POD_IPS = "callmill0", "10.77.0.1", "10.77.0.{}"
FIRST_POD = 10


class PodNetwork:
    """Runs from `start` to `stop`."""

    def __init__(self) -> None:
        self._numbers = itertools.count(FIRST_POD)
        self._namespaces: set[str] = set()

    def start(self) -> "PodNetwork":
        _ip("link", "del", BRIDGE, check=False)  # of a run that was killed
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{HOST_IP}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        return self

    def stop(self) -> None:
        for name in list(self._namespaces):
            self.remove(name)
        _ip("link", "del", BRIDGE, check=False)

    def add(self, name: str) -> str:
        """A namespace on the bridge; its address. Names are told apart by their last eight characters."""
        ip, link = POD_IPS.format(next(self._numbers)), f"v{name[-8:]}"
        Path("/etc/netns", name).mkdir(parents=True, exist_ok=True)
        _hosts(name).touch()
        _ip("netns", "del", name, check=False)
        _ip("netns", "add", name)
        self._namespaces.add(name)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", link, "master", BRIDGE, "up")
        _ip("-n", name, "addr", "add", f"{ip}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        return ip

    def remove(self, name: str) -> None:
        self._namespaces.discard(name)
        _ip("netns", "del", name, check=False)
        _hosts(name).unlink(missing_ok=True)
        _hosts(name).parent.rmdir()

    def name(self, addresses: Mapping[str, Sequence[str]]) -> None:
        """Give every namespace these names, by address. Written in place: each is bound to the very file."""
        lines = ["127.0.0.1 localhost", *(f"{ip} {' '.join(names)}" for ip, names in addresses.items())]
        for name in list(self._namespaces):
            _hosts(name).write_text("\n".join(lines) + "\n")


def entering(name: str) -> list[str]:
    """The beginning of a command that runs in a namespace."""
    return ["ip", "netns", "exec", name]


def _hosts(name: str) -> Path:
    return Path("/etc/netns", name, "hosts")


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=not check)
