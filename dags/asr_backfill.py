"""Years of recordings, one Ray job per day, a few at a time.

Recordings and results lie in one folder per day; write {date} where the day stands in the URIs. A day that is done
costs seconds, so a backfill may be run again over the same dates.

How many days run at once is the size of the pool `asr_backfill`, which must count deferred tasks:
`airflow pools set asr_backfill 4 "Ray clusters at once" --include-deferred`
"""

import shlex
from datetime import date, timedelta
from typing import Any

from airflow.sdk import DAG, Param, task
from asr_factory import FILTERS, RAY, form

from kuberay.operators import RayJobOperator


@task
def commands(params: Any = None) -> list[str]:
    """One command per day, first and last day included."""
    first, last = (date.fromisoformat(params[key]) for key in ("first_day", "last_day"))
    if last < first:
        raise ValueError(f"last_day {last} is before first_day {first}")
    if "{date}" not in params["input"] or "{date}" not in params["output"]:
        raise ValueError("input and output need {date} where the day stands")
    days = [first + timedelta(days=index) for index in range((last - first).days + 1)]
    spec = ["--spec", params["spec"]] if params["spec"] else []
    return [
        shlex.join(
            [
                *("python", "-m", "ray_jobs.run"),
                *("--input", params["input"].replace("{date}", str(day))),
                *("--output", params["output"].replace("{date}", str(day))),
                *spec,
            ]
        )
        for day in days
    ]


with DAG(
    "asr_backfill",
    description="Transcribe, redact and analyse years of calls, day by day",
    schedule=None,
    catchup=False,
    params=form(
        first_day=Param(str(date.today() - timedelta(days=7)), type="string", format="date", title="First day"),
        last_day=Param(str(date.today() - timedelta(days=1)), type="string", format="date", title="Last day"),
    ),
    user_defined_filters=FILTERS,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
    tags=["speech"],
    doc_md=__doc__,
):
    RayJobOperator.partial(
        task_id="run",
        cluster="{{ params.profile }}",
        pool="asr_backfill",
        map_index_template="{{ task.entrypoint }}",
        **RAY,
    ).expand(entrypoint=commands())
