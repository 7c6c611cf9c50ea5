"""The hand-over on real Ray and Spark: bounded, in step, whole partitions, nothing kept after the commit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from ray_jobs import handoff, runtime
from ray_jobs.board import start_board
from ray_jobs.errors import FatalError
from ray_jobs.ledger import Ledger, Partition
from ray_jobs.sources import SparkSource
from ray_jobs.spec import RunSpec, SparkSpec, parse_spec
from spark_etl import job
from spark_etl.plan import Plan, make_plan
from tests.ray_jobs.handoff_consumer import SlowStage

pytestmark = pytest.mark.integration

SAMPLES = Path(__file__).parents[1] / "data" / "sample_calls"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    output = tmp_path_factory.mktemp("handoff")
    etl = {"partition": {"max_calls": 1}}  # eight partitions of one call
    return parse_spec(
        {"input": {"uri": str(SAMPLES)}, "output": {"uri": str(output)}, "etl": etl, "llm": {"engine": "none"}}
    )


@pytest.fixture(scope="module")
def plan(spec: RunSpec) -> Plan:
    return make_plan(spec, Ledger(spec.output.uri))


@pytest.fixture(scope="module")
def cluster(spec: RunSpec) -> Iterator[None]:
    runtime.prepare_environment()
    with runtime.ray_cluster(spec, spec.stages):
        yield


def through_slow_stage(board: Any, spec: RunSpec, plan: Plan) -> list[dict[str, Any]]:
    """One row per partition, once all are committed."""
    tickets = handoff.read_tickets(board, plan.partitions, spec.asr.actors.max_actors)
    committed = tickets.map_batches(
        SlowStage,
        fn_constructor_args=(board, spec.max_uncommitted),
        batch_size=None,
        batch_format="pyarrow",
        concurrency=1,
        num_cpus=0.5,
    )
    return committed.take_all()


@pytest.fixture(scope="module")
def passed(spec: RunSpec, plan: Plan, cluster: None) -> dict[str, Any]:
    """One run of the eight partitions through a slow stage, and what was seen on the way."""
    board = start_board(plan.partitions, spec.max_uncommitted)
    source = SparkSource(spec)
    producer = handoff.Producer(board, plan.partitions, source)
    producer.start()
    rows = through_slow_stage(board, spec, plan)
    producer.join(60)
    return {"rows": rows, "history": ray.get(board.history.remote()), "producer": producer, "source": source}


def test_every_partition_arrives_whole_and_once(plan: Plan, passed: dict[str, Any]) -> None:
    arrived = {row["partition_id"]: row["call_ids"] for row in passed["rows"]}
    assert arrived == {p.partition_id: [call.call_id for call in p.calls] for p in plan.partitions}
    assert len(passed["rows"]) == len(plan.partitions)


def test_spark_never_runs_further_ahead_than_the_cap(spec: RunSpec, passed: dict[str, Any]) -> None:
    assert max(num_uncommitted for *_, num_uncommitted in passed["history"]) == spec.max_uncommitted


def test_a_stage_begins_on_the_first_partition_before_spark_has_prepared_the_last(passed: dict[str, Any]) -> None:
    events = [(what, partition_id) for _, what, partition_id, _ in passed["history"]]
    posted = [partition_id for what, partition_id in events if what == "post"]
    assert events.index(("begin", posted[0])) < events.index(("post", posted[-1]))


def test_spark_keeps_no_block_of_a_committed_partition(spec: RunSpec, passed: dict[str, Any]) -> None:
    assert not passed["producer"].is_alive()
    num_cached = passed["source"].num_cached
    assert max(num_cached) > 0
    assert max(num_cached) <= spec.max_uncommitted
    assert num_cached[-1] == 0


def test_a_dead_producer_wakes_whoever_waits(
    cluster: None, spec: RunSpec, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(job, "start_spark", broken)
    monkeypatch.setattr(job, "stop_spark", lambda: None)
    board = start_board(plan.partitions, spec.max_uncommitted)
    handoff.Producer(board, plan.partitions, SparkSource(spec)).start()
    with pytest.raises(Exception, match="Spark ETL stopped: OSError: no space left on device"):
        ray.get(board.wait_until_posted.remote(plan.partitions[0].partition_id), timeout=30)


def test_a_wave_larger_than_the_cap_is_refused_and_not_waited_for(cluster: None, plan: Plan) -> None:
    board = start_board(plan.partitions, 1)
    with pytest.raises(Exception, match="a wave of 2 partitions exceeds the cap of 1"):
        ray.get(board.reserve.remote(["a", "b"]), timeout=30)


def test_a_sole_executor_that_is_gone_for_good_costs_a_new_spark_and_no_partition(
    cluster: None, spec: RunSpec, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "EXECUTOR_PATIENCE_S", 5.0)
    board = start_board(plan.partitions, spec.max_uncommitted)
    source = SparkSource(spec)
    producer = handoff.Producer(board, plan.partitions, source)
    producer.start()
    ray.get(board.wait_until_posted.remote(plan.partitions[0].partition_id))
    [executor] = [name for name in ray.util.list_named_actors() if name.startswith("raydp-executor-")]
    ray.kill(ray.get_actor(executor))  # as Ray does once RayDP has let go of it
    try:
        arrived = [(row["partition_id"], row["call_ids"]) for row in through_slow_stage(board, spec, plan)]
    finally:
        producer.join(60)  # what it stops after Ray is gone would start another Ray
    assert sorted(arrived) == sorted((p.partition_id, [c.call_id for c in p.calls]) for p in plan.partitions)
    warnings = ray.get(board.warnings.remote(0))
    assert sum("Spark ETL is started again: no executor of Spark was left" in line for line in warnings) == 1, warnings


def test_a_cluster_without_room_for_an_executor_is_said_so(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "FIRST_EXECUTOR_PATIENCE_S", 2.0)
    try:
        with pytest.raises(FatalError, match=r"no executor of Spark came for 2 s: .* no room for one of 64 cores"):
            job.start_spark(SparkSpec(cores_per_executor=64), runtime.SPARK_MASTER_CPUS)
    finally:
        job.stop_spark()


def test_waves_are_consecutive_and_the_last_one_is_shorter() -> None:
    partitions = [Partition(partition_id=str(i), calls=()) for i in range(5)]
    assert [[p.partition_id for p in wave] for wave in handoff.waves(partitions, 2)] == [["0", "1"], ["2", "3"], ["4"]]
