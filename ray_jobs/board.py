"""The board: a small actor beside the driver that knows where every partition is between Spark and its commit.

It bounds how far the source runs ahead, wakes who waits for a partition, and remembers whom an actor died of. It and
its process import nothing of Ray Data, whose import takes longer than all else here.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_jobs.errors import FatalError
from ray_jobs.ledger import Partition
from ray_jobs.records import StageEvent, StartUp

WHOLE_ATTEMPTS = 2
"""Times a partition is given whole to an actor that dies of it before its calls are taken one by one."""

MAX_IDLE_DEATHS = 5
"""Deaths of actors between calls of one partition, after which the engine is taken for dead."""

MAX_LOSSES = 3
"""Times a prepared partition that is not to be had any more is prepared again."""


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
