"""Shared by all tests: the tree is importable here and in the processes that Ray and Spark start."""

import os
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent.parent)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))

# torch reads this when it is first imported, which in one process of many tests is not the test that looks at it
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
