"""Whisper's encoder and decoder (Radford et al., 2022) over plain tensors: time-major, batched, with static caches."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ray_jobs.engines.whisper_weights import Checkpoint, WhisperConfig
from ray_jobs.errors import ModelError


class _Weights:
    """A checkpoint's tensors below a prefix, on one device in one dtype."""

    def __init__(self, checkpoint: Checkpoint, prefix: str, device: torch.device, dtype: torch.dtype) -> None:
        self._checkpoint, self._prefix, self._device, self._dtype = checkpoint, prefix, device, dtype

    def __call__(self, name: str) -> Tensor:
        if f"{self._prefix}{name}" not in self._checkpoint.tensors:
            raise ModelError(f"the model lacks the tensor {self._prefix}{name}; it is no whole Whisper model")
        return self._checkpoint.tensors[f"{self._prefix}{name}"].to(self._device, self._dtype)

    def below(self, prefix: str) -> "_Weights":
        return _Weights(self._checkpoint, f"{self._prefix}{prefix}.", self._device, self._dtype)


class _Linear:
    """One product for several projections of the same input; a projection without bias gets zeros."""

    def __init__(self, weights: _Weights, *names: str) -> None:
        self.weight = torch.cat([weights(f"{name}.weight") for name in names])
        self.bias = torch.cat([self._bias(weights, name) for name in names])

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    @staticmethod
    def _bias(weights: _Weights, name: str) -> Tensor:
        if name.endswith("k_proj"):  # Whisper's keys have none
            return torch.zeros_like(weights(f"{name}.weight")[:, 0])
        return weights(f"{name}.bias")


class _Norm:
    def __init__(self, weights: _Weights, name: str) -> None:
        self.weight, self.bias = weights(f"{name}.weight"), weights(f"{name}.bias")

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias)


class _FeedForward:
    def __init__(self, weights: _Weights) -> None:
        self.norm = _Norm(weights, "final_layer_norm")
        self.up, self.down = _Linear(weights, "fc1"), _Linear(weights, "fc2")

    def __call__(self, x: Tensor) -> Tensor:
        return x + self.down(functional.gelu(self.up(self.norm(x))))


def _split_heads(x: Tensor, num_parts: int, num_heads: int) -> Sequence[Tensor]:
    """(batch, length, num_parts * width) to num_parts tensors of shape (batch, num_heads, length, head_dim)."""
    batch, length, size = x.shape
    return x.view(batch, length, num_parts, num_heads, size // num_parts // num_heads).permute(2, 0, 3, 1, 4).unbind()


def _join_heads(x: Tensor) -> Tensor:
    """(batch, num_heads, length, head_dim) to (batch, length, width)."""
    return x.transpose(1, 2).flatten(2)


# ----------------------------------------------------------------------------------------------------------- encoder


class _EncoderLayer:
    def __init__(self, weights: _Weights, num_heads: int) -> None:
        self.num_heads = num_heads
        self.norm = _Norm(weights, "self_attn_layer_norm")
        self.qkv = _Linear(weights.below("self_attn"), "q_proj", "k_proj", "v_proj")
        self.out = _Linear(weights.below("self_attn"), "out_proj")
        self.feed_forward = _FeedForward(weights)

    def __call__(self, x: Tensor) -> Tensor:
        q, k, v = _split_heads(self.qkv(self.norm(x)), 3, self.num_heads)
        x = x + self.out(_join_heads(functional.scaled_dot_product_attention(q, k, v)))
        return self.feed_forward(x)


class _Conv:
    """A convolution of kernel 3 over time-major input, as one matrix product: three rows that follow lie together."""

    def __init__(self, weights: _Weights, name: str, stride: int) -> None:
        self.weight = weights(f"{name}.weight").transpose(1, 2).flatten(1).contiguous()  # (out, 3 * in)
        self.bias = weights(f"{name}.bias")
        self.stride = stride

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, length, in) to (batch, length / stride, out), after GELU."""
        padded = functional.pad(x, (0, 0, 1, 1))
        batch, length, size = padded.shape
        shape = (batch, (length - 3) // self.stride + 1, 3 * size)
        triples = padded.as_strided(shape, (length * size, self.stride * size, 1))
        return functional.gelu(functional.linear(triples, self.weight, self.bias))


class Encoder:
    """Spectra to audio embeddings."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        """Raises ModelError where a tensor is missing."""
        weights = _Weights(checkpoint, "encoder.", device, dtype)
        self._dtype = dtype
        self._convs = (_Conv(weights, "conv1", 1), _Conv(weights, "conv2", 2))
        self._positions = weights("embed_positions.weight")
        num_heads = checkpoint.config.num_heads
        layers = range(checkpoint.config.encoder_layers)
        self._layers = [_EncoderLayer(weights.below(f"layers.{i}"), num_heads) for i in layers]
        self._norm = _Norm(weights, "layer_norm")

    def __call__(self, log_mel: Tensor) -> Tensor:
        """(batch, num_frames, num_mels) to (batch, num_frames / 2, width) in the model's dtype."""
        x = log_mel.to(self._dtype)
        for conv in self._convs:
            x = conv(x)
        x = x + self._positions[: x.shape[1]]
        for layer in self._layers:
            x = layer(x)
        return self._norm(x)


# ----------------------------------------------------------------------------------------------------------- decoder


class DecoderState:
    """The caches of a batch in decoding. Windows that are done leave it; what is left stays contiguous.

    `self_kv`: (layers, 2, windows, beams, num_heads, text_positions, head_dim), filled up to `length`; `cross_kv`:
    (layers, 2, windows, num_heads, audio_positions, head_dim), keys and values of the encoder's output, which all
    beams of a window share.
    """

    def __init__(self, self_kv: Tensor, cross_kv: Tensor) -> None:
        self.self_kv, self.cross_kv = self_kv, cross_kv
        self.length = 0

    def keep(self, windows: Tensor) -> Tensor:
        """Drop all windows but `windows` (ascending indices). Returns the old index of each one that is left.

        Windows from the end move into the gaps, so that no more is copied than gaps there are.
        """
        kept = len(windows)
        gaps = torch.ones(kept, dtype=torch.bool, device=windows.device)
        gaps[windows[windows < kept]] = False
        (holes,) = torch.where(gaps)
        movers = windows[windows >= kept]
        for cache in (self.self_kv, self.cross_kv):
            cache[:, :, holes] = cache[:, :, movers]
        self.self_kv, self.cross_kv = self.self_kv[:, :, :kept], self.cross_kv[:, :, :kept]
        order = torch.arange(kept, device=windows.device)
        order[holes] = movers
        return order

    def fan_out(self, num_beams: int) -> None:
        """Go on with `num_beams` copies of each window's only text."""
        layers, parts, windows, _, *rest = self.self_kv.shape
        fanned = self.self_kv.new_empty(layers, parts, windows, num_beams, *rest)
        fanned[..., : self.length, :] = self.self_kv[..., : self.length, :]
        self.self_kv = fanned

    def reorder(self, parents: Tensor) -> None:
        """Let each beam go on from the text of another of its window: `parents` (windows, beams)."""
        windows = torch.arange(len(parents), device=parents.device)[:, None]
        texts = self.self_kv[..., : self.length, :]
        texts[:] = texts[:, :, windows, parents]


class _DecoderLayer:
    def __init__(self, weights: _Weights, num_heads: int, heads: Sequence[int]) -> None:
        self.num_heads = num_heads
        self.self_norm = _Norm(weights, "self_attn_layer_norm")
        self.qkv = _Linear(weights.below("self_attn"), "q_proj", "k_proj", "v_proj")
        self.self_out = _Linear(weights.below("self_attn"), "out_proj")
        self.cross_norm = _Norm(weights, "encoder_attn_layer_norm")
        self.q = _Linear(weights.below("encoder_attn"), "q_proj")
        self.cross_kv = _Linear(weights.below("encoder_attn"), "k_proj", "v_proj")
        self.cross_out = _Linear(weights.below("encoder_attn"), "out_proj")
        # On the device: a list would be copied there at every step, and the host would wait for it.
        self.heads = torch.tensor(heads, dtype=torch.long, device=self.q.weight.device)
        self.feed_forward = _FeedForward(weights)

    def __call__(
        self, x: Tensor, self_kv: Tensor, cross_kv: Tensor, mask: Tensor | None, positions: slice | Tensor
    ) -> tuple[Tensor, Tensor]:
        """One block over `x` (rows, n, width) at `positions` of the caches; also the cross-attention of `heads`.

        There is a row per text: `self_kv` has as many, `cross_kv` one per window. Where windows have several, n is 1,
        and their texts stand side by side where else the new tokens of one text do, in the attention too, which has
        shape (windows, len(heads), audio_positions, n or beams).
        """
        q, k, v = _split_heads(self.qkv(self.self_norm(x)), 3, self.num_heads)
        keys, values = self_kv
        keys[:, :, positions] = k
        values[:, :, positions] = v
        attended, _ = _attend(q, keys, values, mask)
        x = x + self.self_out(_join_heads(attended))
        by_window = self.cross_norm(x).view(cross_kv.shape[1], -1, x.shape[2])
        (q,) = _split_heads(self.q(by_window), 1, self.num_heads)
        attended, probabilities = _attend(q, cross_kv[0], cross_kv[1], None)
        x = x + self.cross_out(_join_heads(attended)).view(x.shape)
        return self.feed_forward(x), probabilities[:, self.heads]


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention of few queries to many keys: (rows, heads, n, head_dim), and the weights (rows, heads, keys, n).

    Keys come first in the product because with one query it is then a matrix times a vector, which reads the keys at
    the speed of memory; the fused kernels are several times slower there.
    """
    scores = k @ (q * q.shape[-1] ** -0.5).transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(-2)
    return weights.transpose(-1, -2) @ v, weights


class Decoder:
    """Tokens and audio embeddings to scores of the next token."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        """Raises ModelError where a tensor is missing."""
        self.config: WhisperConfig = checkpoint.config
        weights = _Weights(checkpoint, "decoder.", device, dtype)
        self._embeddings, self._positions = weights("embed_tokens.weight"), weights("embed_positions.weight")
        self._layers = [
            _DecoderLayer(
                weights.below(f"layers.{i}"),
                self.config.num_heads,
                [head for layer, head in checkpoint.alignment_heads if layer == i],
            )
            for i in range(self.config.decoder_layers)
        ]
        self._norm = _Norm(weights, "layer_norm")

    def start(self, audio: Tensor, max_length: int) -> DecoderState:
        """Caches for texts of up to `max_length` tokens on the encoder's output (windows, audio_positions, width)."""
        state = DecoderState(*self.caches(len(audio), max_length))
        self.read_audio(audio, state.cross_kv)
        return state

    def caches(self, num_windows: int, max_length: int) -> tuple[Tensor, Tensor]:
        """Room for a DecoderState's `self_kv` and `cross_kv`, one text per window; what is in it is undefined."""
        shape = self.config
        head_dim = shape.width // shape.num_heads
        self_shape = (shape.decoder_layers, 2, num_windows, 1, shape.num_heads, max_length, head_dim)
        cross_shape = (shape.decoder_layers, 2, num_windows, shape.num_heads, shape.audio_positions, head_dim)
        return self._embeddings.new_empty(self_shape), self._embeddings.new_empty(cross_shape)

    def read_audio(self, audio: Tensor, cross_kv: Tensor) -> None:
        """Write the keys and values of the encoder's output into `cross_kv`."""
        for cache, layer in zip(cross_kv, self._layers, strict=True):
            cache[0], cache[1] = _split_heads(layer.cross_kv(audio), 2, self.config.num_heads)

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, Tensor]:
        """Append `tokens` (rows, n) to the state's texts, one row each; n is 1 where windows have several.

        Returns the hidden states (rows, n, width), and the cross-attention of the alignment heads
        (windows, num_alignment_heads, audio_positions, n or beams).
        """
        start, num_new = state.length, tokens.shape[1]
        end = start + num_new
        mask = self._causal_mask(start, num_new) if num_new > 1 else None
        state.length = end
        return self.run(tokens, slice(start, end), state.self_kv[..., :end, :], state.cross_kv, mask)

    def run(
        self, tokens: Tensor, positions: slice | Tensor, self_kv: Tensor, cross_kv: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What `step` returns, for tokens at `positions` of caches shaped as a DecoderState's.

        `mask` (text_positions, n) is added to the scores of the texts' own keys: it hides those that are not there.
        """
        x = self._embeddings[tokens] + self._positions[positions]
        texts = (2, len(x), *self_kv.shape[4:])
        attention = []
        for i, layer in enumerate(self._layers):
            x, weights = layer(x, self_kv[i].view(texts), cross_kv[i], mask, positions)
            attention.append(weights)
        return self._norm(x), torch.cat(attention, 1)

    @property
    def device(self) -> torch.device:
        return self._embeddings.device

    def logits(self, hidden: Tensor, vocab_size: int | None = None) -> Tensor:
        """Scores of all tokens, or of the first `vocab_size`: float32, rounded to the model's dtype."""
        return (hidden @ self._embeddings[:vocab_size].T).float()

    def exact_logits(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Unrounded scores of some tokens (rows, n) at one hidden state per row (rows, width): float32 (rows, n)."""
        return (self._embeddings[tokens].float() @ hidden.float()[:, :, None])[..., 0]

    def _causal_mask(self, start: int, num_new: int) -> Tensor:
        keys = torch.arange(start + num_new, device=self.device)
        return self.mask(keys, keys[start:])

    def mask(self, keys: Tensor, queries: Tensor) -> Tensor:
        """(num_keys, num_queries): -inf where a key's position is after its query's, else 0."""
        later = keys[:, None] > queries
        return torch.zeros_like(later, dtype=self._embeddings.dtype).masked_fill_(later, -torch.inf)
