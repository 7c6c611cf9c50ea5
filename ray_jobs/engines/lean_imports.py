"""Libraries imported as if what they can do without were not installed: less to load, less to keep in memory."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def imported_without(*names: str) -> Iterator[None]:
    """Imports within it find no module of these names, unless it is imported already.

    Python takes a None among its modules for one that is not there. For the whole process: keep other threads from
    importing meanwhile.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # its type knows modules only
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
