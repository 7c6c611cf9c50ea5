"""Whisper models of every published shape with random weights: honest in speed, senseless in what they write."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ray_jobs.engines import weights

_TEXT_POSITIONS = 448
_CANTONESE = {"content": "<|yue|>", "special": True}  # the language that large-v3 knows more


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What sets one Whisper apart from another (Radford et al., 2022, table 1; the model cards of large-v3)."""

    encoder_layers: int
    decoder_layers: int
    num_heads: int
    num_mels: int = 80
    vocab_size: int = 51_865
    head_dim: int = 64
    audio_positions: int = 1_500

    @property
    def width(self) -> int:
        return self.num_heads * self.head_dim


NARROW = {"head_dim": 8, "audio_positions": 100}
"""Changes that make any shape small enough for tests, with all its layers, heads and mel bins."""


SHAPES = {
    "tiny": Shape(encoder_layers=4, decoder_layers=4, num_heads=6),
    "base": Shape(encoder_layers=6, decoder_layers=6, num_heads=8),
    "small": Shape(encoder_layers=12, decoder_layers=12, num_heads=12),
    "medium": Shape(encoder_layers=24, decoder_layers=24, num_heads=16),
    "large-v3": Shape(encoder_layers=32, decoder_layers=32, num_heads=20, num_mels=128, vocab_size=51_866),
    "large-v3-turbo": Shape(encoder_layers=32, decoder_layers=4, num_heads=20, num_mels=128, vocab_size=51_866),
}


def write_random(
    folder: Path,
    shape: Shape,
    *,
    std: float = 0.02,
    suppressed: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float16,
) -> Path:
    """A Hugging Face folder of that shape, seed 0, with the tokenizer of the packaged Whisper base.

    `suppressed` are tokens it never writes.
    """
    config = {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "num_mel_bins": shape.num_mels,
        "vocab_size": shape.vocab_size,
        "d_model": shape.width,
        "encoder_layers": shape.encoder_layers,
        "decoder_layers": shape.decoder_layers,
        "encoder_attention_heads": shape.num_heads,
        "decoder_attention_heads": shape.num_heads,
        "encoder_ffn_dim": 4 * shape.width,
        "decoder_ffn_dim": 4 * shape.width,
        "max_source_positions": shape.audio_positions,
        "max_target_positions": _TEXT_POSITIONS,
    }
    heads = [[shape.decoder_layers - 1, head] for head in range(6)]  # about as many as the real models name
    (folder / "config.json").write_text(json.dumps(config))
    generation = {"alignment_heads": heads, "suppress_tokens": list(suppressed)}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    _write_tokenizer(folder / "tokenizer.json", shape.vocab_size)
    tensors = {f"model.{name}": tensor.to(dtype) for name, tensor in _tensors(shape, std)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _write_tokenizer(path: Path, vocab_size: int) -> None:
    """Whisper base's own; where the vocabulary has a token more, with Cantonese as the last language."""
    document = json.loads((weights.resolve("whisper-base") / "tokenizer.json").read_text(encoding="utf-8"))
    if vocab_size > SHAPES["base"].vocab_size:
        tokens = document["added_tokens"]
        at = next(token["id"] for token in tokens if token["content"] == "<|translate|>")
        for token in tokens:
            token["id"] += token["id"] >= at
        tokens.append({**tokens[-1], **_CANTONESE, "id": at})
        tokens.sort(key=lambda token: token["id"])
    path.write_text(json.dumps(document), encoding="utf-8")


def _tensors(shape: Shape, std: float) -> Iterator[tuple[str, Tensor]]:
    """Names and random values; biases and norms too, so that none can be left out unnoticed."""
    random, width = torch.Generator().manual_seed(0), shape.width

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=random) * std

    def linear(name: str, inputs: int, outputs: int, *, bias: bool = True) -> Iterator[tuple[str, Tensor]]:
        yield f"{name}.weight", draw(outputs, inputs)
        if bias:
            yield f"{name}.bias", draw(outputs)

    def norm(name: str) -> Iterator[tuple[str, Tensor]]:
        yield f"{name}.weight", 1 + draw(width)
        yield f"{name}.bias", draw(width)

    def attention(name: str) -> Iterator[tuple[str, Tensor]]:
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{name}.{part}", width, width, bias=part != "k_proj")
        yield from norm(f"{name}_layer_norm")

    def layer(name: str, *attentions: str) -> Iterator[tuple[str, Tensor]]:
        for part in attentions:
            yield from attention(f"{name}.{part}")
        yield from linear(f"{name}.fc1", width, 4 * width)
        yield from linear(f"{name}.fc2", 4 * width, width)
        yield from norm(f"{name}.final_layer_norm")

    for name, inputs in (("conv1", shape.num_mels), ("conv2", width)):
        yield f"encoder.{name}.weight", draw(width, inputs, 3)
        yield f"encoder.{name}.bias", draw(width)
    yield "encoder.embed_positions.weight", draw(shape.audio_positions, width)
    yield "decoder.embed_tokens.weight", draw(shape.vocab_size, width)
    yield "decoder.embed_positions.weight", draw(_TEXT_POSITIONS, width)
    for i in range(shape.encoder_layers):
        yield from layer(f"encoder.layers.{i}", "self_attn")
    for i in range(shape.decoder_layers):
        yield from layer(f"decoder.layers.{i}", "self_attn", "encoder_attn")
    yield from norm("encoder.layer_norm")
    yield from norm("decoder.layer_norm")
