"""How long planning takes, and how much memory: `python -m benchmarks.planning [--calls 100000]`.

Planned twice: a folder of recordings (sparse files with true headers, of lognormal lengths around four minutes), and
an S3 listing of the same lengths that is already there (benchmarks.listing measures listing itself). Then the plan is
stored, taken up by a second run, and planned once more with every call done, as an hourly run finds it.

The last line is JSON: `ours` is calls planned per second, listing and storing the plan included, in the slower of the
two cases; `peak_bytes` is the process's largest memory over everything.
"""

import argparse
import json
import os
import resource
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import TypeVar
from unittest.mock import patch

from ray_jobs import storage
from ray_jobs.ledger import CallState, Ledger, new_marker
from ray_jobs.spec import RunSpec, parse_spec
from ray_jobs.storage import ObjectInfo
from spark_etl.plan import Plan, make_plan, persist

BYTES_PER_S = 16_000  # stereo G.711
HEADER = struct.pack("<4sI8sIHHIIHH", b"RIFF", 0, b"WAVEfmt ", 18, 7, 2, 8_000, BYTES_PER_S, 2, 8)

Result = TypeVar("Result")


def recordings(num_calls: int) -> Iterator[tuple[str, int]]:
    """Paths below the input, by day and queue, and sizes in bytes."""
    random = Random(7)
    for number in range(num_calls):
        day = number * 28 // num_calls + 1
        duration_s = min(random.lognormvariate(5.2, 0.8), 14_000)
        yield f"2026/11/{day:02}/queue-{number % 7}/{number:07}.wav", 44 + int(duration_s * 50) * BYTES_PER_S // 50


def make_files(folder: Path, num_calls: int) -> None:
    for name, size_bytes in recordings(num_calls):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(HEADER)
            file.truncate(size_bytes)


@contextmanager
def a_bucket(num_calls: int) -> Iterator[str]:
    """An S3 listing that costs nothing to get."""
    root = "s3://bucket/calls"
    listed = [
        ObjectInfo(uri=f"{root}/{name}", size_bytes=size_bytes, version=f"{number:032x}", modified_unix_s=0.0)
        for number, (name, size_bytes) in enumerate(recordings(num_calls))
    ]
    list_objects = storage.list_objects
    with patch.object(storage, "list_objects", lambda uri: iter(listed) if uri == root else list_objects(uri)):
        yield root


def timed(what: str, work: Callable[[], Result]) -> tuple[Result, float]:
    began = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - began
    print(f"  {what:44} {seconds:6.2f} s   peak {peak_bytes() / 2**20:,.0f} MiB", flush=True)
    return result, seconds


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def commit(plan: Plan, ledger: Ledger) -> None:
    for partition in plan.partitions:
        states = [CallState(call_id=c.call_id, uri=c.uri, version=c.version, code="ok") for c in partition.calls]
        ledger.commit(new_marker("transcripts", partition.partition_id, plan.fingerprints["redact"], "r", [], states))


def measure(title: str, root: str, output: str) -> tuple[float, float, Plan]:
    """Seconds to plan and store, seconds to plan when all is done, and the plan."""
    print(title)
    spec: RunSpec = parse_spec({"input": {"uri": root}, "output": {"uri": output}, "llm": {"engine": "none"}})
    ledger = Ledger(output)
    plan, planned_s = timed("list and plan", lambda: make_plan(spec, ledger))
    _, persisted_s = timed("store the plan", lambda: persist(plan, ledger))
    again, _ = timed("plan again, nothing committed", lambda: make_plan(spec, ledger))
    assert again.partitions == plan.partitions
    timed("commit (the stages' work, not counted)", lambda: commit(plan, ledger))
    after, done_s = timed("plan again, all committed", lambda: make_plan(spec, ledger))
    assert after.nothing_to_do
    sizes = [len(partition.calls) for partition in plan.partitions]
    print(f"  {len(plan.partitions):,} partitions of {min(sizes)} to {max(sizes)} calls, skew {plan.skew:.3f}")
    return planned_s + persisted_s, done_s, plan


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of planning.")
    parser.add_argument("--calls", type=int, default=100_000)
    num_calls = parser.parse_args().calls
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work, "calls")
        make_files(folder, num_calls)
        local_s, local_done_s, plan = measure(f"a folder of {num_calls:,} recordings", str(folder), f"{work}/out")
        with a_bucket(num_calls) as root:
            s3_s, s3_done_s, _ = measure(f"an S3 listing of {num_calls:,} recordings", root, f"{work}/out-s3")
    document = {
        "benchmark": "planning",
        "ours": round(num_calls / max(local_s, s3_s), 1),
        "seconds": round(max(local_s, s3_s), 2),
        "seconds_all_done": round(max(local_done_s, s3_done_s), 2),
        "peak_bytes": peak_bytes(),
        "num_calls": num_calls,
        "num_partitions": len(plan.partitions),
        "skew": round(plan.skew, 3),
        "num_cpus": os.cpu_count(),
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
