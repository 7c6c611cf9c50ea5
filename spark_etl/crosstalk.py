"""One party's voice, heard faintly on the other's channel, is not that channel's speech.

Bleed is the loud channel through some fixed path: a gain, a delay, a colouring. The path is estimated as the Wiener
filter between the two spectra over the moments when both seem to speak and one is much quieter (J. Benesty et
al., "Advances in Network and Acoustic Echo Cancellation", 2001, chapter 2). Where the loud channel through that path
accounts for most of what the quiet one holds, the quiet one does not speak. A voice of its own, however faint, is not
explained by the other channel and so is left alone; the samples are never changed.
"""

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import numpy.typing as npt

from spark_etl.decode import Samples
from spark_etl.vad import CHUNK_S, Floats

_FRAME, _HOP = 4, 2  # chunks; a path may delay by well under a frame, 128 ms
_GAP_DB = 6.0
"""Bleed is at least this much quieter than its source."""

_EXPLAINED = 0.5
"""The share of the quiet channel's power that the loud one must account for."""

_MIN_FRAMES = 24
"""Fewer frames of a loud channel beside a quiet one (1.5 s) are too few to know a path from."""

_SMOOTHING = 5  # frames over which powers are compared
_EDGE = 2  # chunks: bleed reaches a little beyond what is recognised as speech on both channels

Mask = npt.NDArray[np.bool_]


def suppress_crosstalk(
    pcm: Samples, probabilities: Sequence[Floats], sample_rate_hz: int, threshold: float
) -> list[Floats]:
    """The channels' speech probabilities, 0 where a channel only carries another's voice.

    `pcm`: int16, shape (num_channels, num_samples); `probabilities`: float32, one per CHUNK_S, for each channel.
    """
    results = [values.copy() for values in probabilities]
    for target, source in permutations(range(len(pcm)), 2):
        doubtful = (probabilities[source] >= threshold) & (probabilities[target] >= threshold)
        results[target][_bleed(pcm[source], pcm[target], doubtful, sample_rate_hz)] = 0
    return results


def _bleed(source: Samples, target: Samples, doubtful: Mask, sample_rate_hz: int) -> Mask:
    """The chunks in which `target` holds little but `source`; `doubtful` are those in which both seem to speak."""
    chunk = round(CHUNK_S * sample_rate_hz)
    mask = np.zeros(len(doubtful), np.bool_)
    near = np.convolve(doubtful, np.ones(2 * _EDGE + 1), mode="same") > 0
    starts = np.arange(0, len(source) // chunk - _FRAME + 1, _HOP)
    starts = starts[near[starts + 1] | near[starts + 2]]
    if len(starts) < _MIN_FRAMES:
        return mask
    loud, quiet = (_spectra(samples, starts * chunk, _FRAME * chunk) for samples in (source, target))
    power_loud, power_quiet = _power(loud), _power(quiet)
    faint = power_quiet < power_loud * 10 ** (-_GAP_DB / 10)
    if np.count_nonzero(faint) < _MIN_FRAMES:
        return mask
    cross = np.sum(np.conj(loud[faint]) * quiet[faint], axis=0)
    path = cross / (np.sum(np.abs(loud[faint]) ** 2, axis=0) + 1e-9)
    left = _smooth(_power(quiet - path * loud))
    explained = starts[faint & (left < (1 - _EXPLAINED) * _smooth(power_quiet))]
    mask[explained + 1] = True  # a frame speaks for the two chunks in its middle
    mask[explained + 2] = True
    return mask


def _spectra(samples: Samples, starts: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.complex64]:
    frames = np.lib.stride_tricks.sliding_window_view(samples, length)[starts]
    return np.fft.rfft(frames * np.hanning(length).astype(np.float32)).astype(np.complex64)


def _power(spectra: npt.NDArray[np.complex64]) -> Floats:
    power: Floats = np.sum(np.square(spectra.real) + np.square(spectra.imag), axis=1)
    return power


def _smooth(power: Floats) -> Floats:
    """Power summed over neighbouring frames."""
    total: Floats = np.convolve(power, np.ones(_SMOOTHING, np.float32), mode="same")
    return total
