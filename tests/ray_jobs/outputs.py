"""Small outcomes and committed outputs for tests."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from ray_jobs.ledger import Ledger, Partition, make_partition
from ray_jobs.records import Call, Failure, Insight, Outcome, Transcript, Utterance, Word
from ray_jobs.sinks import Sink
from ray_jobs.spec import RunSpec, parse_spec


def spec_for(output: Path, **sections: object) -> RunSpec:
    return parse_spec({"input": {"uri": "calls"}, "output": {"uri": str(output)}, **sections})


def a_call(call_id: str, version: str = "1") -> Call:
    uri = f"/calls/{call_id}.wav"
    return Call(call_id=call_id, uri=uri, source=uri, size_bytes=1, version=version, expected_speech_s=1.0)


def a_transcript(call_id: str, text: str = "hello") -> Transcript:
    words = (Word(text=text, start_s=0.0, end_s=1.0, probability=0.5),)
    utterance = Utterance(
        channel=0,
        role="agent",
        start_s=0.0,
        end_s=1.0,
        text=text,
        language="en",
        avg_logprob=-0.5,
        no_speech_prob=0.0,
        words=words,
    )
    return Transcript(
        call_id=call_id,
        uri=f"/calls/{call_id}.wav",
        duration_s=2.0,
        speech_s=1.0,
        num_channels=1,
        language="en",
        asr_model="m",
        redacted=True,
        utterances=(utterance,),
    )


def a_failure(call_id: str, code: str = "vanished") -> Failure:
    return Failure(call_id=call_id, uri=f"/calls/{call_id}.wav", code=code, stage="etl", reason="gone")


def an_insight(call_id: str, status: str = "ok") -> Insight:
    return Insight(
        call_id=call_id,
        task="summary",
        status=status,
        value_json='{"summary": "s"}' if status == "ok" else "",
        error="" if status == "ok" else "broke the schema",
        model="m",
        prompt_version="summary/v1",
        prompt_hash="0",
        prompt_tokens=1,
        completion_tokens=1,
    )


def commit(spec: RunSpec, outcomes: Sequence[Outcome], run_id: str = "run1", replaces: str = "") -> Partition:
    """Commit outcomes as one partition of the spec's run."""
    calls = [a_call(outcome.call_id) for outcome in outcomes]
    fingerprint = spec.fingerprints()["redact"]
    partition = make_partition(calls, fingerprint, {call.call_id: replaces for call in calls})
    Sink(spec, run_id).commit_transcripts(partition, outcomes)
    return partition


def rows(output: Path, folder: str) -> list[str]:
    """The call ids in OUTPUT/folder/*.parquet, as a reader of the folder sees them."""
    return sorted(i for path in (output / folder).glob("*.parquet") for i in pq.read_table(path)["call_id"].to_pylist())


def ledger_of(output: Path) -> Ledger:
    return Ledger(str(output))
