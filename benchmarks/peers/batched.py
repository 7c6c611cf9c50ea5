"""faster-whisper's own batched pipeline over the files: `python -m benchmarks.peers.batched INPUT OUT [--words]`.

A pool of processes with one thread each, its built-in voice detection, a batch of 16. Nothing is redacted, and words
have no times unless asked for.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
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


def read_channels(pipeline: Any, source: Any, *, words: bool = False) -> list[str]:
    """Both channels' texts of a file or of a file-like object; with `words` their times are found too."""
    from faster_whisper.audio import decode_audio

    texts = []
    for samples in decode_audio(source, split_stereo=True):
        segments, _ = pipeline.transcribe(
            samples, language="en", beam_size=1, batch_size=BATCH_SIZE, word_timestamps=words
        )
        texts.append(" ".join(segment.text.strip() for segment in segments))
    return texts


def _start() -> None:
    global _pipeline
    _pipeline = load(num_threads=1)


def _read(path: str, *, words: bool) -> list[str]:
    return read_channels(_pipeline, path, words=words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path, help="folder of WAV files")
    parser.add_argument("out", type=Path, help="folder for texts.json")
    parser.add_argument("--words", action="store_true", help="find the words' times too")
    options = parser.parse_args()
    paths = sorted(options.recordings.glob("*.wav"), key=lambda path: -path.stat().st_size)  # longest first: short tail
    with ProcessPoolExecutor(os.cpu_count(), initializer=_start) as pool:
        found = pool.map(partial(_read, words=options.words), map(str, paths))
        texts = dict(zip([path.stem for path in paths], found, strict=True))
    write_texts(options.out, texts)


if __name__ == "__main__":
    main()
