"""What a failed pipeline says: one line, the first cause."""

import pytest
from ray.exceptions import ObjectStoreFullError, RayTaskError

from ray_jobs.errors import ModelError
from ray_jobs.pipeline import _cause

LOST = RayTaskError("take", "Traceback (most recent call last):\n  File x\nOSError: no space left", cause="not pickled")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RayTaskError("take", "Traceback ...", ModelError("model.bin is short")), "ModelError: model.bin is short"),
        (LOST, "RayTaskError: OSError: no space left"),
        (ValueError("\n"), "ValueError: no message"),
        (ObjectStoreFullError("No room.\n  Raise object_store_memory."), "ObjectStoreFullError: No room."),
    ],
)
def test_the_innermost_cause_is_told_in_one_line(error: Exception, line: str) -> None:
    assert _cause(error) == line
