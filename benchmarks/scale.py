"""How it scales: `python -m benchmarks.scale [--hours 0.3] [--actors 1 2]`, measured here, then simulated.

measured    the fused job over one corpus with 1, 2, ... ASR actors of one thread each; the rate is from the first
            partition handed to ASR to the last commit, efficiency that rate over actors x the rate of one
held_out    another corpus, in partitions of another size, with the most actors. The simulation (benchmarks.simulation)
            was fitted to the last measured run alone and has to say how long this one takes; error = predicted /
            measured - 1
simulated   the same scheduler with the costs in assumptions.yaml on 1, 8, 64 and 256 GPUs, an hour of work for each
            engine: efficiency, the tail, and which resource is fullest
replaced    hours of calls that the replaced workflow did in 40 hours, at the rate of one pod that `python -m
            benchmarks.pipeline` measured (--pod-rate), and what they take on 1, 8 and 64 GPUs
"""

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import corpus, harness, simulation
from benchmarks.corpus import Corpus
from benchmarks.simulation import HOUR_S, Outcome, Rates, Site
from ray_jobs.spec import RunSpec, parse_spec

ASSUMPTIONS = Path(__file__).with_name("assumptions.yaml")
GPUS = (1, 8, 64, 256)
RESTATED_GPUS = (1, 8, 64)
SEEDS = range(5)
ETL_HEADROOM = 1.5
"""ETL cores for every core that the engines' rate asks for: they share a wave's wait for its slowest task."""

CORES_PER_EXECUTOR = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """assumptions.yaml: what was not measured."""

    rates: Rates
    site: Site
    prices_usd_per_h: Mapping[str, Any]
    cores_per_cpu_node: int
    replaced_hours: float
    asr_call_s_per_s: float
    etl_call_s_per_s: float
    redact_call_s_per_s: float


def load_assumptions(path: Path = ASSUMPTIONS) -> Assumptions:
    """Raises KeyError, TypeError or ValueError where the file lacks something."""
    document = yaml.safe_load(path.read_text())
    rates = document["rates"]
    speeds = [float(rates[f"{stage}_s"]) for stage in ("etl_call_s_per_core", "asr_call_s_per_gpu")]
    redact = float(rates["redact_call_s_per_actor_s"])
    return Assumptions(
        rates=Rates(
            etl=_spread(speeds[0], rates["spread"]),
            asr=_spread(speeds[1], rates["spread"]),
            redact=_spread(redact, rates["spread"]),
            start_s=rates["start_s"],
        ),
        site=Site(**document["site"]),
        prices_usd_per_h=document["prices_usd_per_h"],
        cores_per_cpu_node=int(document["nodes"]["cores_per_cpu_node"]),
        replaced_hours=float(document["replaced"]["hours"]),
        asr_call_s_per_s=speeds[1],
        etl_call_s_per_s=speeds[0],
        redact_call_s_per_s=redact,
    )


def _spread(call_s_per_s: float, factor: float, num_values: int = 21) -> tuple[float, ...]:
    """Costs around 1 / rate, evenly in their logarithm from / factor to x factor."""
    return tuple(factor ** (2 * number / (num_values - 1) - 1) / call_s_per_s for number in range(num_values))


def spec_for(num_gpus: int, assumed: Assumptions) -> RunSpec:
    """A spec that feeds `num_gpus` ASR engines: as many ETL cores and redactors as their rate asks for."""
    wanted = assumed.asr_call_s_per_s * num_gpus
    cores = math.ceil(ETL_HEADROOM * wanted / assumed.etl_call_s_per_s)
    redactors = math.ceil(ETL_HEADROOM * wanted / assumed.redact_call_s_per_s)
    document = {
        "input": {"uri": "s3://BUCKET/calls"},
        "output": {"uri": "s3://BUCKET/results"},
        "asr": {"engine": "whisper_torch", "actors": {"min_actors": 1, "max_actors": num_gpus, "num_gpus": 1}},
        "redact": {"actors": {"min_actors": 1, "max_actors": redactors, "num_cpus": 1}},
        "etl": {
            "spark": {
                "num_executors": math.ceil(cores / CORES_PER_EXECUTOR),
                "cores_per_executor": CORES_PER_EXECUTOR,
                "executor_memory": "16g",
            }
        },
    }
    return parse_spec(document)


def durations_s(total_s: float, seed: int) -> list[float]:
    """Lengths of calls as the corpora have them, `total_s` together."""
    chance = random.Random(seed)
    lengths: list[float] = []
    left_s = total_s
    while left_s > 0:
        lengths.append(corpus.call_length_s(chance))
        left_s -= lengths[-1]
    return lengths


def expect(total_call_s: float, num_gpus: int, assumed: Assumptions, site: Site | None = None) -> Outcome:
    """What the simulation says of that many engines, well fed: the median of several chances."""
    spec = spec_for(num_gpus, assumed)
    partitions = simulation.partitions_of(durations_s(total_call_s, seed=0), spec)
    outcomes = [simulation.simulate(partitions, spec, assumed.rates, site or assumed.site, seed) for seed in SEEDS]
    return simulation.middle(outcomes)


# --------------------------------------------------------------------------------------------------------- measured


def measure(calls: Corpus, num_actors: int, partition_speech_s: float, folder: Path) -> dict[str, Any]:
    """One fused run; its report."""
    out = folder / "out"
    spec = _local_spec(calls.folder, str(out), num_actors, partition_speech_s)
    (folder / "run.yaml").write_text(yaml.safe_dump(spec))
    command = [sys.executable, "-m", "ray_jobs.run", "--spec", str(folder / "run.yaml")]
    done = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise harness.CommandFailedError(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    shutil.rmtree(out)
    return report


def _local_spec(recordings: str, out: str, num_actors: int, partition_speech_s: float) -> dict[str, Any]:
    return {
        "input": {"uri": recordings},
        "output": {"uri": out, "call_files": False},
        "etl": {"partition": {"max_speech_s": partition_speech_s}},
        "asr": {
            "engine": "whisper_torch",
            "actors": {"min_actors": num_actors, "max_actors": num_actors, "num_cpus": 1},
        },
        "llm": {"engine": "none"},
    }


def predict(report: Mapping[str, Any], calls: Corpus, num_actors: int, partition_speech_s: float) -> float:
    """Seconds of work that the simulation, fitted to `report`, expects of a run over other calls."""
    spec = parse_spec(_local_spec(calls.folder, "out", num_actors, partition_speech_s))
    partitions = simulation.partitions_of(corpus.lengths_s(calls), spec)
    rates = simulation.measured_rates(report)
    return simulation.middle([simulation.simulate(partitions, spec, rates, Site(), seed) for seed in SEEDS]).work_s


def measured_scaling(hours: float, all_actors: Sequence[int], folder: Path) -> dict[str, Any]:
    calls = corpus.make_corpus(hours=hours, seed=0)
    rates: dict[int, float] = {}
    for number in sorted(all_actors):
        last = measure(calls, number, _MEASURED_SPEECH_S, folder)
        rates[number] = calls.audio_s / simulation.work_s(last)
        print(f"{number} actors: {rates[number]:.2f} call-s/s", flush=True)
    fewest, most = min(rates), max(rates)
    held_out = corpus.make_corpus(hours=hours, seed=1)
    predicted_s = predict(last, held_out, most, _HELD_OUT_SPEECH_S)
    took_s = simulation.work_s(measure(held_out, most, _HELD_OUT_SPEECH_S, folder))
    print(f"held out: predicted {predicted_s:.1f} s, took {took_s:.1f} s", flush=True)
    return {
        "contestants": {
            f"{number} actors": {
                "call_s_per_s": rate,
                "efficiency": rate / number / (rates[fewest] / fewest),
            }
            for number, rate in rates.items()
        },
        "held_out": {"predicted_s": predicted_s, "measured_s": took_s, "error": predicted_s / took_s - 1},
    }


_MEASURED_SPEECH_S = 120.0
_HELD_OUT_SPEECH_S = 240.0


# -------------------------------------------------------------------------------------------------------- simulated


def simulated_scaling(assumed: Assumptions) -> dict[str, Any]:
    """An hour of work per engine, on ever more of them: the work grows with the cluster."""
    points: dict[str, Any] = {}
    for num_gpus in GPUS:
        total_s = assumed.asr_call_s_per_s * HOUR_S * num_gpus
        outcome = expect(total_s, num_gpus, assumed)
        fullest = max(outcome.busy, key=lambda name: outcome.busy[name])
        points[str(num_gpus)] = {
            "call_hours": total_s / HOUR_S,
            "wall_s": outcome.wall_s,
            "efficiency": total_s / outcome.wall_s / (assumed.asr_call_s_per_s * num_gpus),
            "engines_busy": outcome.asr_busy,
            "tail_s": outcome.tail_s,
            "num_redone": outcome.num_redone,
            "fullest": fullest,
            "busy": {name: round(share, 3) for name, share in outcome.busy.items()},
        }
    return points


def restated(assumed: Assumptions, pod_call_s_per_s: float) -> dict[str, Any]:
    """The replaced workflow's hours on GPUs of ours."""
    total_s = pod_call_s_per_s * assumed.replaced_hours * HOUR_S
    on_gpus = {str(n): expect(total_s, n, assumed).wall_s / HOUR_S for n in RESTATED_GPUS}
    return {"call_hours": total_s / HOUR_S, "replaced_hours": assumed.replaced_hours, "hours_on_gpus": on_gpus}


def curves(simulated: Mapping[str, Any]) -> dict[str, Any]:
    lines = {
        name: [[int(num_gpus), point[key]] for num_gpus, point in simulated.items()]
        for name, key in (("of the whole run", "efficiency"), ("engines busy", "engines_busy"))
    }
    title = "Simulated, an hour of work per GPU"
    return {title: {"x": "GPUs", "y": "share", "x_scale": "log", "lines": lines}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=0.3, help="of calls in each measured corpus")
    parser.add_argument("--actors", type=int, nargs="*", default=[*range(1, (os.cpu_count() or 1) + 1)])
    parser.add_argument("--assumptions", type=Path, default=ASSUMPTIONS)
    parser.add_argument("--pod-rate", type=float, default=5.0, help="seconds of calls per second of one replaced pod")
    options = parser.parse_args()
    assumed = load_assumptions(options.assumptions)
    result: dict[str, Any] = {"benchmark": "scale"}
    if options.actors:
        with tempfile.TemporaryDirectory() as folder:
            result |= measured_scaling(options.hours, options.actors, Path(folder))
    simulated = simulated_scaling(assumed)
    result |= {"simulated": simulated, "replaced": restated(assumed, options.pod_rate), "curves": curves(simulated)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
