"""ETL by itself: Spark prepares the plan's partitions and stores each from the task that prepared it."""

import time

from ray_jobs.errors import FatalError, RetryableError
from ray_jobs.intermediate import Intermediate
from ray_jobs.records import StageEvent, StartUp
from ray_jobs.runtime import SPARK_MASTER_CPUS
from ray_jobs.spec import RunSpec
from spark_etl import job
from spark_etl.plan import Plan

TASKS_PER_CORE = 4
"""Partitions given to Spark at once, per core: enough to even out their lengths; progress is told between waves."""


class Preparation:
    """A flow of one stage. Nothing travels back but what was done, so the number of partitions bounds no memory."""

    def __init__(self, spec: RunSpec, plan: Plan, run_id: str) -> None:
        self._spec = spec
        self._plan = plan
        self._run_id = run_id
        self._events: list[StageEvent] = []
        self._startups: list[StartUp] = []
        self._warnings: list[str] = []

    def run(self) -> None:
        """Raises FatalError where Spark gives up."""
        try:
            self._prepare()
        except Exception as error:
            raise FatalError(f"Spark ETL stopped: {job.explain(error)}") from error
        finally:
            job.stop_spark()

    def events(self, start: int) -> list[StageEvent]:
        return self._events[start:]

    def warnings(self, start: int) -> list[str]:
        return self._warnings[start:]

    def startups(self) -> list[StartUp]:
        return list(self._startups)

    def waiting_for(self) -> str:
        return "" if self._startups else "starting spark"

    def _prepare(self) -> None:
        began_unix_s = time.time()
        spark = job.start_spark(self._spec.etl.spark, SPARK_MASTER_CPUS)
        ui_url = job.ui_url(spark)
        self._startups.append(StartUp(phase="spark", start_unix_s=began_unix_s, end_unix_s=time.time(), ui_url=ui_url))
        intermediate = Intermediate(self._spec)
        partitions, size = self._plan.partitions, TASKS_PER_CORE * self._spec.wave_size
        for low in range(0, len(partitions), size):
            wave = partitions[low : low + size]
            try:
                self._events.extend(job.store_wave(spark, wave, self._spec.etl, intermediate, self._run_id))
            except RetryableError as error:
                self._warnings.append(f"Spark ETL is started again: {error}")
                job.stop_spark()
                spark = job.start_spark(self._spec.etl.spark, SPARK_MASTER_CPUS)
                self._events.extend(job.store_wave(spark, wave, self._spec.etl, intermediate, self._run_id))
