"""The board by itself: room, tickets, and whom to blame for a dead actor."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ray_jobs.board import MAX_IDLE_DEATHS, MAX_LOSSES, WHOLE_ATTEMPTS, Board
from ray_jobs.errors import FatalError
from ray_jobs.ledger import Partition
from tests.ray_jobs.outputs import a_call


def board(num_partitions: int = 4, max_uncommitted: int = 2) -> Board:
    return Board(
        [Partition(partition_id=f"p{i}", calls=(a_call(f"c{i}"),)) for i in range(num_partitions)], max_uncommitted
    )


def run(scenario: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(scenario(), timeout=10)

    return asyncio.run(bounded())


async def is_waiting(awaitable: Awaitable[Any]) -> bool:
    done, pending = await asyncio.wait([asyncio.ensure_future(awaitable)], timeout=0.05)
    for task in pending:
        task.cancel()
    return not done


def test_a_wave_waits_until_commits_make_room() -> None:
    async def scenario() -> None:
        b = board()
        await b.reserve(["p0", "p1"])
        assert await is_waiting(b.reserve(["p2"]))
        await b.commit("p0")
        await b.commit("p0")  # counts once
        await b.reserve(["p2"])
        assert await is_waiting(b.reserve(["p3"]))

    run(scenario)


def test_a_lost_partition_is_told_to_the_producer_once_and_waited_for() -> None:
    async def scenario() -> None:
        b = board()
        await b.post("p0", ["ref"])
        await b.lose("p0", ["ref"], "its node died")
        await b.lose("p0", ["ref"], "its node died")  # another actor says so too
        assert await b.wait_for_commits(0) == set(), "the producer wakes up"
        assert [partition.partition_id for partition in await b.take_lost()] == ["p0"]
        assert await b.take_lost() == []
        assert await is_waiting(b.refs("p0"))
        await b.post("p0", ["new"])
        await b.lose("p0", ["ref"], "late news of the first")
        assert await b.refs("p0") == ["new"]
        assert await b.warnings(0) == ["partition p0 is prepared again: its node died"]

    run(scenario)


def test_a_partition_that_is_lost_again_and_again_ends_the_run() -> None:
    async def scenario() -> None:
        b = board()
        for number in range(MAX_LOSSES + 1):
            await b.post("p0", [number])
            await b.lose("p0", [number], "no space left")
        with pytest.raises(FatalError, match=f"partition p0 was lost {MAX_LOSSES + 1} times: no space left"):
            await b.refs("p0")

    run(scenario)


def test_a_ticket_waits_for_its_partition_and_not_for_a_committed_one() -> None:
    async def scenario() -> None:
        b = board()
        assert await is_waiting(b.wait_until_posted("p0"))
        await b.post("p0", ["ref"])
        await b.wait_until_posted("p0")
        assert await b.refs("p0") == ["ref"]
        await b.commit("p0")
        await b.wait_until_posted("p0")
        assert await b.refs("p0") == []

    run(scenario)


def test_a_partition_posted_after_its_commit_is_not_kept() -> None:
    async def scenario() -> None:
        b = board()
        await b.commit("p0")
        await b.post("p0", ["ref"])
        assert await b.refs("p0") == []

    run(scenario)


def test_a_failure_wakes_everyone() -> None:
    async def scenario() -> None:
        b = board()
        waiting = asyncio.ensure_future(b.wait_until_posted("p0"))
        await asyncio.sleep(0)
        await b.fail("Spark ETL stopped")
        with pytest.raises(FatalError, match="Spark ETL stopped"):
            await waiting
        with pytest.raises(FatalError, match="Spark ETL stopped"):
            await b.reserve(["p1"])

    run(scenario)


def test_a_call_that_kills_its_actor_is_found_and_left_out() -> None:
    async def scenario() -> None:
        b = board()
        for _ in range(WHOLE_ATTEMPTS):
            attempt = await b.begin("p0")
            assert not attempt.call_by_call
        assert (await b.begin("p0")).call_by_call
        await b.suspect("p0", "good")
        await b.clear("p0")
        await b.suspect("p0", "bad")  # and the actor dies
        attempt = await b.begin("p0")
        assert attempt.call_by_call
        assert attempt.deadly_calls == {"bad"}
        assert "died of call bad" in (await b.warnings(0))[-1]

    run(scenario)


def test_actors_that_die_of_no_call_in_particular_end_the_run() -> None:
    async def scenario() -> None:
        b = board()
        for _ in range(MAX_IDLE_DEATHS + 1):
            await b.begin("p0")
        with pytest.raises(FatalError, match="partition p0: its actor died 6 times"):
            await b.begin("p0")

    run(scenario)
