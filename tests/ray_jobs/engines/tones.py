"""A language of tones that a CTC model learns in half a minute: a letter is a pitch, a pause parts words."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from ray_jobs.engines.ctc_config import CtcConfig
from ray_jobs.engines.ctc_torch import _build, emissions

RATE_HZ = 8_000
PITCHES_HZ = {"a": 300, "b": 520, "c": 900, "d": 1_500}
LABELS = ("-", "|", *PITCHES_HZ)
SHAPE = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [[16, 10, 5], [32, 8, 8], [48, 8, 8]],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 48,
    "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 1,
    "encoder_num_heads": 2,
    "encoder_ff_interm_features": 96,
    "encoder_layer_norm_first": False,
}
CTC_JSON = {"shape": SHAPE, "labels": LABELS, "language": "en"}
NUM_STEPS = 150


@dataclass(frozen=True, kw_only=True)
class Song:
    """Words sung: int16 at RATE_HZ, and when each word is sung in seconds."""

    pcm: npt.NDArray[np.int16]
    words: tuple[str, ...]
    times_s: tuple[tuple[float, float], ...]


def sing(words: tuple[str, ...], rng: np.random.Generator) -> Song:
    """Letters of 0.08 to 0.14 s with short gaps, words with longer ones, a little noise."""
    parts: list[npt.NDArray[np.float64]] = [np.zeros(800)]
    times_s = []
    for word in words:
        start = sum(map(len, parts))
        for letter in word:
            length = int(rng.uniform(0.08, 0.14) * RATE_HZ)
            tone = np.sin(2 * np.pi * PITCHES_HZ[letter] * np.arange(length) / RATE_HZ + rng.uniform(0, 6))
            parts += [8_000 * tone * np.hanning(length) ** 0.3, np.zeros(320)]
        times_s.append((start / RATE_HZ, (sum(map(len, parts)) - 320) / RATE_HZ))
        parts.append(np.zeros(1_200))
    wave = np.concatenate(parts)
    pcm = (wave + rng.normal(0, 30, len(wave))).astype(np.int16)
    return Song(pcm=pcm, words=words, times_s=tuple(times_s))


def random_words(rng: np.random.Generator) -> tuple[str, ...]:
    return tuple("".join(rng.choice(list(PITCHES_HZ), rng.integers(1, 4))) for _ in range(rng.integers(1, 4)))


def trained_folder(folder: Path) -> Path:
    """A folder of ctc.json and model.safetensors that reads songs."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model: Any = _build(CtcConfig.model_validate(CTC_JSON))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, NUM_STEPS)
    for _ in range(NUM_STEPS):
        songs = [sing(random_words(rng), rng) for _ in range(8)]
        lengths = torch.tensor([2 * len(song.pcm) for song in songs])
        waves = torch.zeros(len(songs), int(lengths.max()))
        for row, song in zip(waves, songs, strict=True):
            at_16_khz = np.interp(np.arange(2 * len(song.pcm)) / 2, np.arange(len(song.pcm)), song.pcm)
            row[: len(at_16_khz)] = torch.tensor(at_16_khz / 32768)
        targets = [[LABELS.index(letter) for letter in "|".join(song.words)] for song in songs]
        scores, num_frames = emissions(model, waves, lengths)
        loss = functional.ctc_loss(
            scores.log_softmax(-1).transpose(0, 1),
            torch.tensor([label for target in targets for label in target]),
            num_frames,
            torch.tensor([len(target) for target in targets]),
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "ctc.json").write_text(json.dumps(CTC_JSON))
    return folder


def random_folder(folder: Path) -> Path:
    """One that reads something, whatever it hears."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model: Any = _build(CtcConfig.model_validate(CTC_JSON))
    with torch.no_grad():
        model.aux.bias[: LABELS.index("a")] = -100.0  # neither blanks nor word breaks
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "ctc.json").write_text(json.dumps(CTC_JSON))
    return folder
