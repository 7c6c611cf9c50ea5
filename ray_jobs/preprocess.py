"""The first of the staged jobs: recordings in, stored partitions of speech out. Needs Spark and no model.

python -m ray_jobs.preprocess --spec run.yaml
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from ray_jobs import staged, storage
from ray_jobs.cli import run_job
from ray_jobs.intermediate import Intermediate
from ray_jobs.ledger import Ledger
from ray_jobs.run import Flow, describe, execute, new_run_id
from ray_jobs.spec import RunSpec
from spark_etl.plan import make_plan, persist

STAGES = ("etl",)


def main(arguments: Sequence[str] | None = None) -> int:
    about = "Turn recordings into stored partitions of speech, for ray_jobs.transcribe."
    return run_job(preprocess, "ray_jobs.preprocess", about, arguments)


def preprocess(spec: RunSpec, *, dry_run: bool = False, retry_failed: bool = False) -> int:
    """Plan, and prepare what is neither transcribed nor prepared. Returns the exit code; raises as `run.run` does."""
    began_unix_s = time.time()
    ledger = Ledger(storage.normalise(spec.output.uri))
    intermediate = Intermediate(spec)
    if not dry_run:
        intermediate.sweep()
    plan = replace(make_plan(spec, ledger, retry_failed=retry_failed), analyse_only=(), insights_to_redo=())
    prepared = intermediate.prepared()
    unprepared = replace(plan, partitions=tuple(p for p in plan.partitions if p.partition_id not in prepared))
    if dry_run:
        print(describe(spec, unprepared, STAGES))
        return 0
    storage.check_writable(ledger.output_uri)
    if spec.intermediate.uri:
        storage.check_writable(intermediate.uri)
    if unprepared.nothing_to_do:
        num_ready = len(plan.partitions)
        print(f"nothing to do: {num_ready:,} partitions are ready for ray_jobs.transcribe", file=sys.stderr)
        return 0
    persist(plan, ledger)
    run_id = new_run_id(began_unix_s)

    def etl_alone() -> Flow:
        from ray_jobs.preparation import Preparation

        return Preparation(spec, unprepared, run_id)

    staged.keep(execute(spec, unprepared, STAGES, run_id, etl_alone), "preprocess", ledger)
    print(
        f"{len(plan.partitions):,} partitions are in {intermediate.uri}: ray_jobs.transcribe is next", file=sys.stderr
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
