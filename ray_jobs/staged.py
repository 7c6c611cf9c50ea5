"""What the three staged jobs share: which of them has to come next, and what they measured, kept for the report."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from ray_jobs import storage
from ray_jobs.errors import FatalError
from ray_jobs.intermediate import Intermediate
from ray_jobs.ledger import FOLDER, Ledger, Partition
from ray_jobs.records import StageEvent, StartUp
from ray_jobs.run import Measured
from ray_jobs.spec import RunSpec
from spark_etl.plan import Plan

MEASURED = "measured"
EARLIER_JOBS = ("preprocess", "transcribe")


def open_partitions(plan: Plan) -> tuple[Partition, ...]:
    """The partitions that `ray_jobs.preprocess` laid out and nobody has transcribed yet."""
    return tuple(partition for partition in plan.partitions if partition.partition_id in plan.resumed)


def check_prepared(spec: RunSpec, plan: Plan) -> Mapping[str, str]:
    """Where the audio of the open partitions is. Raises FatalError where ray_jobs.preprocess has to come first."""
    if not plan.resumed and not plan.done:
        raise FatalError(
            f"none of the {len(plan.calls):,} recordings is planned under this spec: "
            "run ray_jobs.preprocess first, with the same spec and options"
        )
    intermediate = Intermediate(spec)
    prepared = intermediate.prepared()
    missing = plan.resumed - prepared.keys()
    if missing:
        raise FatalError(
            f"{len(missing):,} of {len(plan.resumed):,} planned partitions are not in {intermediate.uri}: run "
            f"ray_jobs.preprocess first (audio older than {spec.intermediate.lifetime_days:g} days is deleted)"
        )
    return prepared


def check_transcribed(spec: RunSpec, plan: Plan) -> None:
    """Raises FatalError where ray_jobs.transcribe, or ray_jobs.preprocess before it, has to come first."""
    check_prepared(spec, plan)
    if plan.resumed:
        raise FatalError(f"{len(plan.resumed):,} planned partitions are not transcribed: run ray_jobs.transcribe first")


def say_unplanned(plan: Plan) -> None:
    """Tell how many recordings came, or changed, after ray_jobs.preprocess."""
    num_calls = sum(len(p.calls) for p in plan.partitions if p.partition_id not in plan.resumed)
    if num_calls:
        line = (
            f"{num_calls:,} new, changed or failed recordings are not planned: the next ray_jobs.preprocess takes them"
        )
        print(line, file=sys.stderr)


def without_unplanned(plan: Plan, ledger: Ledger) -> Plan:
    """The plan without calls that were never planned; one that has an outcome from before keeps it."""
    fresh = {c.call_id for p in plan.partitions if p.partition_id not in plan.resumed for c in p.calls}
    markers = [m for m in ledger.load_markers("transcripts") if m.fingerprint == plan.fingerprints["redact"]]
    committed = {state.call_id for marker in markers for state in marker.calls}
    calls = tuple(call for call in plan.calls if call.call_id not in fresh or call.call_id in committed)
    return replace(plan, calls=calls, partitions=open_partitions(plan))


def before(plan: Plan, measured: Measured, ledger: Ledger) -> Plan:
    """The plan as it was before the staged jobs: what they transcribed was not done."""
    transcribed = {event.partition_id for event in measured.events if event.stage == "redact"}
    markers = [marker for marker in ledger.load_markers("transcripts") if marker.partition_id in transcribed]
    return replace(plan, done=plan.done - {state.call_id for marker in markers for state in marker.calls})


# ------------------------------------------------------------------------------------------------ what was measured


def keep(measured: Measured, job: str, ledger: Ledger) -> None:
    """Store what a job measured for the report of `ray_jobs.postprocess`."""
    storage.write_bytes(_uri(job, ledger), json.dumps(asdict(measured)).encode())


def kept(ledger: Ledger) -> list[Measured]:
    """What the earlier jobs measured since the last report, in their order."""
    found = []
    for job in EARLIER_JOBS:
        try:
            document = json.loads(storage.read_bytes(_uri(job, ledger)))
        except FileNotFoundError:
            continue
        found.append(
            Measured(
                events=[StageEvent(**event) for event in document["events"]],
                warnings=document["warnings"],
                startups=[StartUp(**startup) for startup in document["startups"]],
                peak_memory_bytes=document["peak_memory_bytes"],
            )
        )
    return found


def together(parts: Sequence[Measured]) -> Measured:
    """The measurements of jobs that ran one after the other, as if one had done it all."""
    peaks = [part.peak_memory_bytes for part in parts if part.peak_memory_bytes is not None]
    return Measured(
        # What ETL did travels with its partition: the job that transcribes it tells it once more.
        events=list(dict.fromkeys(event for part in parts for event in part.events)),
        warnings=[warning for part in parts for warning in part.warnings],
        startups=[startup for part in parts for startup in part.startups],
        peak_memory_bytes=max(peaks, default=None),
    )


def forget(ledger: Ledger) -> None:
    """Remove what is reported."""
    for job in EARLIER_JOBS:
        storage.delete(_uri(job, ledger))


def _uri(job: str, ledger: Ledger) -> str:
    return storage.join(ledger.output_uri, FOLDER, MEASURED, f"{job}.json")
