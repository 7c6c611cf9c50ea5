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
from ray_jobs import storage

URIS = ("input", "output")


@task
def days(params: Any = None) -> list[dict[str, str]]:
    """The date, the command and the output of each day with recordings, first and last day included."""
    first, last = (date.fromisoformat(params[key]) for key in ("first_day", "last_day"))
    if last < first:
        raise ValueError(f"last_day {last} is before first_day {first}")
    if not all("{date}" in params[key] for key in URIS):
        raise ValueError("input and output need {date} where the day stands")
    dates = [str(first + timedelta(days=index)) for index in range((last - first).days + 1)]
    forms = {day: {**params, **{key: params[key].replace("{date}", day) for key in URIS}} for day in dates}
    quiet = [day for day, form in forms.items() if not any(storage.list_objects(storage.normalise(form["input"])))]
    print(f"days without recordings, left out: {', '.join(quiet) or 'none'}")
    return [
        {"date": day, "entrypoint": command("ray_jobs.run", forms[day]), "output": forms[day]["output"]}
        for day in dates
        if day not in quiet
    ]


@task_group
def day(date: str, entrypoint: str, output: str) -> None:
    run = RayJobOperator(
        task_id="run",
        entrypoint=entrypoint,
        cluster="{{ params.profile }}",
        pool="asr_backfill",
        job={"metadata": {"date": date}},
        map_index_template="{{ task.job.metadata.date }}",
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
