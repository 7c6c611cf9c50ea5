"""What glibc does with a freed tensor: measured in page faults, in a process of its own, for there is no way back."""

import subprocess
import sys
import textwrap

import pytest

MEASURE = textwrap.dedent(
    """
    import resource, sys
    from concurrent.futures import ThreadPoolExecutor
    import numpy as np
    from ray_jobs.engines.heap import keep_freed_memory

    def fill():
        np.ones(80 * 2**20, np.uint8)  # above the largest block that glibc keeps by itself

    if sys.argv[1] == "kept":
        keep_freed_memory()
    with ThreadPoolExecutor(1) as worker:
        worker.submit(fill).result()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            worker.submit(fill).result()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_freed_memory_is_taken_again_without_page_faults():
    kept, given_back = (_page_faults(how) for how in ("kept", "given_back"))
    assert kept < 100 < given_back


def _page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", MEASURE, how], capture_output=True, text=True, check=True)
    return int(done.stdout)
