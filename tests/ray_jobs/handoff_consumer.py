"""A stage for the hand-over's tests: takes whole partitions and commits them. Imported by Ray's workers."""

import time
from typing import Any

import pyarrow as pa
import ray

from ray_jobs import handoff

LINGER_S = 2.0
PATIENCE_S = 240.0


class SlowStage:
    """Commits nothing before Spark is as far ahead as it may be, and for a while then, in which it could go further."""

    def __init__(self, board: Any, max_uncommitted: int) -> None:
        self._board = board
        self._max_uncommitted = max_uncommitted
        self._was_full = False

    def __call__(self, ticket: pa.Table) -> pa.Table:
        assert ticket.num_rows == 1
        partition_id = ticket["partition_id"][0].as_py()
        ray.get(self._board.begin.remote(partition_id))
        table = handoff.fetch(self._board, partition_id)
        if not self._was_full:
            self._wait_until_full()
        ray.get(self._board.commit.remote(partition_id))
        ray.get(self._board.commit.remote(partition_id))  # a repeated commit counts once
        return pa.table({"partition_id": [partition_id], "call_ids": [table["call_id"].to_pylist()]})

    def _wait_until_full(self) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while ray.get(self._board.history.remote())[-1][-1] < self._max_uncommitted:
            assert time.monotonic() < deadline_s, "Spark did not get as far ahead as it may"
            time.sleep(0.1)
        time.sleep(LINGER_S)
        self._was_full = True
