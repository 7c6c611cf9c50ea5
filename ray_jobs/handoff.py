"""From a source of partitions to Ray Data, bounded: it stays a fixed number of partitions ahead of the ledger.

A driver thread (`Producer`) has the source (`ray_jobs.sources`: Spark, or Parquet that Spark wrote before) prepare
partitions in waves and posts a reference per partition on the board (`ray_jobs.board`). Ray Data reads one ticket per
partition: its read task waits until the partition is posted and yields one row with its id. The ASR actor that gets the
ticket fetches the partition by reference, so there is one copy of it in the object store and nothing can split it.
Committing a partition drops the reference, makes room for the next wave and lets the source release what it held.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from ray_jobs.errors import FatalError, RetryableError
from ray_jobs.ledger import Partition
from ray_jobs.records import StartUp
from ray_jobs.sources import Source
from spark_etl import job

TICKET_SCHEMA = pa.schema([("partition_id", pa.string())])

RELEASE_S = 0.5
"""How often a producer that waits for room has its source release what is committed."""

READ_CPUS = 0.0
"""A read task only waits: it takes no slot. (And no other stage takes none, or Ray Data would fuse the two.)"""


class Producer(threading.Thread):
    """Has a source prepare partitions wave by wave, as far ahead as the board has room.

    `join` it after the pipeline, before Ray goes.
    """

    def __init__(self, board: Any, partitions: Sequence[Partition], source: Source) -> None:
        super().__init__(name="producer", daemon=True)
        self._board = board
        self._partitions = partitions
        self._source = source

    def run(self) -> None:
        try:
            self._produce()
        except Exception as error:
            ray.get(self._board.fail.remote(f"{self._source.what} stopped: {job.explain(error)}"))
        finally:
            self._source.stop()

    def _produce(self) -> None:
        began_unix_s = time.time()
        ui_url = self._source.start()
        startup = StartUp(phase=self._source.phase, start_unix_s=began_unix_s, end_unix_s=time.time(), ui_url=ui_url)
        ray.get(self._board.started.remote(startup))
        for wave in waves(self._partitions, self._source.wave_size):
            ids = [partition.partition_id for partition in wave]
            self._wait_for_room(ids)
            self._prepare(wave)
        num_committed = -1
        while num_committed < len(self._partitions):
            num_committed = self._release(num_committed)

    def _prepare(self, wave: Sequence[Partition]) -> None:
        """Prepare and post; on a source that was started anew where the old one cannot go on."""
        try:
            refs = self._source.prepare(wave)
        except RetryableError as error:
            ray.get(self._board.warn.remote(f"{self._source.what} is started again: {error}"))
            self._source.stop()
            self._source.start()
            refs = self._source.prepare(wave)
        for partition, ref in zip(wave, refs, strict=True):
            ray.get(self._board.post.remote(partition.partition_id, [ref]))

    def _wait_for_room(self, ids: Sequence[str]) -> None:
        """Reserve a wave's places, releasing what is committed meanwhile."""
        reserved = self._board.reserve.remote(ids)
        while not ray.wait([reserved], timeout=RELEASE_S)[0]:
            self._release(-1)
        ray.get(reserved)
        self._release(-1)

    def _release(self, known: int) -> int:
        """Once there are more than `known` committed partitions, have the source let go of them; returns how many.

        What was lost is prepared again.
        """
        committed = ray.get(self._board.wait_for_commits.remote(known))
        self._source.release(committed)
        if lost := ray.get(self._board.take_lost.remote()):
            self._prepare(lost)
        return len(committed)


def waves(partitions: Sequence[Partition], size: int) -> Iterator[Sequence[Partition]]:
    """Consecutive runs of `size` partitions, the last one shorter."""
    for start in range(0, len(partitions), size):
        yield partitions[start : start + size]


class TicketSource(Datasource):
    """Ray Data's view of the board: one read task, one row per partition, in the order Spark prepares them."""

    def __init__(self, board: Any, partition_ids: Iterable[str]) -> None:
        super().__init__()
        self._board = board
        self._partition_ids = list(partition_ids)

    def get_name(self) -> str:
        return "Partitions"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        return [self._read_task(partition_id) for partition_id in self._partition_ids]

    def _read_task(self, partition_id: str) -> ReadTask:
        board = self._board

        def read() -> list[pa.Table]:
            ray.get(board.wait_until_posted.remote(partition_id))
            return [ticket(partition_id)]

        metadata = BlockMetadata(num_rows=1, size_bytes=None, input_files=None, exec_stats=None)
        return ReadTask(read, metadata, schema=TICKET_SCHEMA)


def ticket(partition_id: str) -> pa.Table:
    """One row that stands for a partition: TICKET_SCHEMA."""
    return pa.table([[partition_id]], schema=TICKET_SCHEMA)


def read_tickets(board: Any, partitions: Sequence[Partition], max_waiting: int) -> ray.data.Dataset:
    """A dataset of tickets that streams as Spark delivers; at most `max_waiting` read tasks wait at a time.

    Each waits in a process of its own, which takes a CPU-second to start and a fiftieth of a core from then on. As
    partitions are posted in their order, more of them than there are actors to give tickets to gain nothing.
    """
    source = TicketSource(board, [partition.partition_id for partition in partitions])
    return ray.data.read_datasource(
        source,
        num_cpus=READ_CPUS,
        concurrency=min(max_waiting, len(partitions)),
        override_num_blocks=len(partitions),
    )


def fetch(board: Any, partition_id: str) -> pa.Table | None:
    """The prepared partition (spark_etl.job.WAVE_SCHEMA), by reference; None where it is committed already.

    One that was lost with all who could bring it back is waited for until it is prepared again.
    """
    while refs := ray.get(board.refs.remote(partition_id)):
        try:
            table: pa.Table = ray.get(refs[0])
        except FatalError:
            raise
        except ray.exceptions.RayError as error:
            why = job.explain(error)
        else:
            found = table["partition_id"][0].as_py()
            if found == partition_id:
                return table
            why = f"a Spark that was started anew gave {found} for it"  # it counts its waves from the start
        ray.get(board.lose.remote(partition_id, refs, why))
    return None
