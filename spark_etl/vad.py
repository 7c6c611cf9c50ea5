"""Silero VAD v6 as a chain of matrix products over every channel of a partition at once.

The network (Silero Team, "Silero VAD", github.com/snakers4/silero-vad, MIT) sees 512 samples of 16 kHz audio and the
64 before them: a short-time Fourier transform, four small convolutions, one LSTM cell, one logistic unit. Seen from
one such chunk every layer before the LSTM is a fixed matrix, so it is applied as one, less its empty blocks: no
convolution is left, and a BLAS runs near its peak. Only the LSTM goes chunk by chunk; there the streams, cut into
pieces, are the batch.

Chunks that are silent, with silence well around them, never reach the network: their probability is 0.

For 8 kHz audio the resampling to 16 kHz, which is linear too, is part of the first matrix; the bins far above 4 kHz,
where such audio has nothing, are left out of it. Nothing but numpy is needed: executors load neither torch nor
onnxruntime. `silero_vad_v6.npz` holds the weights of silero-vad 6.2.3's 16 kHz model (LICENCE-silero-vad beside it).
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

CHUNK_S = 0.032
"""One probability stands for this many seconds."""

_WEIGHTS = Path(__file__).with_name("silero_vad_v6.npz")
_CHUNK, _CONTEXT, _HOP, _WINDOW = 512, 64, 128, 256  # samples at 16 kHz
_NUM_FRAMES = 4
_NUM_BINS_8KHZ = 72  # up to 4.5 kHz: where the interpolation filter has faded out
_HIDDEN = 128
_PIECE, _WARM_UP = 500, 64  # chunks: 16 s, and the 2 s before them that bring the LSTM into its state
_SILENCE_DBFS, _NOISE_DBFS = -66.0, -40.0  # silence at any rate, and what cannot be mere line noise
_ABOVE_NOISE_DB, _NOISE_QUANTILE = 4.0, 0.1  # between them: silence is what hardly rises above the quietest tenth
_NOISE_CHUNKS = 1875  # a minute: noise differs from call to call, and changes where a call is put through
_BEFORE_SOUND, _AFTER_SOUND = 16, 8  # chunks of silence that the network sees around sound
_BLOCK = 256  # chunks per matrix product: the activations stay in the core's own cache
_LANES = 256  # pieces that go through the LSTM side by side

Floats = npt.NDArray[np.float32]
Samples = npt.NDArray[np.int16]
Layer = tuple[tuple[slice, Floats], ...]
"""For each frame that comes out, the inputs it sees and the matrix, of shape (inputs seen, outputs), for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Network:
    """The weights for one sample rate; all float32, the LSTM's and the output's of shape (inputs, outputs).

    A chunk's inputs are `num_before` samples, its own `num_samples`, and `num_after`.
    """

    num_before: int
    num_samples: int
    num_after: int
    spectrum: Layer  # its outputs are real parts, then imaginary ones
    encoder: tuple[tuple[Layer, Floats], ...]  # each with its bias
    lstm: Floats
    lstm_bias: Floats
    output: Floats
    output_bias: np.float32


def speech_probabilities(channels: Sequence[Samples], sample_rate_hz: int) -> list[Floats]:
    """The probability of speech in every chunk of CHUNK_S of each channel.

    `channels`: int16, shape (num_samples,) each, at 8,000 or 16,000 Hz. Returns float32 arrays of shape
    (ceil(num_samples / chunk),), the last chunk filled up with zeros. Silence is 0; sound longer than 16 s is cut into
    pieces that start 2 s early, which is what the LSTM remembers. So the values differ slightly from those of one pass
    over the whole channel.
    """
    network = _network(sample_rate_hz)
    results = [np.zeros(-(-len(samples) // network.num_samples), np.float32) for samples in channels]
    pieces = [
        _Piece(features=features[low - first : high - first], kept=results[channel][start:high])
        for channel, samples in enumerate(channels)
        for first, end in _find_sound(samples, network.num_samples)
        for features in [_features(samples, first, end, network)]
        for start in range(first, end, _PIECE)
        for low, high in [(max(first, start - _WARM_UP), min(start + _PIECE, end))]
    ]
    pieces.sort(key=lambda piece: -len(piece.features))  # lanes leave the batch from its end
    for at in range(0, len(pieces), _LANES):
        lanes = pieces[at : at + _LANES]
        for piece, values in zip(lanes, _recur([lane.features for lane in lanes], network), strict=True):
            piece.kept[:] = values[len(values) - len(piece.kept) :]
    return results


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """What goes through the LSTM in one lane: views of a stretch's features, and of its end's place in the result."""

    features: Floats
    kept: Floats


def levels_dbfs(samples: Samples, chunk: int) -> Floats:
    """The level of each whole chunk of a channel without its constant part: float32, shape (num_samples // chunk,)."""
    chunks = samples[: len(samples) // chunk * chunk].reshape(-1, chunk).astype(np.float32)
    power = np.einsum("ij,ij->i", chunks, chunks) / chunk - np.square(chunks.mean(axis=1))
    levels: Floats = 10 * np.log10(np.maximum(power / 32768**2, 1e-12))
    return levels


def _find_sound(samples: Samples, chunk: int) -> list[tuple[int, int]]:
    """Chunks first..end of each stretch that is not silent, with some silence around it."""
    num_chunks = -(-len(samples) // chunk)
    levels = levels_dbfs(samples, chunk)
    if not len(levels):
        return [(0, num_chunks)] if num_chunks else []
    loud = np.flatnonzero(levels > np.clip(_noise_dbfs(levels) + _ABOVE_NOISE_DB, _SILENCE_DBFS, _NOISE_DBFS))
    if not len(loud):
        return []
    gaps = np.flatnonzero(np.diff(loud) > _BEFORE_SOUND + _AFTER_SOUND)
    firsts = loud[np.concatenate([[0], gaps + 1])] - _BEFORE_SOUND
    ends = loud[np.concatenate([gaps, [-1]])] + 1 + _AFTER_SOUND
    return list(zip(np.maximum(firsts, 0).tolist(), np.minimum(ends, num_chunks).tolist(), strict=True))


def _noise_dbfs(levels: Floats) -> Floats:
    """The level of the line's noise in each chunk: how loud the quietest tenth of the minute around it is."""
    minutes = np.array_split(levels, max(1, len(levels) // _NOISE_CHUNKS))
    noise: Floats = np.concatenate([np.full_like(m, np.quantile(m, _NOISE_QUANTILE)) for m in minutes])
    return noise


def _features(samples: Samples, first: int, end: int, network: _Network) -> Floats:
    """What the encoder makes of chunks first..end of a channel: float32, shape (end - first, hidden)."""
    low = first * network.num_samples - network.num_before
    high = end * network.num_samples + network.num_after
    padded = np.zeros(high - low, np.float32)
    inside = samples[max(low, 0) : high]
    np.multiply(inside, np.float32(1 / 32768), out=padded[max(-low, 0) : max(-low, 0) + len(inside)])
    num_inputs = network.num_before + network.num_samples + network.num_after
    inputs = np.lib.stride_tricks.sliding_window_view(padded, num_inputs)[:: network.num_samples]
    features = np.empty((end - first, _HIDDEN), np.float32)
    for at in range(0, len(inputs), _BLOCK):
        features[at : at + _BLOCK] = _encode(np.ascontiguousarray(inputs[at : at + _BLOCK]), network)
    return features


def _encode(inputs: Floats, network: _Network) -> Floats:
    parts = _apply(network.spectrum, inputs)
    np.square(parts, out=parts)
    real, imaginary = parts.reshape(len(inputs), _NUM_FRAMES, 2, -1).transpose(2, 0, 1, 3)
    hidden: Floats = (real + imaginary).reshape(len(inputs), -1)
    np.sqrt(hidden, out=hidden)
    for layer, bias in network.encoder:
        hidden = _apply(layer, hidden)
        hidden += bias
        np.maximum(hidden, 0, out=hidden)
    return hidden


def _apply(layer: Layer, inputs: Floats) -> Floats:
    """The frames side by side: float32, shape (len(inputs), frames * outputs)."""
    width = layer[0][1].shape[1]
    outputs = np.empty((len(inputs), len(layer) * width), np.float32)
    for frame, (seen, matrix) in enumerate(layer):
        np.matmul(inputs[:, seen], matrix, out=outputs[:, frame * width : (frame + 1) * width])
    return outputs


def _recur(features: Sequence[Floats], network: _Network) -> list[Floats]:
    """Run the LSTM over lanes sorted by falling length; returns each lane's probabilities."""
    lengths = np.array([len(lane) for lane in features])
    num_steps, num_lanes = int(lengths[0]), len(features)
    steps = np.zeros((num_steps, num_lanes, _HIDDEN), np.float32)
    for lane, values in enumerate(features):
        steps[: len(values), lane] = values
    inputs = np.zeros((num_lanes, 2 * _HIDDEN), np.float32)  # the features, then the hidden state
    cell = np.zeros((num_lanes, _HIDDEN), np.float32)
    logits = np.zeros((num_steps, num_lanes), np.float32)
    for step in range(num_steps):
        alive = int(np.searchsorted(-lengths, -step))
        inputs[:alive, :_HIDDEN] = steps[step, :alive]
        gates = inputs[:alive] @ network.lstm
        gates += network.lstm_bias
        candidate = np.tanh(gates[:, 3 * _HIDDEN :])
        opened = _sigmoid(gates[:, : 3 * _HIDDEN])  # the gates in, out and forget
        cell[:alive] *= opened[:, 2 * _HIDDEN :]
        candidate *= opened[:, :_HIDDEN]
        cell[:alive] += candidate
        hidden = np.tanh(cell[:alive])
        hidden *= opened[:, _HIDDEN : 2 * _HIDDEN]
        inputs[:alive, _HIDDEN:] = hidden
        np.maximum(hidden, 0, out=hidden)
        np.matmul(hidden, network.output, out=logits[step, :alive])
    logits += network.output_bias
    probabilities = _sigmoid(logits)
    return [probabilities[: len(lane), index] for index, lane in enumerate(features)]


def _sigmoid(values: Floats) -> Floats:
    result: Floats = np.negative(values)
    np.exp(result, out=result)
    result += 1
    np.reciprocal(result, out=result)
    return result


# ----------------------------------------------------------------------------------------------------------- weights


@lru_cache
def _network(sample_rate_hz: int) -> _Network:
    if sample_rate_hz not in (8000, 16000):
        raise ValueError(f"the VAD takes 8000 or 16000 Hz, not {sample_rate_hz}")
    _use_one_blas_thread()
    with np.load(_WEIGHTS) as weights:
        tensors = {name: weights[name] for name in weights.files}
    spectrum, num_bins = _spectrum_matrix(tensors["stft.weight"])
    num_before = _CONTEXT
    num_after = 0
    if sample_rate_hz == 8000:
        interpolation, reach = _doubling_matrix(len(spectrum))
        num_bins = _NUM_BINS_8KHZ
        spectrum = np.einsum("io,opfb->ipfb", interpolation, spectrum[..., :num_bins])
        num_before, num_after = _CONTEXT // 2 + reach, reach
    tensors["encoder.0.weight"] = tensors["encoder.0.weight"][:, :num_bins]
    encoder = []
    num_frames = _NUM_FRAMES
    for number, stride in enumerate((1, 2, 2, 1)):
        layer = _convolution_layer(tensors[f"encoder.{number}.weight"], num_frames, stride)
        num_frames = len(layer)
        encoder.append((layer, np.tile(tensors[f"encoder.{number}.bias"], num_frames)))
    lstm = np.concatenate([tensors["lstm.weight_input"], tensors["lstm.weight_hidden"]], axis=1)
    return _Network(
        num_before=num_before,
        num_samples=_CHUNK * sample_rate_hz // 16000,
        num_after=num_after,
        spectrum=tuple(_seen_by(spectrum[:, :, frame].reshape(len(spectrum), -1)) for frame in range(_NUM_FRAMES)),
        encoder=tuple(encoder),
        lstm=np.ascontiguousarray(lstm.T),
        lstm_bias=tensors["lstm.bias"].sum(axis=0),
        output=tensors["output.weight"],
        output_bias=tensors["output.bias"][0],
    )


def _use_one_blas_thread() -> None:
    """A Spark task owns one core: on these small products a second BLAS thread costs more than it brings, and on a
    busy machine each waits for the other. numpy has no switch of its own; other BLAS libraries are left as they are.
    """
    for library in Path(np.__file__).parent.with_name("numpy.libs").glob("libscipy_openblas64*"):
        ctypes.CDLL(str(library)).scipy_openblas_set_num_threads64_(1)


def _spectrum_matrix(basis: Floats) -> tuple[npt.NDArray[np.float64], int]:
    """A chunk's samples to its spectrum: shape (context + chunk, real or imaginary, frame, bin); and the bins."""
    num_bins = len(basis) // 2
    end = _CONTEXT + _CHUNK
    matrix = np.zeros((end + _CONTEXT, 2, _NUM_FRAMES, num_bins))
    for frame in range(_NUM_FRAMES):
        at = frame * _HOP
        matrix[at : at + _WINDOW, :, frame] = basis.reshape(2, num_bins, _WINDOW).transpose(2, 0, 1)
    matrix[end - 1 - _CONTEXT : end - 1] += matrix[end:][::-1]  # the network mirrors the chunk at its end
    return matrix[:end], num_bins


def _seen_by(frame: npt.NDArray[np.floating]) -> tuple[slice, Floats]:
    """The inputs that a frame depends on, and its matrix for them; `frame` has a row for each input there is."""
    used = np.flatnonzero(np.any(frame, axis=1))
    seen = slice(int(used[0]), int(used[-1]) + 1)
    return seen, np.ascontiguousarray(frame[seen], np.float32)


def _doubling_matrix(num_outputs: int) -> tuple[npt.NDArray[np.float64], int]:
    """Samples at 8 kHz to `num_outputs` at 16 kHz, and how many more it takes on either side.

    The windowed sinc that Silero's own loader uses (torchaudio's default: width 6, roll-off 0.99, Hann).
    """
    width, roll_off = 6, 0.99
    reach = int(np.ceil(width / roll_off))
    sources = np.arange(num_outputs // 2 + 2 * reach)[:, None] - reach
    distance = roll_off * (np.arange(num_outputs)[None, :] / 2 - sources)
    window = np.where(np.abs(distance) < width, np.cos(np.pi * distance / width / 2) ** 2, 0)
    return roll_off * np.sinc(distance) * window, reach


def _convolution_layer(weight: Floats, num_frames: int, stride: int) -> Layer:
    """A convolution of width 3, padded by one frame, over `num_frames` frames.

    `weight`: shape (outputs, inputs, 3). What goes in is ordered (frame, input), what comes out (frame, output).
    """
    num_outputs, num_inputs, width = weight.shape
    frames_out = (num_frames - 1) // stride + 1
    matrix = np.zeros((frames_out, num_frames, num_inputs, num_outputs), np.float32)
    for out in range(frames_out):
        for tap in range(width):
            frame = out * stride + tap - 1
            if 0 <= frame < num_frames:
                matrix[out, frame] = weight[:, :, tap].T
    return tuple(_seen_by(frames.reshape(-1, num_outputs)) for frames in matrix)
