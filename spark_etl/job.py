"""The Spark side: one row per planned partition in, that partition's rows of speech out."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_jobs import storage
from ray_jobs.errors import CallError, FatalError, PipelineError, RetryableError
from ray_jobs.intermediate import Intermediate
from ray_jobs.ledger import Partition
from ray_jobs.records import AUDIO_SCHEMA, Part, StageEvent, audio_to_table
from ray_jobs.runtime import every
from ray_jobs.spec import EtlSpec, SparkSpec
from spark_etl.recording import Recording

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

APP_NAME = "callmill-etl"

_EXECUTOR = "raydp-executor-"  # and a number: an executor's name as a Ray actor; a restarted one keeps it

FETCH_PATIENCE_S = 180.0
"""For which a partition is asked for while executors die and come back, which takes half a minute."""

FETCH_PAUSE_S = 1.0

START_PAUSE_S = 0.2

FAREWELL_S = 60.0
"""For which the actors of a Spark that was stopped may still hold their names."""

WAVE_ATTEMPTS = 5
WAVE_PAUSE_S = 5.0
"""Between attempts at a wave, and between looks at whether Spark has executors."""

EXECUTOR_PATIENCE_S = 60.0
"""For which Spark may be without any: one that Ray restarts is there again in half a minute."""

FIRST_EXECUTOR_PATIENCE_S = 1800.0
"""For which its first may be awaited: a node for it may have to be bought, booted and given its image."""

_NO_SUCH_EXECUTOR = "java.util.NoSuchElementException"

WAVE_SCHEMA = pa.schema(
    [
        *AUDIO_SCHEMA,
        ("partition_id", pa.string()),
        ("start_unix_s", pa.float64()),
        ("end_unix_s", pa.float64()),
        ("worker", pa.string()),
    ]
)
"""AUDIO_SCHEMA, and when and where the partition was prepared (the same in each of its rows)."""

EVENT_SCHEMA = pa.schema(
    [
        ("partition_id", pa.string()),
        ("stage", pa.string()),
        ("start_unix_s", pa.float64()),
        ("end_unix_s", pa.float64()),
        ("num_calls", pa.int32()),
        ("num_failed", pa.int32()),
        ("audio_s", pa.float64()),
        ("speech_s", pa.float64()),
        ("worker", pa.string()),
    ]
)
"""One StageEvent: what a task that stores its partition sends to the driver."""


def start_spark(spark: SparkSpec, master_cpus: float) -> "SparkSession":
    """Spark on the Ray cluster this process is connected to, once it has an executor; one at a time, ended by
    `stop_spark`. Raises FatalError where none comes."""
    import raydp

    _wait_for_farewell()
    pins = {f"spark.ray.raydp_spark_executor.actor.resource.{k}": str(v) for k, v in spark.executor_resources.items()}
    session = raydp.init_spark(
        app_name=APP_NAME,
        num_executors=spark.num_executors,
        executor_cores=spark.cores_per_executor,
        executor_memory=spark.executor_memory,
        configs={
            "spark.driver.memory": spark.driver_memory,
            "spark.ray.raydp_spark_master.actor.resource.CPU": str(master_cpus),
            "spark.python.worker.reuse": "true",  # the VAD model stays loaded between waves
            "spark.sql.execution.arrow.maxRecordsPerBatch": "0",  # a partition is one batch
            "spark.ui.showConsoleProgress": "false",
            **pins,
        },
    )
    session.createDataFrame([], "plan string")  # brings up Spark SQL while the first executor's process starts
    _wait_for_an_executor(session, spark)
    return session


def _wait_for_an_executor(session: "SparkSession", spark: SparkSpec) -> None:
    deadline_s = time.monotonic() + FIRST_EXECUTOR_PATIENCE_S
    while num_executors(session) == 0:
        if time.monotonic() > deadline_s:
            executor = f"{spark.cores_per_executor} cores and {spark.executor_memory}"
            raise FatalError(
                f"no executor of Spark came for {FIRST_EXECUTOR_PATIENCE_S:.0f} s: the Ray cluster has no room for one "
                f"of {executor} (etl.spark; `ray status` says what there is)"
            )
        time.sleep(START_PAUSE_S)


def _wait_for_farewell() -> None:
    """Until the Spark before has given up its name, or RayDP cannot start another."""
    import ray

    deadline_s = time.monotonic() + FAREWELL_S
    while any(name.startswith(APP_NAME) for name in ray.util.list_named_actors()) and time.monotonic() < deadline_s:
        time.sleep(FETCH_PAUSE_S)


def ui_url(spark: "SparkSession") -> str:
    """Where SparkUI is: the driver's host, port 4040 or the next that is free; empty where it is switched off."""
    return spark.sparkContext.uiWebUrl or ""


def stop_spark() -> None:
    import raydp

    raydp.stop_spark()


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedWave:
    """A computed wave in the executors' caches, as RayDP describes it. Partition i is held by `executors[i]`."""

    rdd_id: int
    executors: tuple[str, ...]
    schema_json: str
    driver_agent_url: str


def prepare_wave(spark: "SparkSession", partitions: Sequence[Partition], etl: EtlSpec) -> "DataFrame":
    """A lazy frame whose partition i holds the rows of `partitions[i]` under WAVE_SCHEMA.

    Spark carries keys in and speech out; the workers fetch the recordings themselves.
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    return _keys(spark, partitions).mapInArrow(partial(_prepare, etl=etl), from_arrow_schema(WAVE_SCHEMA))


def store_wave(
    spark: "SparkSession", partitions: Sequence[Partition], etl: EtlSpec, intermediate: Intermediate, run_id: str
) -> list[StageEvent]:
    """Prepare partitions and store each from the task that prepared it; only what was done comes back.

    Raises RetryableError where no executor is left.
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    store = partial(_store, etl=etl, intermediate=intermediate, run_id=run_id)
    events = _keys(spark, partitions).mapInArrow(store, from_arrow_schema(EVENT_SCHEMA))
    with _never_without_executors(spark):
        rows = events.collect()
    return [StageEvent(**row.asDict()) for row in rows]


def _keys(spark: "SparkSession", partitions: Sequence[Partition]) -> "DataFrame":
    """One row and one task per partition: its calls, as JSON."""
    plans = [(json.dumps(asdict(partition)),) for partition in partitions]
    return spark.createDataFrame(spark.sparkContext.parallelize(plans, len(plans)), "plan string")


def cache_wave(spark: "SparkSession", wave: "DataFrame") -> CachedWave:
    """Compute a wave and keep it in the executors, in memory or on disk, until `release`.

    This and `to_ray` do what raydp.spark.from_spark_recoverable does, without the Ray Dataset it makes in between:
    that one loads every partition into a further worker for its statistics, and waits for a free CPU slot to do so.
    """
    info = _computed(spark, wave)
    return CachedWave(
        rdd_id=info.rddId(),
        executors=tuple(info.locations()),
        schema_json=info.schemaJson(),
        driver_agent_url=info.driverAgentUrl(),
    )


def _computed(spark: "SparkSession", wave: "DataFrame") -> Any:
    """RayDP's description of the computed wave.

    RayDP looks up the executors that hold it when it is computed, and fails where one was lost at that moment; what is
    cached by then is dropped, and it is asked again. Raises RetryableError where no executor is left.
    """
    from py4j.protocol import Py4JJavaError
    from pyspark import StorageLevel

    level = spark.sparkContext._getJavaStorageLevel(StorageLevel.MEMORY_AND_DISK)
    before = _persistent(spark)
    attempt = 0
    while True:
        attempt += 1
        try:
            with _never_without_executors(spark):
                return _raydp(spark).prepareRecoverableRDD(wave._jdf, level)
        except Py4JJavaError as error:
            if attempt == WAVE_ATTEMPTS or not explain(error).startswith(_NO_SUCH_EXECUTOR):
                raise
        for rdd_id in _persistent(spark) - before:
            _raydp(spark).releaseRecoverableRDD(rdd_id)
        time.sleep(WAVE_PAUSE_S)


@contextmanager
def _never_without_executors(spark: "SparkSession") -> Iterator[None]:
    """Cancels the jobs of a Spark that has had no executor for a while: it would wait for one for ever.

    RayDP's master forgets its handle of an executor that died, and Ray ends the successor when that handle is collected
    as garbage; only a new Spark helps. Raises RetryableError.
    """
    given_up = threading.Event()
    seen_s = time.monotonic()

    def look() -> None:
        nonlocal seen_s
        if num_executors(spark) > 0:
            seen_s = time.monotonic()
        elif time.monotonic() - seen_s > EXECUTOR_PATIENCE_S:
            given_up.set()
            spark.sparkContext.cancelAllJobs()

    try:
        with every(WAVE_PAUSE_S, look, "executors"):
            yield
    except Exception as error:
        if given_up.is_set():
            raise RetryableError(
                f"no executor of Spark was left, and none came for {EXECUTOR_PATIENCE_S:.0f} s; with "
                "etl.spark.num_executors above 1 the others take over at once"
            ) from error
        raise


def num_executors(spark: "SparkSession") -> int:
    """Executors that are there now."""
    return int(spark.sparkContext._jsc.sc().getExecutorMemoryStatus().size()) - 1  # the driver is among them


def _persistent(spark: "SparkSession") -> set[int]:
    """The ids of what Spark is to keep."""
    return set(spark.sparkContext._jsc.getPersistentRDDs())


def to_ray(wave: CachedWave) -> list[Any]:
    """One reference per partition to its Arrow table; Ray fetches it from its executor, again should it get lost."""
    import ray

    there = sorted(name for name in ray.util.list_named_actors() if name.startswith(_EXECUTOR))
    fetch: Any = ray.remote(_fetch).options(num_cpus=0, num_returns=2)
    tables: list[Any] = []
    last: dict[str, Any] = {}
    for index, executor in enumerate(wave.executors):
        own_first = sorted(there, key=f"{_EXECUTOR}{executor}".__ne__)
        # One at a time: a restarted executor has two threads, and fetches that wait for its start may not take both.
        table, last[executor] = fetch.remote(wave, index, own_first, last.get(executor))
        tables.append(table)
    return tables


def _fetch(wave: CachedWave, index: int, executors: Sequence[str], _before: Any) -> tuple[pa.Table, None]:
    """A cached partition from the first executor that gives it: whichever is asked, Spark has it or computes it anew.

    An executor that was just restarted takes questions before Spark is up in it, and answers them with an error of
    Java's; so each is asked again for a while. Raises RetryableError.
    """
    from ray.exceptions import RayError

    error: Exception = LookupError("none was there")
    deadline_s = time.monotonic() + FETCH_PATIENCE_S
    while executors and time.monotonic() < deadline_s:
        for executor in executors:
            try:
                table = _asked(executor, wave, index)
            except (RayError, ValueError) as failed:  # ValueError: no actor of that name is left
                error = failed
            else:
                return _rebuilt(table), None
        time.sleep(FETCH_PAUSE_S)
    raise RetryableError(f"no executor gives partition {index} of a wave: {explain(error)}")


def _asked(executor: str, wave: CachedWave, index: int) -> pa.Table:
    """What raydp.spark.dataset's fetch does, without that module: Ray starts a process for each wave's fetches, and
    the import, of pandas, Spark and Ray Data, would be most of its work."""
    import ray
    from ray._private.worker import global_worker

    global_worker.set_load_code_from_local(True)  # else Python may not call an actor of Java's
    actor: Any = ray.get_actor(executor)
    data = ray.get(actor.getRDDPartition.remote(wave.rdd_id, index, wave.schema_json, wave.driver_agent_url))
    return pa.ipc.open_stream(pa.BufferReader(data)).read_all().replace_schema_metadata()


def _rebuilt(table: pa.Table) -> pa.Table:
    """The same table; Java leaves out the offsets of empty lists, and Ray takes no column without them."""
    columns = [
        column if field.name == "pcm" else pa.array(column.to_pylist(), field.type)
        for field, column in zip(table.schema, table.columns, strict=True)
    ]
    return pa.table(columns, schema=table.schema)


def release(spark: "SparkSession", wave: CachedWave) -> None:
    """Drop a wave from the executors' caches, memory and disk."""
    _raydp(spark).releaseRecoverableRDD(wave.rdd_id)


def num_cached(spark: "SparkSession") -> int:
    """Partitions in the executors' caches, in memory or on disk."""
    return sum(info.numCachedPartitions() for info in spark.sparkContext._jsc.sc().getRDDStorageInfo())


def explain(error: Exception) -> str:
    """One line: of an error in Spark's JVM its own first line, of one that Ray brought from elsewhere its cause."""
    import ray

    if isinstance(error, PipelineError):
        return str(getattr(error, "cause", error))  # what Ray brings has its traceback before the message
    java = getattr(error, "java_exception", None)
    text = str(java) if java is not None else f"{type(error).__name__}: {error}"
    lines = text.strip().splitlines() or ["no message"]
    causes = [line.strip() for line in lines if line.startswith("Caused by: ") and java is None]
    is_traceback = isinstance(error, ray.exceptions.RayTaskError)
    line = causes[-1] if causes else lines[-1 if is_traceback else 0]
    if "Java gateway process exited" in line:
        line += " (what java said is in Ray's log of the worker; do JDK_JAVA_OPTIONS suit this JDK, and is it 17?)"
    if "RayActorException" in line:  # what JDK 17 does to RayDP's master without the module opens
        line += " (do all nodes of the cluster have JDK_JAVA_OPTIONS set as images/ray-cpu does?)"
    return line


def _raydp(spark: "SparkSession") -> Any:
    jvm: Any = spark.sparkContext._jvm
    return jvm.org.apache.spark.sql.raydp.ObjectStoreWriter


def _prepare(batches: Iterator[pa.RecordBatch], etl: EtlSpec) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for plan in batch.column("plan").to_pylist():
            yield from prepared_table(plan, etl).to_batches()


def _store(
    batches: Iterator[pa.RecordBatch], etl: EtlSpec, intermediate: Intermediate, run_id: str
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for plan in batch.column("plan").to_pylist():
            partition = Partition.from_document(json.loads(plan))
            table = prepared_table(plan, etl)
            failures = table.filter(table["failure"].is_valid()).select(["call_id", "failure"]).to_pylist()
            codes = {row["call_id"]: row["failure"]["code"] for row in failures}
            intermediate.put(partition, table, codes, run_id)
            yield from pa.Table.from_pylist([asdict(etl_event(table))], schema=EVENT_SCHEMA).to_batches()


def prepared_table(plan: str, etl: EtlSpec) -> pa.Table:
    """One partition (as JSON), fetched, decoded and cut to speech: under WAVE_SCHEMA, one row per call in order."""
    from spark_etl.prepare import prepare_partition

    partition = Partition.from_document(json.loads(plan))
    began = time.time()
    table = audio_to_table(prepare_partition(partition.calls, etl, open_part))
    where = {
        "partition_id": partition.partition_id,
        "start_unix_s": began,
        "end_unix_s": time.time(),
        "worker": f"spark {socket.gethostname()}:{os.getpid()}",
    }
    for name, value in where.items():
        table = table.append_column(
            WAVE_SCHEMA.field(name), pa.array([value] * table.num_rows, WAVE_SCHEMA.field(name).type)
        )
    return table


def etl_event(prepared: pa.Table) -> StageEvent:
    """What ETL did, by a table under WAVE_SCHEMA."""
    rows = prepared.drop_columns(["pcm"]).to_pylist()
    good = [row for row in rows if row["failure"] is None]
    heard = [row for row in good if row["duplicate_of"] is None]  # a duplicate's audio was not worked on
    return StageEvent(
        partition_id=rows[0]["partition_id"],
        stage="etl",
        start_unix_s=rows[0]["start_unix_s"],
        end_unix_s=rows[0]["end_unix_s"],
        num_calls=len(rows),
        num_failed=len(rows) - len(good),
        audio_s=sum(row["duration_s"] for row in heard),
        speech_s=sum(sum(span["num_samples"] for span in row["spans"]) / row["sample_rate_hz"] for row in heard),
        worker=rows[0]["worker"],
    )


def open_part(part: Part, shown: str) -> Recording:
    """One file of a call, called `shown` in reasons. Raises CallError where it is not to be had as it was planned."""
    try:
        return Recording(storage.open_bytes(part.uri, version=part.version))
    except FileNotFoundError:
        raise CallError("vanished", f"{shown} was listed and is no longer there") from None
    except PermissionError as error:
        raise CallError("access_denied", f"{shown}: {error.strerror}") from None
    except storage.ChangedError:
        raise CallError(
            "changed", f"{shown} was replaced after it was listed; the next run takes the new one"
        ) from None
    except (RetryableError, OSError) as error:
        raise CallError("storage", f"{shown}: {' '.join(str(error).split())}") from None
