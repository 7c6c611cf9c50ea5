"""CTC models of the wav2vec 2.0 family in torch: Wav2Vec2 and HuBERT in torchaudio's shapes, weights of your own.

The whole window is read in one pass and each frame names the letter it hears or none, so words have times of their own
and nothing is invented where nobody speaks (Graves et al., 2006; Baevski et al., 2020; Hsu et al., 2021).
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torchaudio
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from ray_jobs.engines import text, weights
from ray_jobs.engines.asr import DEFAULT_BATCH, Segment, Window, WindowText, WindowWord
from ray_jobs.engines.ctc_config import CtcConfig, read_ctc_config
from ray_jobs.engines.meter import Meter
from ray_jobs.engines.waves import RATE_HZ, num_samples, to_waves
from ray_jobs.errors import ModelError
from ray_jobs.spec import AsrSpec

_BLANK = 0
_WORD_BREAK = "|"
_DROPOUTS = (
    "encoder_projection_dropout",
    "encoder_attention_dropout",
    "encoder_ff_interm_dropout",
    "encoder_dropout",
    "encoder_layer_drop",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A label that was heard over the frames from `start` to before `end`, and the mean of its log-probability."""

    label: str
    start: int
    end: int
    logprob: float


class CtcTorch:
    """An AsrEngine on the first GPU (float16 where the spec leaves it open) or on the CPU (float32), greedy.

    A segment's avg_logprob is that of its letters; its no_speech_prob is 0, for a CTC model has no such notion: where
    it hears nothing, it writes nothing.
    """

    def __init__(self, spec: AsrSpec, num_threads: int) -> None:
        """Load and warm up. Raises ModelError."""
        began = time.monotonic()
        self.model_name = spec.model
        self._batch_size = spec.batch_size or DEFAULT_BATCH
        torch.set_num_threads(num_threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = _choose_dtype(spec.compute_type, self._device)
        folder = weights.resolve(spec.model, "ctc_torch")
        self._config = read_ctc_config(folder)
        if spec.language not in (None, self._config.language):
            raise ModelError(f"asr.language {spec.language}: model {spec.model} knows {self._config.language}")
        self._model = load_model(folder, self._config).to(self._device, self._dtype)
        layers = self._model.feature_extractor.conv_layers
        self._frame_s = float(np.prod([layer.stride for layer in layers])) / RATE_HZ
        self._meter = Meter(0.0)
        self.transcribe([Window(pcm=np.zeros(RATE_HZ, np.int16), sample_rate_hz=RATE_HZ, language=spec.language)])
        self._meter = Meter(time.monotonic() - began)

    def transcribe(self, windows: Sequence[Window]) -> list[WindowText]:
        """One result per window, in order, or an exception for the whole batch."""
        # Windows of like length share a batch: it is as long as its longest.
        order = sorted(range(len(windows)), key=lambda i: num_samples(windows[i]), reverse=True)
        texts: dict[int, WindowText] = {}
        with self._meter.at_work():
            for first in range(0, len(order), self._batch_size):
                batch = order[first : first + self._batch_size]
                texts.update(zip(batch, self._transcribe_batch([windows[i] for i in batch]), strict=True))
                self._meter.add_windows([windows[i] for i in batch], num_samples(windows[batch[0]]) / RATE_HZ)
        return [texts[i] for i in range(len(windows))]

    def stats(self) -> dict[str, float]:
        """What AsrEngine asks for; tokens are letters, and no loops are cut where nothing is invented."""
        return self._meter.read()

    @torch.inference_mode()
    def _transcribe_batch(self, windows: Sequence[Window]) -> Iterator[WindowText]:
        waves = to_waves(windows, self._device)
        lengths = torch.tensor([num_samples(window) for window in windows], device=self._device)
        if self._config.normalize_waveform:
            waves = _standardised(waves, lengths)
        scores, num_frames = emissions(self._model, waves.to(self._dtype), lengths)
        logprobs, labels = scores.float().log_softmax(-1).max(-1)
        return map(self._read, labels.tolist(), logprobs.tolist(), num_frames.tolist())

    def _read(self, labels: Sequence[int], logprobs: Sequence[float], num_frames: int) -> WindowText:
        language = self._config.language
        letters = collapse(labels[:num_frames], logprobs[:num_frames], self._config.labels)
        words = [self._word(group) for group in _words(letters, spaced=language not in text.UNSPACED_LANGUAGES)]
        heard = [letter.logprob for letter in letters if letter.label != _WORD_BREAK]
        self._meter.add(num_tokens=len(heard))
        if not words:
            return WindowText(language=language, segments=())
        segment = Segment(
            text=text.join_words([word.text for word in words], language),
            start_s=words[0].start_s,
            end_s=words[-1].end_s,
            avg_logprob=fmean(heard),
            no_speech_prob=0.0,
            words=tuple(words),
        )
        return WindowText(language=language, segments=(segment,))

    def _word(self, letters: Sequence[Letter]) -> WindowWord:
        return WindowWord(
            text="".join(letter.label for letter in letters),
            start_s=letters[0].start * self._frame_s,
            end_s=letters[-1].end * self._frame_s,
            probability=float(np.exp([letter.logprob for letter in letters]).mean()),
        )


def load_model(folder: Path, config: CtcConfig) -> Any:
    """The torchaudio.models.Wav2Vec2Model of a folder, in evaluation mode on the CPU. Raises ModelError."""
    try:
        model = _build(config).eval()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{folder / 'ctc.json'}: shape: torchaudio cannot build it: {_one_line(error)}") from None
    path = folder / "model.safetensors"
    try:
        if path.is_file():
            tensors = load_file(path)
        else:
            path = folder / "model.pt"
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(tensors)
    except Exception as error:  # a broken file makes torch raise whatever its unpickler trips over
        if isinstance(error, SafetensorError | RuntimeError) and "state_dict" in str(error):
            raise ModelError(f"{path}: does not fit the shape in ctc.json: {_one_line(error)}") from None
        raise ModelError(f"{path}: is truncated or no state_dict ({_one_line(error)}); give the file again") from None
    return model


def emissions(model: Any, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Scores per frame, shape (num_windows, num_frames, num_labels), and each window's frames, shape (num_windows,).

    `waves`: (num_windows, num_samples), zeros behind the `lengths` samples of each. What a window gets does not hang
    on its neighbours: torchaudio's own forward would let the padding into the mean and variance of the first layer.
    """
    hidden = waves[:, None]
    if hidden.shape[-1] < (least := _receptive_field(model)):
        hidden = functional.pad(hidden, (0, least - hidden.shape[-1]))
    for layer in model.feature_extractor.conv_layers:
        hidden = layer.conv(hidden)
        lengths = ((lengths - layer.kernel_size).div(layer.stride, rounding_mode="floor") + 1).clamp(min=0)
        if isinstance(layer.layer_norm, torch.nn.GroupNorm):  # one group per channel, over time
            hidden = _standardised(hidden, lengths[:, None], layer.layer_norm.eps)
            hidden = hidden * layer.layer_norm.weight[:, None] + layer.layer_norm.bias[:, None]
        elif layer.layer_norm is not None:
            hidden = layer.layer_norm(hidden)
        hidden = functional.gelu(hidden)
    return model.aux(model.encoder(hidden.transpose(1, 2), lengths)), lengths


def collapse(labels: Sequence[int], logprobs: Sequence[float], names: Sequence[str]) -> list[Letter]:
    """The letters that a label per frame stands for: repeats are one, blanks are none (Graves et al., 2006)."""
    runs = [list(run) for _, run in groupby(range(len(labels)), key=lambda frame: labels[frame])]
    return [
        Letter(
            label=names[labels[run[0]]],
            start=run[0],
            end=run[-1] + 1,
            logprob=fmean(logprobs[frame] for frame in run),
        )
        for run in runs
        if labels[run[0]] != _BLANK
    ]


def _words(letters: Sequence[Letter], *, spaced: bool) -> Iterator[list[Letter]]:
    """Letters between word breaks; each by itself where the language is written without blanks."""
    for is_break, group in groupby(letters, key=lambda letter: letter.label == _WORD_BREAK):
        if not is_break:
            word = list(group)
            yield from [word] if spaced else [[letter] for letter in word]


def _build(config: CtcConfig) -> Any:
    if isinstance(config.shape, str):
        return getattr(torchaudio.models, config.shape)(aux_num_out=len(config.labels))
    arguments = {**dict.fromkeys(_DROPOUTS, 0.0), **config.shape, "aux_num_out": len(config.labels)}
    return torchaudio.models.wav2vec2_model(**arguments)


def _receptive_field(model: Any) -> int:
    """Samples that the first frame needs."""
    samples = 1
    for layer in reversed(model.feature_extractor.conv_layers):
        samples = (samples - 1) * layer.stride + layer.kernel_size
    return samples


def _standardised(values: Tensor, lengths: Tensor, eps: float = 1e-5) -> Tensor:
    """Mean 0 and variance 1 over the first `lengths` of the last axis, zeros behind; computed in float32."""
    inside = torch.arange(values.shape[-1], device=values.device) < lengths[..., None]
    count = lengths[..., None].clamp(min=1)
    centred = values.float()
    centred = (centred - (centred * inside).sum(-1, keepdim=True) / count) * inside
    variance = centred.square().sum(-1, keepdim=True) / count
    return (centred * (variance + eps).rsqrt()).to(values.dtype)


def _choose_dtype(compute_type: str, device: torch.device) -> torch.dtype:
    if compute_type == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, compute_type)
    return dtype


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
