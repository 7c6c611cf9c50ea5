"""Where prepared partitions come from: Spark's caches while it runs, or the Parquet files of an earlier job."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import ray

from ray_jobs.errors import FatalError
from ray_jobs.intermediate import Intermediate
from ray_jobs.ledger import Partition
from ray_jobs.runtime import SPARK_MASTER_CPUS
from ray_jobs.sinks import read_parquet
from ray_jobs.spec import RunSpec
from spark_etl import job

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class Source(Protocol):
    """Prepares partitions wave by wave; driven by one thread, which calls `stop` whatever happened.

    It may be stopped and started anew: what was fetched before stays.
    """

    phase: str
    """What its start is called beside those of the stages."""

    what: str
    """What has stopped when it raises."""

    wave_size: int
    """Partitions to prepare at once."""

    def start(self) -> str:
        """Where its own web pages are while it runs; empty where it has none."""
        ...

    def prepare(self, wave: Sequence[Partition]) -> list[Any]:
        """One reference per partition, in order, to its table under spark_etl.job.WAVE_SCHEMA.

        Raises RetryableError where it could after a new start.
        """
        ...

    def release(self, committed: set[str]) -> None:
        """Let go of what is held of these partitions; called again with more as they are committed."""
        ...

    def stop(self) -> None: ...


class SparkSource:
    """Spark prepares the partitions and its executors' caches hold them until they are committed."""

    phase = "spark"
    what = "Spark ETL"

    def __init__(self, spec: RunSpec) -> None:
        self.wave_size = spec.wave_size
        self.num_cached: list[int] = []
        """Partitions in Spark's cache, memory and disk, after each wave prepared and each wave released."""
        self._etl = spec.etl
        self._spark: SparkSession | None = None
        self._open_waves: list[tuple[job.CachedWave, set[str]]] = []

    @property
    def spark(self) -> "SparkSession":
        assert self._spark is not None, "start comes first"
        return self._spark

    def start(self) -> str:
        self._spark = job.start_spark(self._etl.spark, SPARK_MASTER_CPUS)
        return job.ui_url(self._spark)

    def prepare(self, wave: Sequence[Partition]) -> list[Any]:
        cached = job.cache_wave(self.spark, self.frame(wave))
        self._open_waves.append((cached, {partition.partition_id for partition in wave}))
        self.num_cached.append(job.num_cached(self.spark))
        return job.to_ray(cached)

    def frame(self, wave: Sequence[Partition]) -> "DataFrame":
        """What Spark is to compute: partition i holds what becomes of `wave[i]`."""
        return job.prepare_wave(self.spark, wave, self._etl)

    def release(self, committed: set[str]) -> None:
        """Free the cached blocks of every wave whose partitions are all committed."""
        for wave in [wave for wave in self._open_waves if wave[1] <= committed]:
            job.release(self.spark, wave[0])
            self._open_waves.remove(wave)
            self.num_cached.append(job.num_cached(self.spark))

    def stop(self) -> None:
        self._open_waves.clear()
        job.stop_spark()


class ParquetSource:
    """Partitions that `ray_jobs.preprocess` stored: read one at a time, deleted when they are committed."""

    phase = "partitions"
    what = "reading prepared partitions"
    wave_size = 1

    def __init__(self, intermediate: Intermediate, prepared: Mapping[str, str]) -> None:
        """`prepared` maps partition ids to locations."""
        self._intermediate = intermediate
        self._prepared = prepared
        self._released: set[str] = set()

    def start(self) -> str:
        return ""

    def prepare(self, wave: Sequence[Partition]) -> list[Any]:
        return [_read.remote(self._prepared[partition.partition_id]) for partition in wave]

    def release(self, committed: set[str]) -> None:
        self._intermediate.discard(committed - self._released)
        self._released |= committed

    def stop(self) -> None:
        pass


@ray.remote(num_cpus=0, scheduling_strategy="SPREAD")
def _read(uri: str) -> pa.Table:
    """A partition into the object store; Ray runs it again should the table get lost."""
    try:
        return read_parquet(uri)
    except FileNotFoundError:
        raise FatalError(f"{uri} was deleted before it was transcribed: run ray_jobs.preprocess again") from None
