"""Actors on real Ray: a call that kills its actor becomes one failure, and its neighbours succeed."""

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from ray_jobs import handoff, records, runtime
from ray_jobs.actors import LOAD_NICENESS, Analyse, Gate, Redact, Transcribe, _giving_way
from ray_jobs.board import start_board
from ray_jobs.ledger import Partition
from ray_jobs.pipeline import _stage
from ray_jobs.records import CallAudio, Failure, Span, table_to_insights
from ray_jobs.spec import RunSpec
from spark_etl.job import WAVE_SCHEMA
from tests.ray_jobs.deadly_engine import DEADLY_SAMPLE, SLOW_SAMPLE, DeadlyTranscribe
from tests.ray_jobs.endpoint_server import COMPLETION_TOKENS, PROMPT_TOKENS, endpoint
from tests.ray_jobs.engines import tones
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
    """Two partitions are in the actor at once: the one that dies of its neighbour is given out again whole."""
    samples = {"p-1": {"a": 5, "deadly": DEADLY_SAMPLE, "b": 5}, "p-2": {"c": SLOW_SAMPLE, "d": SLOW_SAMPLE}}
    partitions = [Partition(partition_id=p, calls=tuple(map(a_call, calls))) for p, calls in samples.items()]
    board = start_board(partitions, max_uncommitted=2)
    for partition_id, calls in samples.items():
        table = prepared(partition_id, [audio(call_id, sample) for call_id, sample in calls.items()])
        ray.get(board.post.remote(partition_id, [ray.put(table)]))
    tickets = handoff.read_tickets(board, partitions, 2)
    stream = _stage(tickets, DeadlyTranscribe, spec.asr.actors, spec, board, concurrent_calls=2)
    tables = {table["partition_id"][0].as_py(): table for table in ray.get(stream.to_arrow_refs())}
    found = {p: records.table_to_outcomes(table.drop_columns(["partition_id"])) for p, table in tables.items()}
    assert {p: [outcome.call_id for outcome in outcomes] for p, outcomes in found.items()} == {
        p: list(calls) for p, calls in samples.items()
    }
    (lost,) = [outcome for outcomes in found.values() for outcome in outcomes if isinstance(outcome, Failure)]
    assert (lost.call_id, lost.code, lost.stage) == ("deadly", "asr_crashed", "asr")
    assert "died of call deadly" in " ".join(ray.get(board.warnings.remote(0)))


class TestGate:
    def test_lets_two_in_at_once(self) -> None:
        gate = Gate()
        with gate.enter(alone=False):
            assert self.enter(gate, alone=False).wait(10)

    @pytest.mark.parametrize(("inside", "outside"), [(True, False), (False, True), (True, True)])
    def test_one_that_is_to_be_alone_is_alone(self, inside: bool, outside: bool) -> None:
        gate = Gate()
        with gate.enter(alone=inside):
            entered = self.enter(gate, alone=outside)
            assert not entered.wait(0.1)
        assert entered.wait(10)

    @staticmethod
    def enter(gate: Gate, *, alone: bool) -> threading.Event:
        """Somebody else wants in; the event is set once they are."""
        entered = threading.Event()

        def enter() -> None:
            with gate.enter(alone=alone):
                entered.set()

        threading.Thread(target=enter, daemon=True).start()
        return entered


def test_redaction_run_again_after_its_commit_passes_on_what_was_stored(spec: RunSpec) -> None:
    partition = commit(spec, [a_transcript("a", "[PERSON_1]")])
    board = start_board([partition], max_uncommitted=1)
    ray.get(board.commit.remote(partition.partition_id))
    redact = Redact.__new__(Redact)  # no recognisers: nothing is left for them to do
    redact._spec, redact._board = spec, board
    unredacted = records.outcomes_to_table([replace(a_transcript("a", "Helen"), redacted=False)])
    passed_on = redact(unredacted.append_column("partition_id", pa.array([partition.partition_id])))
    assert records.table_to_outcomes(passed_on.drop_columns(["partition_id"])) == [a_transcript("a", "[PERSON_1]")]


def test_what_the_engines_did_is_at_the_metrics_port(spec: RunSpec, tmp_path: Path) -> None:
    """The real analysis actor, over HTTP, with a judge and prices."""
    task = {"name": "summary", "prompt": "summary/v1"}
    price = {"prompt_usd": 1e6, "completion_usd": 2e6}
    with endpoint() as url:
        llm = {
            "engine": "openai_endpoint",
            "model": "big",
            "endpoint": {"url": url, "backoff_s": 0.01},
            "tasks": [task],
            "judges": [{"name": "quality", "task": "summary"}],
            "prices": {"big": price},
        }
        analysed = spec_for(tmp_path, llm=llm)
        partition = commit(analysed, [a_transcript("a", "Hello."), a_transcript("b", "Hello.")])
        board = start_board([partition], max_uncommitted=1)
        table = records.outcomes_to_table([a_transcript("a", "Hello."), a_transcript("b", "Hello.")])
        tagged = table.append_column("partition_id", pa.array([partition.partition_id] * 2))
        stream = ray.data.from_arrow([tagged])
        stage = _stage(stream, Analyse, analysed.llm.actors, analysed, board, "run2", [], concurrent_calls=2)
        assert stage.count() == 2
        insights = table_to_insights(pq.read_table(next((tmp_path / "insights").glob("*"))))
        assert [(i.call_id, i.task, i.status) for i in insights] == [
            (call_id, task, "ok") for call_id in ("a", "b") for task in ("summary", "quality")
        ]
        expected = {
            ("callmill_engine_num_prompts", 'stage="analyse"'): 4,
            ("callmill_engine_prompt_tokens", 'stage="analyse"'): 4 * PROMPT_TOKENS,
            ("callmill_engine_completion_tokens", 'stage="analyse"'): 4 * COMPLETION_TOKENS,
            ("callmill_engine_num_retries", 'stage="analyse"'): 1,
            ("callmill_llm_request_s_count", 'model="big"'): 4,
            ("callmill_llm_cost_usd", 'model="big"'): 4 * (PROMPT_TOKENS + 2 * COMPLETION_TOKENS),
            ("callmill_llm_answers", 'task="quality"'): 2,
            ("callmill_judge_score_sum", 'judge="quality"'): 8,
        }
        assert scraped(expected) == expected


def test_what_the_asr_engine_does_is_at_the_metrics_port_while_it_runs(tmp_path: Path) -> None:
    """The real actor. It is kept: what a worker has not yet told its node dies with it."""
    asr = {"engine": "ctc_torch", "model": str(tones.random_folder(tmp_path))}
    heard = spec_for(tmp_path / "out", asr=asr, llm={"engine": "none"})
    board = start_board([Partition(partition_id="p-1", calls=(a_call("a"),))], max_uncommitted=1)
    table = prepared("p-1", [audio("a", 5)])
    ray.get(board.post.remote("p-1", [ray.put(table)]))
    actor = ray.remote(Transcribe).options(num_cpus=0).remote(heard, board)
    outcomes = ray.get(actor.__call__.remote(pa.table({"partition_id": ["p-1"]})), timeout=240)
    assert outcomes.num_rows == 1
    tag = f'model="{asr["model"]}"'
    sums = {("callmill_engine_num_windows", tag): 1.0, ("callmill_engine_audio_s", tag): 1.0}
    assert scraped(sums) == sums
    levels = [f"callmill_engine_{name}" for name in ("windows_per_s", "tokens_per_s", "padding_share", "idle_share")]
    speed, letters, padding, idle = scraped({(name, tag): None for name in levels}).values()
    assert 0 < speed < letters
    assert padding == 0.0, "a CTC model's windows are as long as they are"
    assert 0 < idle < 1
    ray.kill(actor)


def test_what_gives_way_while_it_loads_does_not_later() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert _giving_way(lambda: os.getpriority(os.PRIO_PROCESS, 0)) == min(before + LOAD_NICENESS, 19)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def scraped(wanted: Mapping[tuple[str, str], float | None]) -> dict[tuple[str, str], float]:
    """The wanted samples (metric, one of its tags) at this node's Prometheus endpoint, once all are there.

    None stands for any value.
    """
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 60  # workers report every few seconds
    while True:
        lines = [line for line in httpx.get(url).text.splitlines() if line.startswith("ray_callmill_")]
        found = {
            (name, tag): float(line.rsplit(" ", 1)[1])
            for name, tag in wanted
            for line in lines
            if re.match(rf"ray_{name}(_total)?{{", line) and tag in line
        }
        is_there = all(key in found and value in (None, found[key]) for key, value in wanted.items())
        if is_there or time.monotonic() > deadline:
            return {key: found[key] for key in wanted if key in found}
        time.sleep(1)


def test_a_plan_that_cannot_be_placed_is_refused(spec: RunSpec) -> None:
    greedy = spec.model_copy(
        update={"asr": spec.asr.model_copy(update={"actors": spec.asr.actors.model_copy(update={"num_gpus": 2.0})})}
    )
    with pytest.raises(runtime.FatalError, match="the stages need 2 GPU slots to start and the cluster has 0"):
        runtime._check_placeable(greedy, greedy.stages, ray.cluster_resources())
