"""What the Spark side says of a partition it has prepared."""

from dataclasses import replace

import pyarrow as pa

from ray_jobs.records import CallAudio, Failure, Span, audio_to_table
from spark_etl.job import etl_event

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
