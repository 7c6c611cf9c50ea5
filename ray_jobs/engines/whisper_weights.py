"""Whisper weights from a Hugging Face folder (safetensors) or a CTranslate2 folder, under one set of tensor names."""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open

from ray_jobs.errors import ModelError

_CT2_DTYPES = {0: torch.float32, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.float16, 5: torch.bfloat16}
_HEAD_DIM = 64  # of every Whisper


@dataclass(frozen=True, slots=True, kw_only=True)
class WhisperConfig:
    """The shape of a Whisper model, in the paper's terms (Radford et al., 2022, table 1)."""

    num_mels: int
    vocab_size: int
    width: int
    encoder_layers: int
    decoder_layers: int
    num_heads: int
    audio_positions: int  # encoder outputs per window: 1500, two mel frames each
    text_positions: int  # longest token sequence: 448


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model's tensors under Hugging Face's names, without the leading `model.`, in the dtype they are stored in.

    `alignment_heads` are the (layer, head) pairs whose cross-attention follows the audio in time; `suppressed` are
    token ids never to be written, `suppressed_first` those not to be written first.
    """

    config: WhisperConfig
    tensors: Mapping[str, torch.Tensor]
    alignment_heads: tuple[tuple[int, int], ...]
    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a folder of either format. Raises ModelError where it is missing, truncated or not a Whisper model."""
    try:
        if (folder / "model.bin").is_file():
            return _load_ctranslate2(folder)
        return _load_hugging_face(folder)
    except OSError as error:
        raise ModelError(f"{error.filename}: {error.strerror}; give a whole Whisper folder") from None
    except json.JSONDecodeError as error:
        raise ModelError(f"{folder}: a configuration file is not JSON ({error}); download the model again") from None
    except SafetensorError as error:
        raise ModelError(f"{folder}: weights are truncated or not safetensors ({error}); download them again") from None
    except KeyError as error:
        raise ModelError(f"{folder}: is not a whole Whisper model, {error} is missing; give another folder") from None


# ------------------------------------------------------------------------------------------------------ Hugging Face


def _load_hugging_face(folder: Path) -> Checkpoint:
    shape = _read_json(folder / "config.json")
    if shape.get("model_type") != "whisper":
        kind = shape.get("model_type", "nameless")
        raise ModelError(f"{folder}: holds a {kind} model; whisper_torch runs Whisper only")
    generation = _read_json(folder / "generation_config.json", missing={})
    config = WhisperConfig(
        num_mels=shape["num_mel_bins"],
        vocab_size=shape["vocab_size"],
        width=shape["d_model"],
        encoder_layers=shape["encoder_layers"],
        decoder_layers=shape["decoder_layers"],
        num_heads=shape["decoder_attention_heads"],
        audio_positions=shape["max_source_positions"],
        text_positions=shape["max_target_positions"],
    )
    return Checkpoint(
        config=config,
        tensors={name.removeprefix("model."): tensor for name, tensor in _iter_safetensors(folder)},
        alignment_heads=_pairs(generation.get("alignment_heads")) or _default_alignment_heads(config),
        suppressed=tuple(generation.get("suppress_tokens") or ()),
        suppressed_first=tuple(generation.get("begin_suppress_tokens") or ()),
    )


def read_suppressed(folder: Path) -> tuple[int, ...]:
    """The token ids that a Hugging Face folder says are never to be written."""
    return tuple(_read_json(folder / "generation_config.json", missing={}).get("suppress_tokens") or ())


def _iter_safetensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    index = _read_json(folder / "model.safetensors.index.json", missing=None)
    shards = sorted(set(index["weight_map"].values())) if index else ["model.safetensors"]
    for shard in shards:
        with safe_open(folder / shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - the reader is no mapping
                yield name, file.get_tensor(name)


# ------------------------------------------------------------------------------------------------------- CTranslate2


class _BinaryReader:
    """Numbers, strings and tensors of a CTranslate2 model.bin (little-endian; format versions 5 and 6)."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def bytes(self, size: int) -> bytes:
        content = self._file.read(size)
        if len(content) < size:
            raise ModelError(f"{self._file.name}: is truncated; download the model again")
        return content

    def number(self, code: str) -> int:
        (value,) = struct.unpack("<" + code, self.bytes(struct.calcsize("<" + code)))
        return int(value)

    def string(self) -> str:
        return self.bytes(self.number("H"))[:-1].decode("latin-1")  # the length counts the closing zero

    def tensor(self) -> torch.Tensor:
        shape = [self.number("I") for _ in range(self.number("B"))]
        dtype, content = self.number("B"), bytearray(self.bytes(self.number("I")))
        if dtype not in _CT2_DTYPES:
            raise ModelError(f"{self._file.name}: holds a tensor of unknown type {dtype}; convert it to float16")
        return torch.frombuffer(content, dtype=_CT2_DTYPES[dtype]).reshape(shape)


def _load_ctranslate2(folder: Path) -> Checkpoint:
    variables = _read_variables(folder / "model.bin")
    if any(name.endswith("weight_scale") for name in variables):
        raise ModelError(f"{folder}: is quantised; give a float16 or float32 conversion, or the original model")
    tensors = dict(_hugging_face_names(variables))
    width = tensors["encoder.conv1.weight"].shape[0]
    config = WhisperConfig(
        num_mels=tensors["encoder.conv1.weight"].shape[1],
        vocab_size=tensors["decoder.embed_tokens.weight"].shape[0],
        width=width,
        encoder_layers=_count_layers(tensors, "encoder"),
        decoder_layers=_count_layers(tensors, "decoder"),
        num_heads=width // _HEAD_DIM,
        audio_positions=tensors["encoder.embed_positions.weight"].shape[0],
        text_positions=tensors["decoder.embed_positions.weight"].shape[0],
    )
    settings = _read_json(folder / "config.json")
    return Checkpoint(
        config=config,
        tensors=tensors,
        alignment_heads=_pairs(settings.get("alignment_heads")) or _default_alignment_heads(config),
        suppressed=tuple(settings.get("suppress_ids") or ()),
        suppressed_first=tuple(settings.get("suppress_ids_begin") or ()),
    )


def _read_variables(path: Path) -> dict[str, torch.Tensor]:
    with path.open("rb") as file:
        reader = _BinaryReader(file)
        version, spec = reader.number("I"), reader.string()
        if version not in (5, 6) or spec != "WhisperSpec":
            raise ModelError(f"{path}: is no Whisper model of CTranslate2's format 5 or 6; convert it again")
        reader.number("I")  # the specification's revision
        return {reader.string(): reader.tensor() for _ in range(reader.number("I"))}


_CT2_MODULES = {
    "embeddings": "embed_tokens",
    "position_encodings": "embed_positions",
    "conv1": "conv1",
    "conv2": "conv2",
    "layer_norm": "layer_norm",
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": "self_attn.out_proj",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "attention/linear_0": "encoder_attn.q_proj",
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": "encoder_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
_CT2_LEAVES = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "encodings": "weight"}


def _hugging_face_names(variables: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """CTranslate2's tensors one by one; stacked projections are taken apart, settings left out."""
    for name, tensor in variables.items():
        stack, _, rest = name.partition("/")
        layer, _, inner = rest.partition("/")
        if not layer.startswith("layer_") or layer == "layer_norm":
            prefix, inner = stack, rest
        else:
            prefix = f"{stack}.layers.{layer.removeprefix('layer_')}"
        module, _, leaf = inner.rpartition("/")
        if module not in _CT2_MODULES:
            continue
        names = _CT2_MODULES[module]
        parts = (names,) if isinstance(names, str) else names
        for part, piece in zip(parts, tensor.chunk(len(parts)), strict=True):
            if not part.endswith("k_proj") or leaf == "weight":  # Whisper's keys have no bias: zeros stand there
                yield f"{prefix}.{part}.{_CT2_LEAVES[leaf]}", piece


# ----------------------------------------------------------------------------------------------------------- helpers


def _read_json(path: Path, **default: Any) -> Any:
    """A JSON file; `missing`, if given, is the answer where there is none."""
    if default and not path.is_file():
        return default["missing"]
    return json.loads(path.read_text(encoding="utf-8"))


def _count_layers(tensors: Mapping[str, torch.Tensor], stack: str) -> int:
    return len({name.split(".")[2] for name in tensors if name.startswith(f"{stack}.layers.")})


def _pairs(heads: list[list[int]] | None) -> tuple[tuple[int, int], ...]:
    return tuple((layer, head) for layer, head in heads or ())


def _default_alignment_heads(config: WhisperConfig) -> tuple[tuple[int, int], ...]:
    """Every head of the decoder's upper half: what the reference takes where a model names none."""
    layers = range(config.decoder_layers // 2, config.decoder_layers)
    return tuple((layer, head) for layer in layers for head in range(config.num_heads))
