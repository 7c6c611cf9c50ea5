"""A call's recording once more, with silence where secrets were spoken, as a WAV file.

The recording is read and decoded again, for speech is all that ETL keeps of it. What is in memory is one block of its
samples.
"""

import wave
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path

from ray_jobs.errors import CallError
from ray_jobs.records import Call, Redaction
from ray_jobs.spec import EtlSpec
from ray_jobs.stages.mute import mute
from spark_etl.decode import Block
from spark_etl.job import open_part
from spark_etl.prepare import read_blocks

MAX_WAV_BYTES = (1 << 32) - (1 << 10)
"""Samples that a WAV file's 32-bit sizes can count, less its header."""


def write_muted(call: Call, redactions: Sequence[Redaction], etl: EtlSpec, path: Path) -> None:
    """Write the muted recording: all channels, int16, at the rate that was transcribed (8 or 16 kHz).

    Raises CallError where the recording is not to be had or not the version that was transcribed, and `too_long` where
    no WAV file holds it.
    """
    with closing(read_blocks(call, etl, open_part)) as blocks:
        write_wav(_muted(blocks, redactions), path)


def write_wav(blocks: Iterator[Block], path: Path) -> None:
    """Write blocks, at least one, all of one rate and number of channels. Raises CallError `too_long`."""
    first = next(blocks)
    num_bytes = 0
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(first.pcm))
        file.setsampwidth(2)
        file.setframerate(first.sample_rate_hz)
        for block in chain((first,), blocks):
            num_bytes += block.pcm.nbytes
            if num_bytes > MAX_WAV_BYTES:
                raise CallError("too_long", "a WAV file holds 4 GiB")
            file.writeframesraw(block.pcm.T.astype("<i2").tobytes())


def _muted(blocks: Iterator[Block], redactions: Sequence[Redaction]) -> Iterator[Block]:
    start_sample = 0
    for block in blocks:
        pcm = mute(block.pcm, block.sample_rate_hz, redactions, start_sample=start_sample)
        start_sample += block.pcm.shape[1]
        yield replace(block, pcm=pcm)
