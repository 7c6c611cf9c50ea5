"""A Ray job for tests: stamps its start and end into FOLDER/stamps, and prints numbered lines until FOLDER/release is.

A lock, which the kernel takes back from the dead, tells whether another one runs: that is stamped too, as `overlap`.
"""

import fcntl
import itertools
import os
import sys
import time
from pathlib import Path

LINE_S = 0.5


def main(folder: Path) -> None:
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stamp(folder, "overlap")
            sys.exit(1)
        stamp(folder, "start")
        for number in itertools.takewhile(lambda _: not (folder / "release").exists(), itertools.count(1)):
            print(f"line {number}", flush=True)
            time.sleep(LINE_S)
        stamp(folder, "end")


def stamp(folder: Path, event: str) -> None:
    with (folder / "stamps").open("a") as stamps:
        stamps.write(f"{event} {os.getpid()}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
