"""Laying out: whole calls, within the limits, about equal, the same every time."""

import dataclasses
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.ledger import Partition
from ray_jobs.records import Call
from ray_jobs.spec import PartitionSpec
from spark_etl.partition import lay_out

calls = st.lists(st.tuples(st.floats(0.1, 20_000), st.integers(0, 10**9)), min_size=1, max_size=120).map(
    lambda sizes: [
        Call(call_id=f"c{i}", uri=f"/c{i}", source=f"/c{i}", size_bytes=n, version="1", expected_speech_s=s)
        for i, (s, n) in enumerate(sizes)
    ]
)


class TestBalance:
    @given(calls, st.integers(1, 40), st.floats(50, 5_000), st.integers(1, 4))
    def test_every_call_is_in_exactly_one_partition_within_the_limits(self, calls, max_calls, max_speech_s, actors):
        limits = PartitionSpec(max_calls=max_calls, max_speech_s=max_speech_s)
        partitions = lay_out(calls, limits, actors, "f", {})
        assert sorted(c.call_id for p in partitions for c in p.calls) == sorted(c.call_id for c in calls)
        for partition in partitions:
            assert len(partition.calls) <= max_calls
            assert len(partition.calls) == 1 or partition.expected_speech_s <= max_speech_s * 1.000001

    @given(calls)
    def test_the_same_calls_in_any_order_give_the_same_partitions(self, calls):
        there = lay_out(calls, PartitionSpec(), 1, "f", {})
        back = lay_out(list(reversed(calls)), PartitionSpec(), 1, "f", {})
        assert there == back

    def test_equal_calls_are_spread_evenly(self):
        one = Call(call_id="", uri="", source="", size_bytes=1, version="1", expected_speech_s=60.0)
        many = [dataclasses.replace(one, call_id=str(i), uri=f"{i:03}") for i in range(400)]
        loads = [p.expected_speech_s for p in lay_out(many, PartitionSpec(max_speech_s=3000), 1, "f", {})]
        assert max(loads) == min(loads)

    def test_a_giant_call_is_its_own_partition(self):
        limits = PartitionSpec(max_speech_s=1000)
        calls = [a_call("giant", 4000.0), *(a_call(str(number), 90.0) for number in range(20))]
        found = [ids(partition) for partition in lay_out(calls, limits, 1, "f", {})]
        assert ["giant"] in found
        assert all(len(partition) > 1 for partition in found if "giant" not in partition)


class TestDuplicates:
    """Calls of one size may be one recording stored twice; ETL finds out if it sees them in one partition."""

    def test_calls_of_one_size_meet_in_one_partition(self):
        calls = [a_call(f"{number:03}", 60.0, size_bytes=number % 50) for number in range(100)]
        partitions = lay_out(calls, PartitionSpec(max_speech_s=600), 1, "f", {})
        assert len(partitions) >= 10
        for partition in partitions:
            sizes = [call.size_bytes for call in partition.calls]
            assert all(sizes.count(size) == 2 for size in sizes)

    def test_where_too_many_have_one_size_those_of_one_version_still_meet(self):
        calls = [a_call(f"{number:03}", 60.0, size_bytes=1, version=f"{number % 50:02}") for number in range(100)]
        partitions = lay_out(calls, PartitionSpec(max_speech_s=600), 1, "f", {})
        assert all(len(partition.calls) <= 10 for partition in partitions)
        for partition in partitions:
            versions = [call.version for call in partition.calls]
            assert all(versions.count(version) == 2 for version in versions)

    def test_the_original_is_the_first_by_location(self):
        calls = [a_call(name, 60.0, size_bytes=1, version=version) for name, version in (("b", "1"), ("a", "2"))]
        (partition,) = lay_out(calls, PartitionSpec(), 1, "f", {})
        assert ids(partition) == ["a", "b"]


def a_call(call_id: str, speech_s: float, *, size_bytes: int | None = None, version: str = "1") -> Call:
    """A call with a size of its own, unless one is given."""
    size_bytes = int.from_bytes(call_id.encode()) if size_bytes is None else size_bytes
    return Call(
        call_id=call_id, uri=call_id, source=call_id, size_bytes=size_bytes, version=version, expected_speech_s=speech_s
    )


def ids(partition: Partition) -> Sequence[str]:
    return [call.call_id for call in partition.calls]
