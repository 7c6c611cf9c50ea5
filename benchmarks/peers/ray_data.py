"""Ray Data alone, the documented way: `python -m benchmarks.peers.ray_data INPUT OUT`.

read_binary_files, then a pool of actors that each hold faster-whisper's batched pipeline, as Ray's guide to batch
inference shows it. One file per call of an actor; one actor per core, a thread each. Nothing is redacted.
"""

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from benchmarks.peers import write_texts
from benchmarks.peers.batched import load, read_channels


class Transcriber:
    def __init__(self) -> None:
        self._pipeline = load(num_threads=1)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"name": Path(row["path"]).stem, "texts": read_channels(self._pipeline, io.BytesIO(row["bytes"]))}


def main(arguments: Sequence[str]) -> None:
    recordings, out = arguments
    root = str(Path(__file__).parents[2])
    num_actors = os.cpu_count() or 1
    # a slot more than the actors take, or nothing would be left to read with
    environment = {"env_vars": {"PYTHONPATH": root}}
    ray.init(num_cpus=num_actors + 1, runtime_env=environment, include_dashboard=False, log_to_driver=False)
    rows = ray.data.read_binary_files(recordings, include_paths=True, file_extensions=["wav"], override_num_blocks=64)
    rows = rows.map(Transcriber, concurrency=num_actors, num_cpus=1)
    write_texts(Path(out), {row["name"]: list(row["texts"]) for row in rows.take_all()})


if __name__ == "__main__":
    main(sys.argv[1:])
