"""Shared by all tests: the tree is importable here and in the processes that Ray and Spark start."""

import os
import sys
from pathlib import Path

import pytest

ROOT = str(Path(__file__).resolve().parent.parent)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))

# torch reads this when it is first imported, which in one process of many tests is not the test that looks at it
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

_STATUS = pytest.StashKey[int]()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End without taking the interpreter down piece by piece, once everything is reported and every fixture is gone.

    One process has held Ray, vLLM, CTranslate2, PyAV and gRPC by then, whose threads and destructors come in an order
    no program of ours has: a run in which all had passed ended in a segmentation fault.
    """
    status = config.stash.get(_STATUS, None)
    if status is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_STATUS] = int(exitstatus)
