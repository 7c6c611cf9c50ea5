"""What Spark's and Ray's workers do in `benchmarks.handoff`; they import it by name."""

import time
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from ray_jobs import handoff

ROWS = 16
"""Rows of a partition; its bytes are spread evenly over them."""

MADE_SCHEMA = pa.schema(
    [
        ("partition_id", pa.string()),
        ("made_unix_s", pa.float64()),
        ("crc32", pa.int64()),
        ("pcm", pa.binary()),
    ]
)
"""One row of a partition: bytes that nothing compresses, when they were made, and their checksum."""


class DamagedError(Exception):
    """What arrived is not what was made."""


def make(batches: Iterator[pa.RecordBatch], partition_bytes: int) -> Iterator[pa.RecordBatch]:
    """For each row, which holds a partition's id, that partition: one batch under MADE_SCHEMA."""
    for batch in batches:
        for partition_id in batch.column("partition_id").to_pylist():
            chance = np.random.default_rng(zlib.crc32(partition_id.encode()))
            texts = [chance.bytes(partition_bytes // ROWS) for _ in range(ROWS)]
            columns = [[partition_id] * ROWS, [time.time()] * ROWS, list(map(zlib.crc32, texts)), texts]
            yield pa.record_batch([pa.array(v, f.type) for v, f in zip(columns, MADE_SCHEMA, strict=True)], MADE_SCHEMA)


def take(table: pa.Table) -> pa.Table:
    """Read every byte. Returns a row per row: its size in bytes and how long it was on the way, in seconds.

    Raises DamagedError.
    """
    sizes = []
    for payload, expected in zip(table["pcm"], table["crc32"].to_pylist(), strict=True):
        if zlib.crc32(payload.as_buffer()) != expected:
            raise DamagedError(f"a row of partition {table['partition_id'][0]} is not as it was made")
        sizes.append(payload.as_buffer().size)
    now = time.time()
    return pa.table({"num_bytes": sizes, "latency_s": [now - made for made in table["made_unix_s"].to_pylist()]})


class TakeBlock:
    """The consumer where Ray Data brings the bytes."""

    def __call__(self, block: pa.Table) -> pa.Table:
        return take(block)


class TakeTicket:
    """The consumer of our hand-over: a ticket in, the partition fetched by reference and committed."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def __call__(self, ticket: pa.Table) -> pa.Table:
        partition_id = ticket["partition_id"][0].as_py()
        table = handoff.fetch(self._board, partition_id)
        assert table is not None, "nothing else commits"
        taken = take(table)
        ray.get(self._board.commit.remote(partition_id))
        return taken
