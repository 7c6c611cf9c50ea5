"""Spark on real Ray: what the death of an executor in the middle of a wave costs, and what SparkUI shows."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pyarrow as pa
import pytest
import ray
from pyspark.sql import SparkSession

from ray_jobs import runtime, storage
from ray_jobs.ledger import Ledger, Partition
from ray_jobs.spec import RunSpec, parse_spec
from spark_etl import job
from spark_etl.plan import make_plan
from tests.fault_proxy import FaultProxy
from tests.s3 import bucket_behind_faults, running_s3

pytestmark = pytest.mark.integration

SAMPLES = Path(__file__).parents[1] / "data" / "sample_calls"
CALLS = ["02_card_payment", "01_billing_dispute", "07_delivery_mono", "06_voicemail"]


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultProxy]:
    """What Spark reads the recordings through; it counts, and can be slow."""
    with (
        running_s3() as url,
        pytest.MonkeyPatch.context() as patch,
        bucket_behind_faults("executors", url, patch) as proxy,
    ):
        for name in CALLS:
            storage.write_bytes(f"s3://executors/in/{name}.wav", (SAMPLES / f"{name}.wav").read_bytes())
        yield proxy


@pytest.fixture(scope="module")
def spec(proxy: FaultProxy) -> RunSpec:
    spark = {"num_executors": 2, "cores_per_executor": 1, "executor_memory": "1500m"}
    etl = {"partition": {"max_calls": 1}, "spark": spark}
    places = {"input": {"uri": "s3://executors/in"}, "output": {"uri": "s3://executors/out"}}
    return parse_spec({**places, "etl": etl, "llm": {"engine": "none"}})


@pytest.fixture(scope="module")
def spark(spec: RunSpec) -> Iterator[SparkSession]:
    runtime.prepare_environment(("etl",))
    with runtime.ray_cluster(spec, ("etl",)):
        yield job.start_spark(spec.etl.spark, runtime.SPARK_MASTER_CPUS)
        job.stop_spark()


@pytest.fixture(scope="module")
def partitions(spec: RunSpec) -> Sequence[Partition]:
    return make_plan(spec, Ledger(spec.output.uri)).partitions


def executors() -> list[psutil.Process]:
    """The JVMs in which Python workers find speech."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.name() == "java" and any("pyspark.daemon" in child.cmdline() for child in process.children()):
                found.add(process)
    return list(found)


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def executors_in(spark: SparkSession) -> list[dict[str, Any]]:
    """What Spark itself says of its executors."""
    with urlopen(f"{job.ui_url(spark)}/api/v1/applications/{spark.sparkContext.applicationId}/executors") as answer:
        return [executor for executor in json.load(answer) if executor["id"] != "driver"]


def call_ids(wave: job.CachedWave) -> list[str]:
    """The calls that reach Ray, partition by partition."""
    return [call_id for table in ray.get(job.to_ray(wave), timeout=120) for call_id in table["call_id"].to_pylist()]


def num_reads(proxy: FaultProxy) -> dict[str, int]:
    """How often each recording was fetched."""
    paths = [path for method, path, _ in proxy.requests if method == "GET" and path.endswith(".wav")]
    return {name: sum(path.endswith(f"/{name}.wav") for path in paths) for name in CALLS}


def test_spark_ui_is_there_while_spark_runs(spark: SparkSession) -> None:
    with urlopen(f"{job.ui_url(spark)}/executors/", timeout=30) as page:
        assert job.APP_NAME in page.read().decode()


def test_executors_are_as_many_and_as_large_as_the_spec_says(spark: SparkSession) -> None:
    configured = spark.sparkContext.getConf()
    assert configured.get("spark.executor.instances") == "2"
    assert configured.get("spark.executor.cores") == "1"
    assert configured.get("spark.executor.memory") == "1500m"
    wait_for(lambda: len(executors_in(spark)) == 2)
    assert {executor["totalCores"] for executor in executors_in(spark)} == {1}


def test_an_executor_killed_amid_a_wave_costs_only_its_tasks(
    spark: SparkSession, spec: RunSpec, partitions: Sequence[Partition], proxy: FaultProxy
) -> None:
    assert [call.call_id for partition in partitions for call in partition.calls] == CALLS
    first = job.cache_wave(spark, job.prepare_wave(spark, partitions[:2], spec.etl))
    assert call_ids(first) == CALLS[:2]
    job.release(spark, first)
    proxy.latency_s = 4.0
    with ThreadPoolExecutor(1) as pool:
        preparing = pool.submit(job.cache_wave, spark, job.prepare_wave(spark, partitions[2:], spec.etl))
        wait_for(lambda: sum(num_reads(proxy).values()) == 4)
        assert len(executors()) == 2, "each reads one"
        executors()[0].kill()
        proxy.latency_s = 0.0
        second = preparing.result()
    assert call_ids(second) == CALLS[2:]
    reads = num_reads(proxy)
    assert [reads[name] for name in CALLS[:2]] == [1, 1], "what was prepared before stays so"
    assert sorted(reads[name] for name in CALLS[2:]) == [1, 2], "its one task was done again"
    job.release(spark, second)


def test_the_executor_that_comes_in_its_place_takes_part(
    spark: SparkSession, spec: RunSpec, partitions: Sequence[Partition]
) -> None:
    wait_for(lambda: job.num_executors(spark) == 2)
    wave = job.cache_wave(spark, job.prepare_wave(spark, partitions, spec.etl))
    assert call_ids(wave) == CALLS
    assert len(set(wave.executors)) == 2
    job.release(spark, wave)


def test_a_partition_whose_executor_died_before_it_was_fetched_is_computed_again(
    spark: SparkSession, spec: RunSpec, partitions: Sequence[Partition]
) -> None:
    wave = job.cache_wave(spark, job.prepare_wave(spark, partitions[:2], spec.etl))
    executors()[0].kill()
    assert call_ids(wave) == CALLS[:2]
    job.release(spark, wave)


def test_lists_that_java_left_without_offsets_reach_ray_all_the_same(spark: SparkSession) -> None:
    """Java writes no offsets for the strings of lists that are all empty, which is legal and Ray does not take.

    That is why lists of strings cross Spark as JSON texts, and why `to_ray` rebuilds what it fetched.
    """
    no_strings = pa.StringArray.from_buffers(0, pa.py_buffer(b""), pa.py_buffer(b""))
    offsets = pa.array([0, 0, 0], pa.int32()).buffers()[1]
    lists = pa.ListArray.from_buffers(pa.list_(pa.string()), 2, [None, offsets], children=[no_strings])
    table = pa.table({"roles": lists})
    assert table["roles"].to_pylist() == [[], []]
    with pytest.raises(Exception, match="Buffer #1 too small"):
        ray.put(table)
    assert ray.get(ray.put(job._rebuilt(table))) == table
