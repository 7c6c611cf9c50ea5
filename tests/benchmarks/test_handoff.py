"""The hand-over's benchmark: what it makes, what it takes for damage, and what it says in the end."""

import pyarrow as pa
import pytest

from benchmarks.handoff import WAYS, Passage, summarise
from benchmarks.handoff_workers import ROWS, DamagedError, make, take

PARTITION_BYTES = 64 * ROWS


def a_partition() -> pa.Table:
    keys = pa.record_batch({"partition_id": ["partition-0001"]})
    return pa.Table.from_batches(make(iter([keys]), PARTITION_BYTES))


def a_passage(mb_per_s: float, object_store_mib: float) -> Passage:
    return Passage(mb_per_s=mb_per_s, latency_s=1.0, object_store_mib=object_store_mib)


def test_every_byte_of_a_partition_is_read() -> None:
    taken = take(a_partition())
    assert taken["num_bytes"].to_pylist() == [PARTITION_BYTES // ROWS] * ROWS
    assert all(latency_s >= 0 for latency_s in taken["latency_s"].to_pylist())


def test_the_same_partition_is_made_of_the_same_bytes() -> None:
    assert a_partition()["pcm"] == a_partition()["pcm"]


def test_a_byte_that_changed_on_the_way_is_noticed() -> None:
    made = a_partition()
    payloads = made["pcm"].to_pylist()
    payloads[3] = bytes([payloads[3][0] ^ 1]) + payloads[3][1:]
    damaged = made.set_column(made.schema.get_field_index("pcm"), "pcm", pa.array(payloads, pa.binary()))
    with pytest.raises(DamagedError, match="partition-0001"):
        take(damaged)


def test_the_ratio_is_to_the_fastest_other_way_and_the_curve_shows_the_worst_of_a_size() -> None:
    rates = {"ours": (90.0, 110.0), "from_spark": (50.0, 50.0), "parquet": (45.0, 44.0)}
    passages = [(way, 4, a_passage(rates[way][number], 10.0 * (number + 1))) for number in (0, 1) for way in WAYS]
    passages += [(way, 2, a_passage(1.0, 5.0)) for way in WAYS]
    result = summarise(passages, sizes=[2, 4], partition_bytes=2**20)
    assert result["best_peer"] == "from_spark"
    assert result["ratio"] == pytest.approx(2.0)
    assert result["curves"]["Object store at its fullest"]["lines"]["ours"] == [[2.0, 5.0], [4.0, 20.0]]
