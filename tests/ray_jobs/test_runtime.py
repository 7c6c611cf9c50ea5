"""What a cluster must have for the stages to start."""

import socket
import subprocess
import sys
from typing import Any

import pytest

from ray_jobs import runtime
from ray_jobs.errors import FatalError
from ray_jobs.spec import STAGES, RunSpec, parse_spec


def a_spec(asr: dict[str, Any], llm: dict[str, Any]) -> RunSpec:
    fraction = min(0.9, llm.get("num_gpus") or 1)
    return parse_spec(
        {"input": {"uri": "calls"}, "asr": {"actors": asr}, "llm": {"actors": llm, "gpu_memory_fraction": fraction}}
    )


@pytest.mark.parametrize(
    ("shares", "num_gpus"),
    [([], 0), ([0.0, 0.0], 0), ([0.5, 0.5], 1), ([0.1] * 10, 1), ([0.6, 0.6, 0.6], 3), ([0.4, 0.6, 0.6, 0.4], 2)],
)
def test_a_fraction_lies_on_one_gpu(shares: list[float], num_gpus: int) -> None:
    assert runtime.gpus_to_hold(shares) == num_gpus
    assert runtime.gpus_to_hold([*shares, 2.0]) == num_gpus + 2


def test_two_engines_of_one_gpu_each_are_refused_on_one_gpu() -> None:
    cluster = {"CPU": 64.0, "GPU": 1.0}
    with pytest.raises(FatalError, match="the stages need 2 GPU slots to start and the cluster has 1: lower num_gpus"):
        runtime._check_placeable(a_spec({"num_gpus": 1}, {"num_gpus": 1}), STAGES, cluster)
    runtime._check_placeable(a_spec({"num_gpus": 0.4}, {"num_gpus": 0.6}), STAGES, cluster)


def test_three_engines_of_more_than_half_a_gpu_are_refused_on_two() -> None:
    crowded = a_spec({"num_gpus": 0.6, "min_actors": 2, "max_actors": 2}, {"num_gpus": 0.6})
    with pytest.raises(FatalError, match="the stages need 3 GPU slots to start and the cluster has 2"):
        runtime._check_placeable(crowded, STAGES, {"CPU": 64.0, "GPU": 2.0})


def test_an_address_where_no_ray_is_ends_the_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with (
        pytest.raises(FatalError, match=f"no Ray answers at RAY_ADDRESS 127.0.0.1:{port}: Connection refused"),
        runtime.ray_cluster(a_spec({}, {}), STAGES),
    ):
        pass


def a_ray_that_starts(monkeypatch: pytest.MonkeyPatch, errors: list[str]) -> None:
    """`ray.init` fails with these, then starts."""

    def init(**_: Any) -> str:
        if errors:
            raise Exception(errors.pop(0))
        return "started"

    monkeypatch.setattr("ray.init", init)


def test_a_start_that_took_ray_too_long_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    a_ray_that_starts(monkeypatch, ["The current node timed out during startup. This could happen"] * 3)
    assert runtime._start_local(a_spec({}, {}), STAGES) == "started"


def test_a_ray_that_does_not_start_ends_the_run_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    a_ray_that_starts(monkeypatch, ["Failed to bind\nto a port"])
    with pytest.raises(FatalError, match=r"^Ray did not start: Failed to bind$"):
        runtime._start_local(a_spec({}, {}), STAGES)


def test_the_memory_of_child_processes_is_in_the_peak_and_stays_there() -> None:
    peak = runtime.MemoryPeak()
    peak.sample()
    before = peak.peak_bytes or 0
    holder = [sys.executable, "-c", "held = bytes(b'x' * 200 * 2**20); print(flush=True); input()"]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        peak.sample()
        during = peak.peak_bytes or 0
        child.communicate("\n")
    peak.sample()
    assert during > before + 200 * 2**20
    assert peak.peak_bytes == during
