"""Years of recordings, one Ray job per day, a few at a time.

Recordings and results lie in one folder per day; write {date} where the day stands in the URIs. A day that is done
costs seconds, so a backfill may be run again over the same dates.

How many days run at once is the size of the pool `asr_backfill`, which must count deferred tasks:
`airflow pools set asr_backfill 4 "Ray clusters at once" --include-deferred`
"""

from datetime import date, timedelta
from typing import Any

from airflow.sdk import Param, task, task_group
from asr_factory import RAY, command, speech_dag, verify

from kuberay.operators import RayJobOperator


@task
def days(params: Any = None) -> list[dict[str, str]]:
    """The command and the output of each day, first and last day included."""
    first, last = (date.fromisoformat(params[key]) for key in ("first_day", "last_day"))
    if last < first:
        raise ValueError(f"last_day {last} is before first_day {first}")
    if "{date}" not in params["input"] or "{date}" not in params["output"]:
        raise ValueError("input and output need {date} where the day stands")
    dates = [str(first + timedelta(days=index)) for index in range((last - first).days + 1)]
    forms = [{**params, **{key: params[key].replace("{date}", day) for key in ("input", "output")}} for day in dates]
    return [{"entrypoint": command("ray_jobs.run", form), "output": form["output"]} for form in forms]


@task_group
def day(entrypoint: str, output: str) -> None:
    run = RayJobOperator(
        task_id="run",
        entrypoint=entrypoint,
        cluster="{{ params.profile }}",
        pool="asr_backfill",
        map_index_template="{{ task.entrypoint }}",
        **RAY,
    )
    run >> verify(output)


with speech_dag(
    "asr_backfill",
    "Transcribe, redact and analyse years of calls, day by day",
    __doc__,
    first_day=Param(str(date.today() - timedelta(days=7)), type="string", format="date", title="First day"),
    last_day=Param(str(date.today() - timedelta(days=1)), type="string", format="date", title="Last day"),
):
    day.expand_kwargs(days())
