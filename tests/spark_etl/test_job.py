"""What the Spark side says of a partition it has prepared, and how it is had from there."""

from dataclasses import replace

import pyarrow as pa
import pytest
from ray.exceptions import RayActorError, RayError, RayTaskError

from ray_jobs.errors import RetryableError
from ray_jobs.records import CallAudio, Failure, Span, audio_to_table
from spark_etl import job
from spark_etl.job import CachedWave, etl_event

WAVE = CachedWave(rdd_id=1, executors=("1", "2"), schema_json="{}", driver_agent_url="")
NOT_UP = RayError(
    "An exception raised from JAVA:\n\tat io.ray.runtime.task\n"
    'Caused by: java.lang.NullPointerException: "env" is null\n\tat org.apache.spark'
)

AUDIO = CallAudio(
    call_id="a",
    uri="/a.wav",
    duration_s=10.0,
    sample_rate_hz=8000,
    num_channels=1,
    spans=(Span(channel=0, start_sample=0, num_samples=16_000),),
    pcm=b"\0" * 32_000,
)


def test_a_duplicate_counts_as_a_call_and_neither_as_audio_nor_as_a_failure() -> None:
    copy = replace(AUDIO, call_id="b", spans=(), pcm=b"", duplicate_of="a")
    bad = Failure(call_id="c", uri="/c.wav", code="truncated", stage="etl", reason="half is missing")
    table = audio_to_table([AUDIO, copy, bad])
    where = {"partition_id": "p", "start_unix_s": 1.0, "end_unix_s": 2.0, "worker": "w"}
    for name, value in where.items():
        table = table.append_column(name, pa.array([value] * table.num_rows))
    event = etl_event(table)
    assert (event.num_calls, event.num_failed, event.audio_s, event.speech_s) == (3, 1, 10.0, 2.0)


def test_a_partition_is_had_from_whichever_executor_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first has just been restarted: it answers before Spark is up in it. The second dies, and comes back."""
    answers = {"first": [NOT_UP, NOT_UP], "second": [RayActorError(), audio_to_table([AUDIO])]}

    def asked(executor: str, _wave: CachedWave, _index: int) -> pa.Table:
        answer = answers[executor].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(job, "_asked", asked)
    monkeypatch.setattr(job, "FETCH_PAUSE_S", 0.0)
    table, _ = job._fetch(WAVE, 0, ("first", "second"), None)
    assert table["call_id"].to_pylist() == ["a"]


def test_a_partition_no_executor_gives_is_an_error_with_javas_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> pa.Table:
        raise NOT_UP

    monkeypatch.setattr(job, "_asked", asked)
    monkeypatch.setattr(job, "FETCH_PATIENCE_S", 0.1)
    monkeypatch.setattr(job, "FETCH_PAUSE_S", 0.01)
    with pytest.raises(RetryableError, match="of a wave: Caused by: java"):
        job._fetch(WAVE, 3, ("first",), None)


def test_an_error_that_ray_brought_with_its_traceback_is_told_by_its_last_line() -> None:
    died = Exception("Java gateway process exited before sending its port number")
    brought = RayTaskError("start_up", f"ray::start_up() (pid=1)\n  File a.py, line 1\nException: {died}", died)
    said = job.explain(brought)
    assert said.startswith("Exception: Java gateway process exited")
    assert "JDK_JAVA_OPTIONS" in said
    assert "\n" not in said
