"""G.711's two codings of telephone speech (ITU-T G.711): eight bits a sample, and what they decode to."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.int16]
Codes = npt.NDArray[np.uint8]

_PROBE = 4096
"""Samples that are tried first: audio that never was G.711 does not fit after a few."""


def _a_law() -> Samples:
    code = np.arange(256) ^ 0x55
    exponent, mantissa = (code >> 4) & 7, code & 15
    raised = ((mantissa << 4) + 0x108) << np.maximum(exponent - 1, 0)
    magnitude = np.where(exponent == 0, (mantissa << 4) + 8, raised)
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


def _mu_law() -> Samples:
    code = np.arange(256) ^ 0xFF
    magnitude = ((((code & 15) << 3) + 0x84) << ((code >> 4) & 7)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


DECODED: Mapping[str, Samples] = {"mulaw": _mu_law(), "alaw": _a_law()}
"""For each coding the 256 values of its codes: int16, indexed by the code."""


def _encoded(values: Samples) -> npt.NDArray[np.int16]:
    """The code of each 16-bit value, seen as uint16; -1 for those that no code stands for."""
    codes = np.full(1 << 16, -1, np.int16)
    codes[values.view(np.uint16)] = np.arange(256)
    return codes


_ENCODED = {coding: _encoded(values) for coding, values in DECODED.items()}


def encode_exactly(samples: Samples) -> tuple[str, Codes] | None:
    """The coding that loses nothing of the samples, and their codes; None where neither does.

    `samples`: int16, shape (num_samples,); the codes: uint8, of the same shape.
    """
    seen = samples.view(np.uint16)
    for coding, table in _ENCODED.items():
        if table[seen[:_PROBE]].min(initial=0) < 0:
            continue
        codes = table[seen]
        if codes.min(initial=0) >= 0:
            return coding, codes.astype(np.uint8)
    return None


def decode(coding: str, codes: bytes) -> Samples:
    """Inverse of `encode_exactly`: int16, shape (len(codes),)."""
    samples: Samples = DECODED[coding][np.frombuffer(codes, np.uint8)]
    return samples
