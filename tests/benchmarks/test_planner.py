"""The planner: the front, the choice, and files that the job and KubeRay take."""

from pathlib import Path

import pytest
import yaml

from benchmarks import __main__ as command
from benchmarks.planner import NoShapeError, Shape, choose, front
from kuberay.cluster import resolve_cluster
from ray_jobs.spec import load_spec


def a_shape(wall_h: float, cost_usd: float) -> Shape:
    return Shape(
        num_gpus=1, num_cpu_nodes=1, capacity="spot", wall_h=wall_h, cost_usd=cost_usd, engines_busy=1.0, num_redone=0
    )


CHEAP, MIDDLE, FAST, BEATEN = a_shape(8.0, 10.0), a_shape(4.0, 12.0), a_shape(1.0, 30.0), a_shape(5.0, 12.0)
SHAPES = (FAST, BEATEN, CHEAP, MIDDLE)


def test_the_front_holds_what_nothing_beats() -> None:
    assert front(SHAPES) == [CHEAP, MIDDLE, FAST]


def test_a_deadline_gets_the_cheapest_and_a_budget_the_fastest() -> None:
    assert choose(SHAPES, deadline_h=6.0, budget_usd=None) == MIDDLE
    assert choose(SHAPES, deadline_h=None, budget_usd=29.0) == MIDDLE
    assert choose(SHAPES, deadline_h=9.0, budget_usd=11.0) == CHEAP


def test_what_cannot_be_had_is_said_with_what_can() -> None:
    with pytest.raises(NoShapeError, match=r"the fastest takes 1.00 h for 30 USD, the cheapest 8.00 h for 10 USD"):
        choose(SHAPES, deadline_h=0.5, budget_usd=None)


def test_the_recommended_files_are_ready_to_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan"
    assert command.main(["plan", "--hours", "50", "--deadline", "2h", "--output", str(out)]) == 0
    spec = load_spec(out / "run.yaml", {})
    cluster = resolve_cluster(str(out / "cluster.yaml"))
    gpus = next(group for group in cluster.workers if group.gpus)
    assert spec.asr.actors.max_actors == gpus.max_replicas
    assert (out / "front.png").read_bytes().startswith(b"\x89PNG")
    assert '"benchmark": "plan"' in capsys.readouterr().out.splitlines()[-1]


def test_a_profile_without_gpus_and_a_broken_assumptions_file_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "assumptions.yaml"
    broken.write_text(yaml.safe_dump({"rates": {}}))
    assert command.main(["plan", "--hours", "1", "--assumptions", str(broken), "--output", str(tmp_path / "plan")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
