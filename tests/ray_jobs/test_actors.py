"""Actors on real Ray: a call that kills its actor becomes one failure, and its neighbours succeed."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from ray_jobs import handoff, records, runtime
from ray_jobs.actors import Redact, summarise
from ray_jobs.ledger import Partition
from ray_jobs.pipeline import _stage
from ray_jobs.records import CallAudio, Failure, Span, Transcript
from ray_jobs.spec import RunSpec
from spark_etl.job import WAVE_SCHEMA
from tests.ray_jobs.deadly_engine import DEADLY_SAMPLE, DeadlyTranscribe
from tests.ray_jobs.outputs import a_call, a_transcript, commit, spec_for

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    return spec_for(tmp_path_factory.mktemp("actors"), llm={"engine": "none"})


@pytest.fixture(scope="module", autouse=True)
def cluster(spec: RunSpec) -> Iterator[None]:
    runtime.prepare_environment()
    with runtime.ray_cluster(spec, spec.stages):
        yield


def audio(call_id: str, sample: int) -> CallAudio:
    """A second of one sample value."""
    pcm = np.full(8_000, sample, "<i2").tobytes()
    span = Span(channel=0, start_sample=0, num_samples=8_000)
    return CallAudio(
        call_id=call_id, uri=call_id, duration_s=1.0, sample_rate_hz=8_000, num_channels=1, spans=(span,), pcm=pcm
    )


def prepared(partition_id: str, rows: list[CallAudio | Failure]) -> pa.Table:
    """What Spark would hand over."""
    table = records.audio_to_table(rows)
    for name, value in {"partition_id": partition_id, "start_unix_s": 0.0, "end_unix_s": 1.0, "worker": "test"}.items():
        table = table.append_column(WAVE_SCHEMA.field(name), pa.array([value] * table.num_rows))
    return table


def test_a_call_that_kills_its_actor_is_the_only_one_lost(spec: RunSpec) -> None:
    ids = ["a", "deadly", "b"]
    partition = Partition(partition_id="p-1", calls=tuple(a_call(call_id) for call_id in ids))
    board = handoff.start_board([partition], max_uncommitted=1)
    table = prepared("p-1", [audio(i, DEADLY_SAMPLE if i == "deadly" else 5) for i in ids])
    ray.get(board.post.remote("p-1", [ray.put(table)]))
    outcomes = _stage(handoff.read_tickets(board, [partition], 1), DeadlyTranscribe, spec.asr.actors, spec, board)
    (found,) = [records.table_to_outcomes(t.drop_columns(["partition_id"])) for t in ray.get(outcomes.to_arrow_refs())]
    assert [outcome.call_id for outcome in found] == ids
    lost = found[1]
    assert isinstance(lost, Failure)
    assert (lost.code, lost.stage) == ("asr_crashed", "asr")
    assert all(isinstance(found[i], Transcript) for i in (0, 2))
    assert "died of call deadly" in " ".join(ray.get(board.warnings.remote(0)))


def test_redaction_run_again_after_its_commit_passes_on_what_was_stored(spec: RunSpec) -> None:
    partition = commit(spec, [a_transcript("a", "[PERSON_1]")])
    board = handoff.start_board([partition], max_uncommitted=1)
    ray.get(board.commit.remote(partition.partition_id))
    redact = Redact.__new__(Redact)  # no recognisers: nothing is left for them to do
    redact._spec, redact._board = spec, board
    unredacted = records.outcomes_to_table([replace(a_transcript("a", "Helen"), redacted=False)])
    passed_on = redact(unredacted.append_column("partition_id", pa.array([partition.partition_id])))
    assert records.table_to_outcomes(passed_on.drop_columns(["partition_id"])) == [a_transcript("a", "[PERSON_1]")]


def test_a_plan_that_cannot_be_placed_is_refused(spec: RunSpec) -> None:
    greedy = spec.model_copy(
        update={"asr": spec.asr.model_copy(update={"actors": spec.asr.actors.model_copy(update={"num_gpus": 2.0})})}
    )
    with pytest.raises(runtime.FatalError, match="the stages need 2 GPU slots to start and the cluster has 0"):
        runtime._check_placeable(greedy, greedy.stages, ray.cluster_resources())


def test_the_end_of_the_pipeline_counts_outcomes(tmp_path: Path) -> None:
    failure = Failure(call_id="b", uri="b", code="empty", stage="etl", reason="r")
    table = records.outcomes_to_table([failure]).append_column("partition_id", pa.array(["p-1"]))
    assert summarise(table).to_pylist() == [{"partition_id": "p-1", "num_calls": 1, "num_failed": 1}]
