"""Which cluster, what bill: `python -m benchmarks plan --hours 10000 --deadline 8h`, or `--budget 500`.

Cluster shapes of more and more GPUs, on spot or on demand, are simulated (benchmarks.simulation) with the rates and
prices of an assumptions file; those that no other shape beats in both time and cost are the Pareto front. Recommended
is the cheapest that keeps the deadline, or the fastest within the budget, and written out ready to use: run.yaml for
`python -m ray_jobs.run --spec`, cluster.yaml for `python -m kuberay render --spec`, plan.json and front.png.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import figures
from benchmarks.scale import Assumptions, expect, spec_for
from benchmarks.simulation import HOUR_S, Site
from kuberay.cluster import ClusterSpec, WorkerGroup, resolve_cluster
from ray_jobs.spec import RunSpec

MOST_GPUS = 256
CAPACITIES = ("on-demand", "spot")


class NoShapeError(Exception):
    """No cluster shape keeps the deadline or the budget; the message says how near the best one comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A cluster and what a run on it comes to. Cost is of nodes, from submission to the last commit, by the minute."""

    num_gpus: int
    num_cpu_nodes: int
    capacity: str
    wall_h: float
    cost_usd: float
    engines_busy: float
    num_redone: int


def plan(total_call_s: float, assumed: Assumptions) -> list[Shape]:
    """Every shape considered, by number of GPUs."""
    return [_shape(total_call_s, num_gpus, capacity, assumed) for num_gpus in _gpu_counts() for capacity in CAPACITIES]


def front(shapes: Sequence[Shape]) -> list[Shape]:
    """Those that none beats in both time and cost, the cheapest first."""
    best: list[Shape] = []
    for shape in sorted(shapes, key=lambda shape: (shape.cost_usd, shape.wall_h)):
        if not best or shape.wall_h < best[-1].wall_h:
            best.append(shape)
    return best


def choose(shapes: Sequence[Shape], *, deadline_h: float | None, budget_usd: float | None) -> Shape:
    """The cheapest in time, or the fastest in budget; of a deadline and a budget, both. Raises NoShapeError."""
    fitting = [
        shape
        for shape in front(shapes)
        if shape.wall_h <= (deadline_h or math.inf) and shape.cost_usd <= (budget_usd or math.inf)
    ]
    if not fitting:
        fastest, cheapest = (min(shapes, key=lambda s: (s.wall_h, s.cost_usd)), min(shapes, key=lambda s: s.cost_usd))
        raise NoShapeError(
            f"no cluster of up to {MOST_GPUS} GPUs does it: the fastest takes {fastest.wall_h:.2f} h for "
            f"{fastest.cost_usd:.0f} USD, the cheapest {cheapest.wall_h:.2f} h for {cheapest.cost_usd:.0f} USD"
        )
    return fitting[0] if deadline_h is not None else fitting[-1]


def run_spec(shape: Shape, assumed: Assumptions) -> RunSpec:
    """The spec of a run on this shape; its URIs are the user's to fill in."""
    return spec_for(shape.num_gpus, assumed)


def cluster_spec(shape: Shape, profile: str) -> ClusterSpec:
    """The profile with as many workers as the shape has. Raises NoShapeError where it lacks the groups."""
    cluster = resolve_cluster(profile)
    gpu_groups = [group for group in cluster.workers if group.gpus]
    cpu_groups = [group for group in cluster.workers if not group.gpus]
    if not gpu_groups or not cpu_groups:
        raise NoShapeError(f"profile {profile} has no group of GPU workers beside one of CPU workers")
    workers = tuple(
        _sized(group, {gpu_groups[0].name: shape.num_gpus, cpu_groups[0].name: shape.num_cpu_nodes}, shape.capacity)
        for group in cluster.workers
    )
    return ClusterSpec.model_validate(cluster.model_copy(update={"workers": workers}).model_dump())


def _sized(group: WorkerGroup, counts: dict[str, int], capacity: str) -> WorkerGroup:
    if group.name not in counts:
        return group
    most = counts[group.name]
    return group.model_copy(
        update={"capacity": capacity, "max_replicas": most, "min_replicas": min(group.min_replicas, most)}
    )


def write(folder: Path, shapes: Sequence[Shape], chosen: Shape, assumed: Assumptions, profile: str) -> dict[str, Any]:
    """run.yaml, cluster.yaml, plan.json and front.png; returns what plan.json holds."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = run_spec(chosen, assumed).model_dump(mode="json", exclude_unset=True)
    (folder / "run.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    cluster = cluster_spec(chosen, profile).model_dump(mode="json", exclude_defaults=True)
    (folder / "cluster.yaml").write_text(yaml.safe_dump(cluster, sort_keys=False))
    document = {
        "recommended": asdict(chosen),
        "front": [asdict(shape) for shape in front(shapes)],
        "curves": _curves(shapes),
    }
    (folder / "plan.json").write_text(json.dumps(document, indent=1))
    figures.plot({"suite": "plan", **document}, folder / "front.png")
    return document


def as_text(shapes: Sequence[Shape], chosen: Shape) -> str:
    """A line per shape, the chosen one marked."""
    lines = ["    GPUs  CPU nodes  capacity    hours       USD  engines busy"]
    for shape in shapes:
        lines.append(
            f"{' ->' if shape == chosen else '   '} {shape.num_gpus:>4} {shape.num_cpu_nodes:>10}  {shape.capacity:<9} "
            f"{shape.wall_h:>7.2f} {shape.cost_usd:>9.2f} {shape.engines_busy:>12.0%}"
        )
    return "\n".join(lines)


def _shape(total_call_s: float, num_gpus: int, capacity: str, assumed: Assumptions) -> Shape:
    spec = spec_for(num_gpus, assumed)
    site = assumed.site if capacity == "spot" else _never_reclaimed(assumed.site)
    outcome = expect(total_call_s, num_gpus, assumed, site)
    cores = spec.wave_size + spec.redact.actors.max_actors
    num_cpu_nodes = math.ceil(cores / assumed.cores_per_cpu_node)
    prices = assumed.prices_usd_per_h
    per_h = prices["head"] + num_cpu_nodes * prices["cpu_node"][capacity] + num_gpus * prices["gpu_node"][capacity]
    wall_h = outcome.wall_s / HOUR_S
    return Shape(
        num_gpus=num_gpus,
        num_cpu_nodes=num_cpu_nodes,
        capacity=capacity,
        wall_h=round(wall_h, 4),
        cost_usd=round(per_h * wall_h, 2),
        engines_busy=round(outcome.asr_busy, 3),
        num_redone=outcome.num_redone,
    )


def _never_reclaimed(site: Site) -> Site:
    return Site(**{**asdict(site), "reclaims_per_h": 0.0})


def _gpu_counts() -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12, ..."""
    number = 1
    while number <= MOST_GPUS:
        yield number
        if number > 1 and number * 3 // 2 <= MOST_GPUS:
            yield number * 3 // 2
        number *= 2


def _curves(shapes: Sequence[Shape]) -> dict[str, Any]:
    lines = {
        capacity: [[shape.wall_h, shape.cost_usd] for shape in shapes if shape.capacity == capacity]
        for capacity in CAPACITIES
    }
    best = [[shape.wall_h, shape.cost_usd] for shape in front(shapes)]
    return {"Cost against time": {"x": "hours", "y": "USD", "x_scale": "log", "lines": {**lines, "Pareto front": best}}}
