"""The last of the staged jobs: analyses from the committed transcripts, then the outputs settled and the report.

python -m ray_jobs.postprocess --spec run.yaml
"""

import sys
import time
from collections.abc import Sequence

from ray_jobs import staged, storage
from ray_jobs.cli import run_job
from ray_jobs.intermediate import Intermediate
from ray_jobs.ledger import Ledger
from ray_jobs.run import (
    Flow,
    Measured,
    check_stages,
    conclude,
    count,
    describe,
    execute,
    new_run_id,
    write_report,
)
from ray_jobs.settle import settle
from ray_jobs.spec import RunSpec
from spark_etl.plan import make_plan, persist

STAGES = ("analyse",)


def main(arguments: Sequence[str] | None = None) -> int:
    about = "Analyse what ray_jobs.transcribe committed, settle the outputs and write the report."
    return run_job(postprocess, "ray_jobs.postprocess", about, arguments)


def postprocess(spec: RunSpec, *, dry_run: bool = False, retry_failed: bool = False) -> int:
    """Analyse, settle, report. Returns the exit code.

    Raises FatalError where another job has to come first, and as `run.run` does.
    """
    began_unix_s = time.time()
    ledger = Ledger(storage.normalise(spec.output.uri))
    if not dry_run:
        Intermediate(spec).sweep()
    plan = make_plan(spec, ledger, retry_failed=retry_failed)
    staged.check_transcribed(spec, plan)
    staged.say_unplanned(plan)
    plan = staged.without_unplanned(plan, ledger)
    stages = STAGES if spec.analyses else ()
    check_stages(spec, stages)
    if dry_run:
        print(describe(spec, plan, stages))
        return 0
    storage.check_writable(ledger.output_uri)
    run_id = new_run_id(began_unix_s)
    measured = Measured()
    if not plan.nothing_to_do:
        persist(plan, ledger)

        def analyses() -> Flow:
            from ray_jobs.pipeline import Pipeline

            return Pipeline(spec, plan, ledger, run_id, stages, None)

        measured = execute(spec, plan, stages, run_id, analyses)
    settle(ledger, plan.fingerprints["redact"])
    whole = staged.together([*staged.kept(ledger), measured])
    began_unix_s = min([began_unix_s, *(startup.start_unix_s for startup in whole.startups)])
    report = count(spec, staged.before(plan, whole, ledger), ledger, run_id, began_unix_s, whole)
    if whole.events or not storage.exists(storage.join(ledger.output_uri, "report.json")):
        write_report(report, ledger)  # jobs that did nothing leave the report of those that did
    staged.forget(ledger)
    return conclude(report, ledger)


if __name__ == "__main__":
    sys.exit(main())
