"""python -m benchmarks run|compare|table|plot|corpus|plan: what it costs, beside what else one could do."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import corpus, figures, harness, planner, scale
from kuberay.errors import InvalidSpecError

SUITES = {
    "airflow": "benchmarks.airflow",
    "etl": "benchmarks.etl",
    "handoff": "benchmarks.handoff",
    "asr": "benchmarks.asr",
    "listing": "benchmarks.listing",
    "llm": "benchmarks.llm",
    "pipeline": "benchmarks.pipeline",
    "planning": "benchmarks.planning",
    "redaction": "benchmarks.redaction",
    "scale": "benchmarks.scale",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 a benchmark failed."""
    options, rest = _parser().parse_known_args(arguments)
    if rest and options.command is not _run:
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    status: int = options.command(options, rest)
    return status


def _run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Run a suite as a process of its own, show what it prints, keep its last line with the circumstances."""
    command = [sys.executable, "-m", SUITES[options.suite], *rest]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # what it says is shown as it says it
    process = subprocess.Popen(command, cwd=harness.ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        print(last, end="", flush=True)  # the last one is shown when it has been kept
        last = line
    if process.wait() != 0:
        print(last, end="")
        return 1
    result: dict[str, Any] = json.loads(last)
    path = harness.keep(options.suite, {"command": " ".join(["python", *command[1:]]), **result}, options.results)
    print(f"kept in {path}", file=sys.stderr)
    print(json.dumps(result))
    return 0


def _compare(options: argparse.Namespace, _rest: Sequence[str]) -> int:
    one, other = (json.loads(path.read_text()) for path in (options.one, options.other))
    print(figures.comparison(one, other, names=(options.one.stem, options.other.stem)))
    return 0


def _table(options: argparse.Namespace, _rest: Sequence[str]) -> int:
    print(figures.table(json.loads(options.result.read_text())))
    return 0


def _plot(options: argparse.Namespace, _rest: Sequence[str]) -> int:
    result = json.loads(options.result.read_text())
    print(figures.plot(result, options.output or options.result.with_suffix(".png")))
    return 0


def _corpus(options: argparse.Namespace, _rest: Sequence[str]) -> int:
    if options.manifest:
        corpus.write_manifest(options.manifest, options.calls, options.seed)
        print(json.dumps({"manifest": str(options.manifest), "num_calls": options.calls}))
        return 0
    made = corpus.make_corpus(hours=options.hours, seed=options.seed, speech_folder=options.speech)
    print(
        json.dumps({name: getattr(made, name) for name in ("folder", "num_calls", "audio_s", "silent_share", "seed")})
    )
    return 0


def _plan(options: argparse.Namespace, _rest: Sequence[str]) -> int:
    try:
        assumed = scale.load_assumptions(options.assumptions)
        shapes = planner.plan(options.hours * 3600, assumed)
        chosen = planner.choose(shapes, deadline_h=options.deadline, budget_usd=options.budget)
        document = planner.write(options.output, shapes, chosen, assumed, options.profile)
    except (planner.NoShapeError, InvalidSpecError, OSError, KeyError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(planner.as_text(planner.front(shapes), chosen))
    print(f"run.yaml, cluster.yaml, plan.json and front.png are in {options.output}")
    print(json.dumps({"benchmark": "plan", **document["recommended"]}))
    return 0


def _hours(text: str) -> float:
    """8h, 45m or 2d."""
    units = {"m": 1 / 60, "h": 1.0, "d": 24.0}
    if text[-1:] not in units:
        raise argparse.ArgumentTypeError(f"{text}: give minutes, hours or days, as 45m, 8h or 2d")
    return float(text[:-1]) * units[text[-1]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run a suite; what follows its name goes to it (SUITE --help)")
    run.add_argument("suite", choices=SUITES)
    run.add_argument("--results", type=Path, default=harness.RESULTS, help="folder of results")
    run.set_defaults(command=_run)
    compare = commands.add_parser("compare", help="two results of one suite side by side, with ratios")
    compare.add_argument("one", type=Path, metavar="A.json")
    compare.add_argument("other", type=Path, metavar="B.json")
    compare.set_defaults(command=_compare)
    table = commands.add_parser("table", help="a result as a Markdown table")
    table.add_argument("result", type=Path)
    table.set_defaults(command=_table)
    plot = commands.add_parser("plot", help="a result as a PNG")
    plot.add_argument("result", type=Path)
    plot.add_argument("--output", type=Path)
    plot.set_defaults(command=_plot)
    calls = commands.add_parser("corpus", help="make calls to measure with, or a manifest to plan with")
    calls.add_argument("--hours", type=float, default=1.0)
    calls.add_argument("--seed", type=int, default=0)
    calls.add_argument("--speech", type=Path, help="folder of recordings with a manifest.tsv, beside the sample calls")
    calls.add_argument("--manifest", type=Path, help="write a CSV of --calls calls that need not exist")
    calls.add_argument("--calls", type=int, default=10_000)
    calls.set_defaults(command=_corpus)
    plan = commands.add_parser("plan", help="which cluster for so many hours of calls, and what it costs")
    plan.add_argument("--hours", type=float, required=True, help="hours of calls")
    plan.add_argument("--deadline", type=_hours, help="as 45m, 8h or 2d: the cheapest cluster that keeps it")
    plan.add_argument("--budget", type=float, help="USD: the fastest cluster within it; with --deadline, both hold")
    plan.add_argument("--profile", default="standard", help="cluster profile to size, or a cluster.yaml")
    plan.add_argument("--assumptions", type=Path, default=scale.ASSUMPTIONS, help="rates, prices, start-up times")
    plan.add_argument("--output", type=Path, default=Path("plan"))
    plan.set_defaults(command=_plan)
    return parser


if __name__ == "__main__":
    sys.exit(main())
