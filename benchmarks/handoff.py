"""From Spark into Ray, three ways: `python -m benchmarks.handoff [--partition-mib 32] [--partitions 8 16 32]`.

Spark makes partitions of random bytes, one actor on Ray reads every byte and checks it. In turns, in one run, on one
Ray and one Spark:

ours        the product's hand-over: waves into Spark's caches, a reference per partition on the board, tickets through
            Ray Data, commits that make room
from_spark  ray.data.from_spark, then map_batches
parquet     Spark writes Parquet (uncompressed: random bytes are) to the local disk, ray.data.read_parquet, map_batches

mb_per_s          megabytes through, per second, from the first call until the last byte was read, with most partitions
latency_s         from a partition's making in Spark until its bytes are read, median over partitions
object_store_mib  Ray's object store at its fullest, and what was spilled from it; the curve is over sizes of the corpus
"""

import argparse
import gc
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import harness
from benchmarks.handoff_workers import MADE_SCHEMA, ROWS, TakeBlock, TakeTicket, make
from ray_jobs.ledger import Partition
from ray_jobs.runtime import SPARK_MASTER_CPUS, every, prepare_environment, ray_cluster
from ray_jobs.sources import SparkSource
from ray_jobs.spec import RunSpec, parse_spec
from spark_etl import job

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

EXECUTOR_MEMORY = "3g"
"""For all ways alike: from_spark runs out of the default of 1 GiB."""

SAMPLE_S = 0.1
EMPTY_BYTES = 2**20
EMPTY_PATIENCE_S = 60.0
JOIN_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """One corpus, brought over once."""

    mb_per_s: float
    latency_s: float
    object_store_mib: float


class MadeSource(SparkSource):
    """The product's source, with random bytes in place of recordings, on a Spark that outlives it."""

    def __init__(self, spec: RunSpec, spark: "SparkSession", partition_bytes: int) -> None:
        super().__init__(spec)
        self._spark = spark
        self._partition_bytes = partition_bytes

    def start(self) -> str:
        return ""

    def frame(self, wave: Sequence[Partition]) -> "DataFrame":
        return made(self.spark, [partition.partition_id for partition in wave], self._partition_bytes)

    def stop(self) -> None:
        pass


def made(spark: "SparkSession", partition_ids: Sequence[str], partition_bytes: int) -> "DataFrame":
    """A lazy frame whose partition i is that of `partition_ids[i]`."""
    from pyspark.sql.pandas.types import from_arrow_schema

    keys = spark.sparkContext.parallelize([(name,) for name in partition_ids], len(partition_ids))
    frame = spark.createDataFrame(keys, "partition_id string")
    return frame.mapInArrow(partial(make, partition_bytes=partition_bytes), from_arrow_schema(MADE_SCHEMA))


class Bridge:
    """The three ways over one Spark and one Ray. Each takes partition ids and returns what its consumer saw."""

    def __init__(self, spec: RunSpec, spark: "SparkSession", partition_bytes: int) -> None:
        self._spec = spec
        self._spark = spark
        self._partition_bytes = partition_bytes

    def ours(self, partition_ids: Sequence[str]) -> list[dict[str, float]]:
        import ray

        from ray_jobs import handoff
        from ray_jobs.board import start_board

        partitions = [Partition(partition_id=name, calls=()) for name in partition_ids]
        ahead = self._spec.max_uncommitted
        board = start_board(partitions, ahead)
        source = MadeSource(self._spec, self._spark, self._partition_bytes)
        producer = handoff.Producer(board, partitions, source)
        producer.start()
        try:
            tickets = handoff.read_tickets(board, partitions, ahead)
            return _consumed(tickets, TakeTicket, board)
        finally:
            ray.get(board.fail.remote("the corpus is through"))
            producer.join(JOIN_S)
            ray.kill(board)

    def from_spark(self, partition_ids: Sequence[str]) -> list[dict[str, float]]:
        import ray

        return _consumed(ray.data.from_spark(made(self._spark, partition_ids, self._partition_bytes)), TakeBlock)

    def parquet(self, partition_ids: Sequence[str]) -> list[dict[str, float]]:
        import ray

        with tempfile.TemporaryDirectory() as folder:
            frame = made(self._spark, partition_ids, self._partition_bytes)
            frame.write.mode("overwrite").option("compression", "none").parquet(folder)
            # Its newer reader starts actors that die under RayDP, which has workers import code by name
            ray.data.DataContext.get_current().use_datasource_v2 = False
            return _consumed(ray.data.read_parquet(folder), TakeBlock)


WAYS = ("ours", "from_spark", "parquet")


def _consumed(stream: Any, consumer: type, *arguments: Any) -> list[dict[str, float]]:
    taken = stream.map_batches(
        consumer,
        fn_constructor_args=arguments,
        batch_size=None,
        batch_format="pyarrow",
        concurrency=1,
        num_cpus=0.5,
    )
    rows: list[dict[str, float]] = taken.take_all()
    return rows


class StorePeak:
    """The object store at its fullest over samples, what was spilled included, in MiB; it is empty to begin with."""

    def __init__(self) -> None:
        self.peak_mib = 0.0
        deadline_s = time.monotonic() + EMPTY_PATIENCE_S
        while _store_stats().object_store_bytes_used > EMPTY_BYTES:  # the passage before is still being let go of
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the object store does not become empty within {EMPTY_PATIENCE_S:.0f} s")
            gc.collect()
            time.sleep(SAMPLE_S)
        self._spilled_before = _store_stats().spilled_bytes_total

    def sample(self) -> None:
        stats = _store_stats()
        num_bytes = stats.object_store_bytes_used + stats.spilled_bytes_total - self._spilled_before
        self.peak_mib = max(self.peak_mib, num_bytes / 2**20)


def _store_stats() -> Any:
    import ray
    from ray._private.internal_api import node_stats

    [node] = ray.nodes()
    return node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False).store_stats


def pass_over(
    way: Callable[[Sequence[str]], list[dict[str, float]]], num_partitions: int, partition_bytes: int
) -> Passage:
    """Raises ray's errors, and AssertionError where not every row arrived once."""
    partition_ids = [f"partition-{number:04}" for number in range(num_partitions)]
    store = StorePeak()
    with every(SAMPLE_S, store.sample, "object-store"):
        began = time.perf_counter()
        rows = way(partition_ids)
        wall_s = time.perf_counter() - began
    arrived = [int(row["num_bytes"]) for row in rows]
    assert arrived == [partition_bytes // ROWS] * (num_partitions * ROWS), "rows were lost or came twice"
    latencies = sorted(row["latency_s"] for row in rows)
    return Passage(
        mb_per_s=sum(arrived) / 1e6 / wall_s,
        latency_s=latencies[len(latencies) // 2],
        object_store_mib=store.peak_mib,
    )


def rounds_of(
    bridge: Bridge, sizes: Sequence[int], num_rounds: int, partition_bytes: int
) -> Iterator[tuple[str, int, Passage]]:
    """Every way with every size in every round, the ways in turns; one round more, first, is not given."""
    for number in range(-1, num_rounds):
        for size in sizes if number >= 0 else sizes[:1]:
            shift = (number + size) % len(WAYS)
            for name in (*WAYS[shift:], *WAYS[:shift]):
                passage = pass_over(getattr(bridge, name), size, partition_bytes)
                if number >= 0:
                    print(
                        f"round {number}  {size} partitions  {name}  {passage.mb_per_s:.0f} MB/s  latency "
                        f"{passage.latency_s:.2f} s  object store {passage.object_store_mib:.0f} MiB",
                        flush=True,
                    )
                    yield name, size, passage


def summarise(
    passages: Sequence[tuple[str, int, Passage]], sizes: Sequence[int], partition_bytes: int
) -> dict[str, Any]:
    most = max(sizes)
    of = {way: [p for name, size, p in passages if name == way and size == most] for way in WAYS}
    contestants = {
        way: {
            field: harness.spread([getattr(passage, field) for passage in runs])
            for field in ("mb_per_s", "latency_s", "object_store_mib")
        }
        for way, runs in of.items()
    }
    best = max(("from_spark", "parquet"), key=lambda way: contestants[way]["mb_per_s"]["median"])
    ratio = harness.paired_ratio([p.mb_per_s for p in of["ours"]], [p.mb_per_s for p in of[best]])
    mib = partition_bytes / 2**20
    lines = {
        way: [
            [
                size * mib,
                max(p.object_store_mib for name, n, p in passages if (name, n) == (way, size)),
            ]
            for size in sorted(sizes)
        ]
        for way in WAYS
    }
    return {
        "benchmark": "handoff",
        "ours": contestants["ours"]["mb_per_s"]["median"],
        "peer": contestants[best]["mb_per_s"]["median"],
        "best_peer": best,
        "ratio": ratio["median"],
        "ratio_range": [ratio["min"], ratio["max"]],
        "unit": "MB/s",
        "partition_mib": mib,
        "contestants": contestants,
        "curves": {"Object store at its fullest": {"x": "MiB of corpus", "y": "MiB", "lines": lines}},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partition-mib", type=int, default=32)
    parser.add_argument("--partitions", type=int, nargs="+", default=[8, 16, 32], help="sizes of the corpus")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    partition_bytes = options.partition_mib * 2**20
    spark_spec = {"executor_memory": EXECUTOR_MEMORY}
    spec = parse_spec({"input": {"uri": "."}, "llm": {"engine": "none"}, "etl": {"spark": spark_spec}})
    prepare_environment(("etl",))
    with ray_cluster(spec, spec.stages):
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # a table of tasks every few seconds
        spark = job.start_spark(spec.etl.spark, SPARK_MASTER_CPUS)
        try:
            bridge = Bridge(spec, spark, partition_bytes)
            passages = list(rounds_of(bridge, options.partitions, options.rounds, partition_bytes))
        finally:
            job.stop_spark()
    print(json.dumps(summarise(passages, options.partitions, partition_bytes)))


if __name__ == "__main__":
    main()
