"""faster-whisper's own batched pipeline over the files: `python -m benchmarks.peers.batched INPUT OUT`.

A pool of processes with one thread each, its built-in voice detection, a batch of 16, text without word times. Nothing
is redacted.
"""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.peers import MODEL, write_texts

BATCH_SIZE = 16

_pipeline: Any = None


def load(num_threads: int) -> Any:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    from ray_jobs.engines import weights

    folder = str(weights.resolve(MODEL, "faster_whisper"))
    return BatchedInferencePipeline(WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=num_threads))


def read_channels(pipeline: Any, source: Any) -> list[str]:
    """Both channels' texts of a file or of a file-like object."""
    from faster_whisper.audio import decode_audio

    texts = []
    for samples in decode_audio(source, split_stereo=True):
        segments, _ = pipeline.transcribe(samples, language="en", beam_size=1, batch_size=BATCH_SIZE)
        texts.append(" ".join(segment.text.strip() for segment in segments))
    return texts


def _start() -> None:
    global _pipeline
    _pipeline = load(num_threads=1)


def _read(path: str) -> list[str]:
    return read_channels(_pipeline, path)


def main(arguments: Sequence[str]) -> None:
    recordings, out = map(Path, arguments)
    paths = sorted(recordings.glob("*.wav"), key=lambda path: -path.stat().st_size)  # longest first: a short tail
    with ProcessPoolExecutor(os.cpu_count(), initializer=_start) as pool:
        texts = dict(zip([path.stem for path in paths], pool.map(_read, map(str, paths)), strict=True))
    write_texts(out, texts)


if __name__ == "__main__":
    main(sys.argv[1:])
