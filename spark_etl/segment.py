"""Where audio is cut: long recordings into sections, the speech of a section into stretches."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ray_jobs.spec import VadSpec
from spark_etl.decode import Block, Samples
from spark_etl.vad import CHUNK_S

SECTION_S = 300.0
"""The longest stretch of a recording that is in memory at once."""

_CUT_WITHIN_S = 30.0
_QUIET_S = 0.1
_HYSTERESIS = 0.15
"""Speech goes on until its probability falls this far below the threshold (as in Silero's own iterator)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a recording that is treated on its own. `pcm`: int16, shape (num_channels, num_samples)."""

    start_sample: int
    sample_rate_hz: int
    pcm: Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Samples start..end of one channel of a section."""

    start: int
    end: int


def cut_sections(blocks: Iterable[Block]) -> Iterator[Section]:
    """A recording's blocks as sections of at most SECTION_S, cut where all its channels together are quietest."""
    held: list[Samples] = []
    rate = start = num_held = 0
    for block in blocks:
        rate = block.sample_rate_hz
        held.append(block.pcm)
        num_held += block.pcm.shape[1]
        while num_held > SECTION_S * rate:
            pcm = np.concatenate(held, axis=1)
            end = int(SECTION_S * rate)
            cut = _quietest(pcm, end - int(_CUT_WITHIN_S * rate), end, rate)
            yield Section(start_sample=start, sample_rate_hz=rate, pcm=pcm[:, :cut])
            held, num_held, start = [pcm[:, cut:].copy()], num_held - cut, start + cut
    if num_held:
        pcm = held[0] if len(held) == 1 else np.concatenate(held, axis=1)
        yield Section(start_sample=start, sample_rate_hz=rate, pcm=pcm)


def find_stretches(
    probabilities: npt.NDArray[np.float32], samples: Samples, sample_rate_hz: int, vad: VadSpec
) -> list[Stretch]:
    """The speech of one channel in order: padded, merged, none longer than `vad.max_speech_s`, none overlapping.

    `probabilities`: float32, one per CHUNK_S of `samples` (int16). Speech starts where the probability reaches the
    threshold and ends where it stays below threshold - 0.15 for `min_silence_ms`; what lasts less than `min_speech_ms`
    is dropped; `pad_ms` are added on both sides, and stretches that then touch become one. A stretch that is too long
    is cut at the quietest 100 ms of its second half until it is not.
    """
    chunk = round(CHUNK_S * sample_rate_hz)
    min_chunks = vad.min_speech_ms / 1000 / CHUNK_S
    pad = vad.pad_ms * sample_rate_hz // 1000
    stretches: list[Stretch] = []
    for first, last in _runs(probabilities, vad.threshold, vad.min_silence_ms / 1000 / CHUNK_S):
        if last - first < min_chunks:
            continue
        start, end = max(0, first * chunk - pad), min(len(samples), last * chunk + pad)
        if stretches and start <= stretches[-1].end:
            start = stretches.pop().start
        stretches.append(Stretch(start=start, end=end))
    longest = int(vad.max_speech_s * sample_rate_hz)
    return [part for stretch in stretches for part in _split(stretch, samples, longest, sample_rate_hz)]


def _runs(probabilities: npt.NDArray[np.float32], threshold: float, min_silence: float) -> list[tuple[int, int]]:
    """Chunks first..last of each run of speech; silences shorter than `min_silence` chunks do not end one."""
    voiced = np.flatnonzero(probabilities >= max(threshold - _HYSTERESIS, 0.01))
    if not len(voiced):
        return []
    gaps = np.flatnonzero(np.diff(voiced) > max(min_silence, 1))
    starts = voiced[np.concatenate([[0], gaps + 1])].tolist()
    ends = (voiced[np.concatenate([gaps, [-1]])] + 1).tolist()
    runs = []
    for first, last in zip(starts, ends, strict=True):
        certain = np.flatnonzero(probabilities[first:last] >= threshold)
        if len(certain):
            runs.append((first + int(certain[0]), last))
    return runs


def _split(stretch: Stretch, samples: Samples, longest: int, sample_rate_hz: int) -> list[Stretch]:
    parts: list[Stretch] = []
    start = stretch.start
    while stretch.end - start > longest:
        cut = _quietest(samples[None], start + longest // 2, start + longest, sample_rate_hz)
        parts.append(Stretch(start=start, end=cut))
        start = cut
    return [*parts, Stretch(start=start, end=stretch.end)]


def _quietest(pcm: Samples, low: int, high: int, sample_rate_hz: int) -> int:
    """The middle of the 100 ms between samples low and high that have the least energy over all channels."""
    width = int(_QUIET_S * sample_rate_hz)
    energy = np.cumsum(np.square(pcm[:, low:high].astype(np.float64)).sum(axis=0))
    return low + int(np.argmin(energy[width:] - energy[:-width])) + width // 2
