"""Laying out: whole calls, within the limits, about equal, the same every time."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

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
