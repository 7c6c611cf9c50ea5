"""Ray under the job: the environment it needs, joining or starting it, and what it can place."""

import contextlib
import logging
import math
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ray_jobs.errors import FatalError
from ray_jobs.spec import STAGES, ActorSpec, RunSpec

if TYPE_CHECKING:
    import psutil

_OPENED_PACKAGES = (
    *(f"java.{name}" for name in ("lang", "lang.invoke", "lang.reflect", "io", "net", "nio", "math", "text")),
    *(f"java.{name}" for name in ("util", "util.concurrent", "util.concurrent.atomic")),
    *("sun.nio.ch", "sun.nio.cs", "sun.security.action", "sun.util.calendar", "jdk.internal.ref"),
)
# Ray's Java serialiser reflects into these; without the opens the Spark master dies on JDK 17
JAVA_OPTIONS = " ".join(
    [
        *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED_PACKAGES),
        "--add-opens=java.sql/java.sql=ALL-UNNAMED",
        # Spark's JVMs plan and pass Arrow on, Python does the work: the optimising compiler, which took 9 of a run's 28
        # CPU-seconds of JVMs, and a collector with threads of its own never pay.
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
    ]
)

_ENVIRONMENT = {
    "JDK_JAVA_OPTIONS": JAVA_OPTIONS,
    "PYSPARK_PYTHON": sys.executable,  # else executors take the system's python
    "RAY_AUTH_MODE": "disabled",  # of the Ray that is started here, for this machine only; a cluster sets its own
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # the workers do the work; Ray would put them behind everything else
    # where cores are few Ray ends idle workers after a second, and whoever fetches a partition or counts a stage's rows
    # next pays for three seconds of imports
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # our own bars follow partitions, not blocks
    "TOKENIZERS_PARALLELISM": "false",
}

SPARK_MASTER_CPUS = 0.5
"""CPU slots of each of RayDP's two master actors, the Python one and the JVM's."""

CONNECT_TIMEOUT_S = 15.0

MEMORY_SAMPLE_S = 5.0
_NOTABLY = 1.01
"""Growth of memory below this factor is not looked into."""

START_ATTEMPTS = 4
_START_TIMED_OUT = "timed out during startup"

OBJECT_STORE_BYTES_PER_PARTITION = 3
"""Copies of a partition that a local object store leaves room for."""


def prepare_environment(stages: Collection[str] = STAGES) -> None:
    """Set what Ray, Spark and their workers inherit. Call before any of them starts.

    Raises FatalError where Spark is to run and there is no JDK.
    """
    if "etl" in stages and shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        raise FatalError(
            "no java on PATH and no JAVA_HOME: Spark needs JDK 17 (Debian: apt-get install openjdk-17-jre-headless)"
        )
    code = str(Path(__file__).resolve().parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH")]))
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _is_local() -> bool:
    """Whether this process starts a Ray of its own: a Ray job, and whoever means a cluster, has RAY_ADDRESS set."""
    return "RAY_ADDRESS" not in os.environ


def slots(actors: ActorSpec) -> float:
    return actors.num_cpus * actors.min_actors


def cpu_slots(spec: RunSpec, stages: Collection[str]) -> float:
    """CPU slots that must be there for each of `stages` to start."""
    spark = spec.etl.spark
    spark_slots = spark.num_executors * spark.cores_per_executor + 2 * SPARK_MASTER_CPUS
    return sum(map(slots, _pools(spec, stages))) + (spark_slots if "etl" in stages else 0)


def gpu_slots(spec: RunSpec, stages: Collection[str]) -> float:
    """GPUs that must be there for each of `stages` to start."""
    return gpus_to_hold([pool.num_gpus for pool in _pools(spec, stages) for _ in range(pool.min_actors)])


def gpus_to_hold(shares: Sequence[float]) -> float:
    """GPUs that the shares of all actors take: a fraction lies on one GPU; first fit, the largest first."""
    free: list[float] = []
    for share in sorted((share for share in shares if 0 < share < 1), reverse=True):
        fitting = next((i for i, room in enumerate(free) if share <= room), None)
        if fitting is None:
            fitting = len(free)
            free.append(1.0)
        free[fitting] = round(free[fitting] - share, 4)  # Ray counts in ten-thousandths
    return sum(share for share in shares if share >= 1) + len(free)


def _pools(spec: RunSpec, stages: Collection[str]) -> list[ActorSpec]:
    pools = {"asr": spec.asr.actors, "redact": spec.redact.actors, "analyse": spec.llm.actors}
    return [pool for stage, pool in pools.items() if stage in stages]


@contextlib.contextmanager
def ray_cluster(spec: RunSpec, stages: Collection[str]) -> Iterator[str]:
    """Join the cluster this job runs on, or start a local one with as many CPU slots as the stages ask for.

    Yields the dashboard's URL. Raises FatalError where nothing answers at RAY_ADDRESS, or where the stages can never be
    placed together.
    """
    import ray

    if _is_local():
        context = _start_local(spec, stages)
    else:
        _check_reachable(os.environ["RAY_ADDRESS"])
        context = ray.init(address="auto", logging_level=logging.ERROR, log_to_driver=False)
    try:
        _check_placeable(spec, stages, ray.cluster_resources())
        yield f"http://{context.dashboard_url}"
    finally:
        ray.shutdown()


def _start_local(spec: RunSpec, stages: Collection[str], attempts: int = START_ATTEMPTS) -> Any:
    """A Ray of this process's own. A busy machine is given more time than the 30 s after which Ray gives itself up.

    Raises FatalError.
    """
    import ray

    try:
        return ray.init(
            # slots are bookkeeping, not cores: on a small machine the stages share what there is
            num_cpus=max(os.cpu_count() or 1, math.ceil(cpu_slots(spec, stages))),
            object_store_memory=_object_store_bytes(spec),
            include_dashboard=True,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except Exception as error:  # Ray has no class for it
        ray.shutdown()
        if attempts > 1 and _START_TIMED_OUT in str(error):
            return _start_local(spec, stages, attempts - 1)
        raise FatalError(f"Ray did not start: {(str(error).splitlines() or [type(error).__name__])[0]}") from error


def _object_store_bytes(spec: RunSpec) -> int:
    """Room for every uncommitted partition at its largest, within a third of the machine's memory."""
    wanted = OBJECT_STORE_BYTES_PER_PARTITION * spec.max_uncommitted * spec.etl.partition.max_bytes
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(256 * 1024 * 1024, min(wanted, memory // 6))


def _check_reachable(address: str) -> None:
    """Ray itself waits for minutes for a head that is not there, and says nothing. Raises FatalError."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit() or "/" in host:
        return  # "auto", or a form that Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise FatalError(f"no Ray answers at RAY_ADDRESS {address}: {error.strerror or error}") from None


def _check_placeable(spec: RunSpec, stages: Collection[str], resources: dict[str, float]) -> None:
    needs = {"CPU": cpu_slots(spec, stages), "GPU": gpu_slots(spec, stages)}
    for name, needed in needs.items():
        there = resources.get(name, 0.0)
        if needed > there and not os.environ.get("RAY_CLUSTER_AUTOSCALES"):
            raise FatalError(
                f"the stages need {needed:g} {name} slots to start and the cluster has {there:g}: lower "
                f"num_{name.lower()}s or min_actors of asr, redact or llm, or take a larger cluster"
            )


@contextlib.contextmanager
def engine_noise_to(path: Path) -> Iterator[TextIO]:
    """Send what Spark's JVM, Ray and the libraries print to a file; yields the stderr there was, for our own lines.

    The two standard streams are turned at the level of file descriptors: child processes inherit them.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(os.dup(2), "w", buffering=1) as terminal:
        try:
            os.dup2(log, 1)
            os.dup2(log, 2)
            yield terminal
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, descriptor in zip((1, 2), kept, strict=True):
                os.dup2(descriptor, stream)
                os.close(descriptor)
            os.close(log)


@contextlib.contextmanager
def every(period_s: float, call: Callable[[], None], name: str) -> Iterator[None]:
    """Call it again and again, from a thread of its own called `name`, until left; by then the last call has ended."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(period_s):
            call()

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class MemoryPeak:
    """The memory of processes together, shared pages counted once (PSS), at its height over samples.

    For PSS the kernel walks every page, which costs a tenth of a core where models are loaded: it is asked only when
    what the processes have for themselves, which it knows at once, is higher than ever.
    """

    def __init__(self) -> None:
        self.peak_bytes: int | None = None
        self._highest_own_bytes = 0.0

    def sample(self) -> None:
        """Of this process and all below it."""
        import psutil

        this = psutil.Process()
        self.sample_of([this, *this.children(recursive=True)])

    def sample_of(self, processes: Sequence["psutil.Process"]) -> None:
        """Of these; those that have ended meanwhile count nothing."""
        own_bytes = sum(_asked(processes, lambda process: _own_bytes(process.memory_info())))
        if own_bytes > _NOTABLY * self._highest_own_bytes:
            self._highest_own_bytes = own_bytes
            num_bytes = sum(_asked(processes, lambda process: process.memory_full_info().pss))
            self.peak_bytes = max(self.peak_bytes or 0, num_bytes)


def _own_bytes(memory: Any) -> int:
    """Resident bytes that are no file's and no other process's."""
    return int(memory.rss - memory.shared)


def _asked(processes: Sequence["psutil.Process"], question: Callable[["psutil.Process"], int]) -> Iterator[int]:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):  # gone meanwhile
            yield question(process)
