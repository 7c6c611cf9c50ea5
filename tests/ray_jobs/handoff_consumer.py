"""A stage for the hand-over's tests: takes whole partitions, slowly, and commits them. Imported by Ray's workers."""

import time
from typing import Any

import pyarrow as pa
import ray

from ray_jobs import handoff

WORK_S = 1.0


class SlowStage:
    def __init__(self, board: Any) -> None:
        self._board = board

    def __call__(self, ticket: pa.Table) -> pa.Table:
        assert ticket.num_rows == 1
        partition_id = ticket["partition_id"][0].as_py()
        ray.get(self._board.begin.remote(partition_id))
        table = handoff.fetch(self._board, partition_id)
        time.sleep(WORK_S)
        ray.get(self._board.commit.remote(partition_id))
        ray.get(self._board.commit.remote(partition_id))  # a repeated commit counts once
        return pa.table({"partition_id": [partition_id], "call_ids": [table["call_id"].to_pylist()]})
