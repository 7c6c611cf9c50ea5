"""From a source of partitions to Ray Data, bounded: it stays a fixed number of partitions ahead of the ledger.

A driver thread (`Producer`) has the source (`ray_jobs.sources`: Spark, or Parquet that Spark wrote before) prepare
partitions in waves and posts a reference per partition on the `Board`, a small actor beside the driver. Ray Data reads
one ticket per partition: its read task waits until the partition is posted and yields one row with its id. The ASR
actor that gets the ticket fetches the partition by reference, so there is one copy of it in the object store and
nothing can split it. Committing a partition drops the reference, makes room for the next wave and lets the source
release what it held.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_jobs.errors import FatalError, RetryableError
from ray_jobs.ledger import Partition
from ray_jobs.records import StageEvent, StartUp
from ray_jobs.sources import Source
from spark_etl import job

TICKET_SCHEMA = pa.schema([("partition_id", pa.string())])

WHOLE_ATTEMPTS = 2
"""Times a partition is given whole to an actor that dies of it before its calls are taken one by one."""

MAX_IDLE_DEATHS = 5
"""Deaths of actors between calls of one partition, after which the engine is taken for dead."""

RELEASE_S = 0.5
"""How often a producer that waits for room has its source release what is committed."""

MAX_LOSSES = 3
"""Times a prepared partition that is not to be had any more is prepared again."""

READ_CPUS = 0.0
"""A read task only waits: it takes no slot. (And no other stage takes none, or Ray Data would fuse the two.)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How an actor is to take a partition: whole, or call by call without those that killed an actor before."""

    call_by_call: bool
    deadly_calls: frozenset[str]


class Board:
    """Where partitions wait between Spark and their commit. Run as an async Ray actor; see `start_board`."""

    def __init__(self, partitions: Sequence[Partition], max_uncommitted: int) -> None:
        self._partitions = {partition.partition_id: partition for partition in partitions}
        self._max_uncommitted = max_uncommitted
        self._reserved: set[str] = set()
        self._refs: dict[str, list[Any]] = {}
        self._lost: list[str] = []
        self._losses: dict[str, int] = {}
        self._committed: set[str] = set()
        self._poison = ""
        self._changed = asyncio.Condition()
        self._events: list[StageEvent] = []
        self._startups: dict[str, StartUp] = {}
        self._warnings: list[str] = []
        self._history: list[tuple[float, str, str, int]] = []
        self._attempts: dict[str, int] = {}
        self._suspects: dict[str, str] = {}
        self._deadly: dict[str, set[str]] = {}

    # ------------------------------------------------------------------------------------------- the producer's side

    async def reserve(self, partition_ids: Sequence[str]) -> None:
        """Wait until these partitions may be prepared without exceeding the cap. Raises FatalError after `fail`."""
        if len(partition_ids) > self._max_uncommitted:
            raise FatalError(f"a wave of {len(partition_ids)} partitions exceeds the cap of {self._max_uncommitted}")
        async with self._changed:
            await self._wait(lambda: self._num_uncommitted() + len(partition_ids) <= self._max_uncommitted)
            self._reserved.update(partition_ids)
            for partition_id in partition_ids:
                self._note("reserve", partition_id)

    async def post(self, partition_id: str, refs: list[Any]) -> None:
        """Hand over one prepared partition; `refs` is a list of one, so that Ray passes it by reference."""
        async with self._changed:
            if partition_id not in self._committed:
                self._refs[partition_id] = refs
            self._note("post", partition_id)
            self._changed.notify_all()

    async def wait_for_commits(self, known: int) -> set[str]:
        """The committed partitions, once there are more than `known` or one is lost."""
        async with self._changed:
            await self._wait(lambda: len(self._committed) > known or bool(self._lost))
            return set(self._committed)

    async def take_lost(self) -> list[Partition]:
        """The partitions to prepare and post again; each loss is told once."""
        lost, self._lost = self._lost, []
        return [self._partitions[partition_id] for partition_id in lost if partition_id not in self._committed]

    async def fail(self, message: str) -> None:
        """The producer or the driver gives up: whoever waits here gets a FatalError with the message."""
        async with self._changed:
            self._poison = self._poison or message
            self._changed.notify_all()

    # --------------------------------------------------------------------------------------------- the actors' side

    async def wait_until_posted(self, partition_id: str) -> None:
        """Return at once for a partition that is committed already."""
        async with self._changed:
            await self._wait(lambda: self._is_posted(partition_id))
            self._note("ticket", partition_id)

    async def refs(self, partition_id: str) -> list[Any]:
        """The posted references of a partition, once it is posted; empty when it is committed."""
        async with self._changed:
            await self._wait(lambda: self._is_posted(partition_id))
            return self._refs.get(partition_id, [])

    async def lose(self, partition_id: str, refs: list[Any], why: str) -> None:
        """What was posted is not to be had: the producer prepares it again. `fail` after some times."""
        if self._refs.get(partition_id) != refs:
            return  # posted anew meanwhile
        self._losses[partition_id] = losses = self._losses.get(partition_id, 0) + 1
        if losses > MAX_LOSSES:
            await self.fail(f"partition {partition_id} was lost {losses} times: {why}")
            return
        async with self._changed:
            del self._refs[partition_id]
            self._lost.append(partition_id)
            self._note("lose", partition_id)
            self._warnings.append(f"partition {partition_id} is prepared again: {why}")
            self._changed.notify_all()

    async def is_committed(self, partition_id: str) -> bool:
        return partition_id in self._committed

    async def partition(self, partition_id: str) -> Partition:
        return self._partitions[partition_id]

    async def must_be_alone(self, partition_id: str) -> bool:
        """Whether the next attempt goes call by call. Nothing else may be at work in its process then: who dies of
        another's call would be suspected, and left out, too."""
        return self._attempts.get(partition_id, 0) >= WHOLE_ATTEMPTS

    async def begin(self, partition_id: str) -> Attempt:
        """An actor starts (again) on a partition. Raises FatalError when actors keep dying of no call in particular."""
        deaths = self._attempts.get(partition_id, 0)
        self._attempts[partition_id] = deaths + 1
        self._note("begin", partition_id)
        deadly = self._deadly.setdefault(partition_id, set())
        suspect = self._suspects.pop(partition_id, None)
        if suspect is not None:
            deadly.add(suspect)
        if deaths:
            blame = f" of call {suspect}" if suspect else ""
            self._warnings.append(
                f"an ASR actor died{blame} on partition {partition_id} (attempt {deaths}); it is tried again"
            )
        if deaths - len(deadly) > MAX_IDLE_DEATHS:
            await self.fail(
                f"partition {partition_id}: its actor died {deaths} times; see the worker's log in the Ray dashboard"
            )
            raise FatalError(self._poison)
        return Attempt(call_by_call=deaths >= WHOLE_ATTEMPTS, deadly_calls=frozenset(deadly))

    async def suspect(self, partition_id: str, call_id: str) -> None:
        """The actor is about to take one call by itself; should it die now, this call did it."""
        self._suspects[partition_id] = call_id

    async def clear(self, partition_id: str) -> None:
        self._suspects.pop(partition_id, None)

    async def commit(self, partition_id: str) -> None:
        """The partition is durable; a repeated commit counts once."""
        async with self._changed:
            self._committed.add(partition_id)
            self._reserved.discard(partition_id)
            self._refs.pop(partition_id, None)
            self._note("commit", partition_id)
            self._changed.notify_all()

    # ------------------------------------------------------------------------------------------------ the onlookers

    async def record(self, event: StageEvent) -> None:
        self._events.append(event)

    async def started(self, startup: StartUp) -> None:
        """An engine is up; the first of a phase is kept."""
        self._startups.setdefault(startup.phase, startup)

    async def startups(self) -> list[StartUp]:
        """Spark's start, and that of the first actor of each stage, as far as they are up."""
        return list(self._startups.values())

    async def events(self, start: int) -> list[StageEvent]:
        """Stage events from index `start` on."""
        return self._events[start:]

    async def warn(self, message: str) -> None:
        """Something went wrong and was mended: one line for the report and whoever watches."""
        self._warnings.append(message)

    async def warnings(self, start: int) -> list[str]:
        """Lines for whoever watches the run, from index `start` on."""
        return self._warnings[start:]

    async def history(self) -> list[tuple[float, str, str, int]]:
        """In order: (Unix seconds, reserve|post|ticket|lose|begin|commit, partition id, num uncommitted)."""
        return self._history

    def _is_posted(self, partition_id: str) -> bool:
        """Or it was, and is committed by now."""
        return partition_id in self._refs or partition_id in self._committed

    def _num_uncommitted(self) -> int:
        return len(self._reserved)

    def _note(self, what: str, partition_id: str) -> None:
        self._history.append((time.time(), what, partition_id, self._num_uncommitted()))

    async def _wait(self, ready: Callable[[], bool]) -> None:
        await self._changed.wait_for(lambda: bool(self._poison) or ready())
        if self._poison:
            raise FatalError(self._poison)


def start_board(partitions: Sequence[Partition], max_uncommitted: int) -> Any:
    """A Board actor on the driver's node, dying with the driver."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 1000, "scheduling_strategy": here}
    return ray.remote(Board).options(**options).remote(partitions, max_uncommitted)


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


def read_tickets(board: Any, partitions: Sequence[Partition], max_uncommitted: int) -> ray.data.Dataset:
    """A dataset of tickets that streams as Spark delivers; at most `max_uncommitted` read tasks wait at a time."""
    source = TicketSource(board, [partition.partition_id for partition in partitions])
    return ray.data.read_datasource(
        source,
        num_cpus=READ_CPUS,
        concurrency=min(max_uncommitted, len(partitions)),
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
