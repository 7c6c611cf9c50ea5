"""The second of the staged jobs: stored partitions in, committed transcripts out. Lists recordings, and reads none.

python -m ray_jobs.transcribe --spec run.yaml
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from ray_jobs import staged, storage
from ray_jobs.cli import run_job
from ray_jobs.intermediate import Intermediate
from ray_jobs.ledger import Ledger
from ray_jobs.run import Flow, check_stages, describe, execute, new_run_id
from ray_jobs.spec import RunSpec
from spark_etl.plan import make_plan

STAGES = ("asr", "redact")


def main(arguments: Sequence[str] | None = None) -> int:
    about = "Transcribe and redact the partitions that ray_jobs.preprocess stored, for ray_jobs.postprocess."
    return run_job(transcribe, "ray_jobs.transcribe", about, arguments)


def transcribe(spec: RunSpec, *, dry_run: bool = False, retry_failed: bool = False) -> int:
    """Transcribe every prepared partition. Returns the exit code.

    Raises FatalError where ray_jobs.preprocess has to come first, and as `run.run` does.
    """
    began_unix_s = time.time()
    ledger = Ledger(storage.normalise(spec.output.uri))
    intermediate = Intermediate(spec)
    if not dry_run:
        intermediate.sweep()
    plan = make_plan(spec, ledger, retry_failed=retry_failed)
    prepared = staged.check_prepared(spec, plan)
    staged.say_unplanned(plan)
    plan = replace(plan, partitions=staged.open_partitions(plan), analyse_only=(), insights_to_redo=())
    check_stages(spec, STAGES)
    if dry_run:
        print(describe(spec, plan, STAGES))
        return 0
    if plan.nothing_to_do:
        print("nothing to do: every planned call is transcribed; ray_jobs.postprocess is next", file=sys.stderr)
        return 0
    run_id = new_run_id(began_unix_s)

    def from_parquet() -> Flow:
        from ray_jobs.pipeline import Pipeline
        from ray_jobs.sources import ParquetSource

        return Pipeline(spec, plan, ledger, run_id, STAGES, ParquetSource(intermediate, prepared))

    staged.keep(execute(spec, plan, STAGES, run_id, from_parquet), "transcribe", ledger)
    print(f"{len(plan.partitions):,} partitions are transcribed: ray_jobs.postprocess is next", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
