"""Whisper's encoder and decoder (Radford et al., 2022) over plain tensors: time-major, batched, with static caches."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ray_jobs.engines.attention import attend
from ray_jobs.engines.linear import Linear
from ray_jobs.engines.whisper_audio import Heard, hear
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


def _linear(weights: _Weights, *names: str, gelu: bool = False) -> Linear:
    """One product for several projections of the same input; a projection without bias gets zeros."""
    biases = [
        torch.zeros_like(weights(f"{name}.weight")[:, 0])  # Whisper's keys have none
        if name.endswith("k_proj")
        else weights(f"{name}.bias")
        for name in names
    ]
    return Linear(torch.cat([weights(f"{name}.weight") for name in names]), torch.cat(biases), gelu=gelu)


class _Norm:
    """Layer normalisation of what the blocks add up, float32 in any model: added up in bfloat16, each block's rounding
    would stay, and that of a small model's encoder alone is seen in its word errors."""

    def __init__(self, weights: _Weights, name: str, dtype: torch.dtype | None = None) -> None:
        """The result is of `dtype`, by default the model's."""
        weight = weights(f"{name}.weight")
        self.dtype = dtype or weight.dtype
        self.weight, self.bias = weight.float(), weights(f"{name}.bias").float()

    def __call__(self, x: Tensor) -> Tensor:
        """`x`, float32, normalised."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias).to(self.dtype)


class _FeedForward:
    def __init__(self, weights: _Weights) -> None:
        self.norm = _Norm(weights, "final_layer_norm")
        self.up, self.down = _linear(weights, "fc1", gelu=True), _linear(weights, "fc2")

    def __call__(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)))


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
        self.qkv = _linear(weights.below("self_attn"), "q_proj", "k_proj", "v_proj")
        self.out = _linear(weights.below("self_attn"), "out_proj")
        self.feed_forward = _FeedForward(weights)

    def __call__(self, x: Tensor) -> Tensor:
        q, k, v = _split_heads(self.qkv(self.norm(x)), 3, self.num_heads)
        x = x + self.out(_join_heads(attend(q, k, v)))
        return self.feed_forward(x)


class _Conv:
    """A convolution of kernel 3 over time-major input, as one matrix product: three rows that follow lie together."""

    def __init__(self, weights: _Weights, name: str, stride: int) -> None:
        weight = weights(f"{name}.weight").transpose(1, 2).flatten(1).contiguous()  # (out, 3 * in)
        self.product = Linear(weight, weights(f"{name}.bias"), gelu=True)
        self.stride = stride

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, length, in) to (batch, length / stride, out), after GELU."""
        padded = functional.pad(x, (0, 0, 1, 1))
        batch, length, size = padded.shape
        shape = (batch, (length - 3) // self.stride + 1, 3 * size)
        return self.product(padded.as_strided(shape, (length * size, self.stride * size, 1)))


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
        x = x.float() + self._positions[: x.shape[1]]
        for layer in self._layers:
            x = layer(x)
        return self._norm(x)


# ----------------------------------------------------------------------------------------------------------- decoder


class DecoderState:
    """What a batch in decoding looks back at. Windows that are done leave it; what is left stays contiguous.

    `self_kv`: (layers, 2, windows, beams, num_heads, text_positions, head_dim), filled up to `length`; `audio`: the
    encoder's output, which all layers and all beams of a window share.
    """

    def __init__(self, self_kv: Tensor, audio: Heard) -> None:
        self.self_kv, self.audio = self_kv, audio
        self.length = 0

    def keep(self, windows: Tensor) -> Tensor:
        """Drop all windows but `windows` (ascending indices). Returns the old index of each one that is left.

        Windows from the end move into the gaps, so that no more is copied than gaps there are.
        """
        kept = len(windows)
        gaps = torch.ones(kept, dtype=torch.bool, device=windows.device)
        gaps[windows[windows < kept]] = False
        (holes,) = torch.where(gaps)
        order = torch.arange(kept, device=windows.device)
        order[holes] = windows[windows >= kept]
        self.self_kv[:, :, holes] = self.self_kv[:, :, order[holes]]
        self.self_kv = self.self_kv[:, :, :kept]
        self.audio.keep(order, holes)
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


class _CrossAttention:
    """Attention to the audio without keys or values of it: both projections move to the other side of the products.

    A head's scores q (W a) are (q W) a, and what it sees, w (V a), is (w a) V: the few queries are projected instead of
    1,500 positions of audio, as multi-head latent attention does it (DeepSeek-AI, 2024, section 2.1). All layers then
    read the same encoder output, a twelfth of Whisper base's caches, at each step: on a CPU it stays in the cache,
    where keys and values of each layer came from memory, and more windows fit a GPU.
    """

    def __init__(self, weights: _Weights, num_heads: int, alignment_heads: Sequence[int]) -> None:
        self.num_heads = num_heads
        self.query, self.out = _linear(weights, "q_proj"), _linear(weights, "out_proj")
        keys = weights("k_proj.weight").unflatten(0, (num_heads, -1))  # (num_heads, head_dim, width)
        self.keys = keys * keys.shape[1] ** -0.5  # exact: a head of any Whisper has 64 dimensions
        self.values = weights("v_proj.weight").unflatten(0, (num_heads, -1)).transpose(1, 2).contiguous()
        # The weights of a head sum up to one, so its values' bias passes through them as it is.
        self.value_bias = weights("v_proj.bias").unflatten(0, (num_heads, 1, -1))
        # On the device: a list would be copied there at every step, and the host would wait for it.
        self.alignment_heads = torch.tensor(alignment_heads, dtype=torch.long, device=self.keys.device)

    def __call__(self, x: Tensor, audio: Heard) -> tuple[Tensor, Tensor]:
        """What `x` (windows, n, width) sees in `audio`: as `x`.

        And the weights of the alignment heads: (windows, num_alignment_heads, n, audio_positions).
        """
        windows, num_queries, width = x.shape
        queries = self.query(x).view(windows * num_queries, self.num_heads, -1).transpose(0, 1)
        queries = (queries @ self.keys).view(self.num_heads, windows, num_queries, width).transpose(0, 1)
        scores = audio.scores(queries.reshape(windows, -1, width))
        # Along its last dimension softmax is several times faster, the copy included.
        attention = scores.contiguous().softmax(-1)
        seen = audio.mixed(attention).view(windows, self.num_heads, num_queries, width).transpose(0, 1)
        seen = torch.baddbmm(self.value_bias, seen.reshape(self.num_heads, -1, width), self.values)
        by_head = attention.view(windows, self.num_heads, num_queries, -1)
        return self.out(seen.transpose(0, 1).reshape(x.shape)), by_head[:, self.alignment_heads]


class _DecoderLayer:
    def __init__(self, weights: _Weights, num_heads: int, alignment_heads: Sequence[int]) -> None:
        self.num_heads = num_heads
        self.self_norm = _Norm(weights, "self_attn_layer_norm")
        self.qkv = _linear(weights.below("self_attn"), "q_proj", "k_proj", "v_proj")
        self.self_out = _linear(weights.below("self_attn"), "out_proj")
        self.cross_norm = _Norm(weights, "encoder_attn_layer_norm")
        self.cross_attention = _CrossAttention(weights.below("encoder_attn"), num_heads, alignment_heads)
        self.feed_forward = _FeedForward(weights)

    def __call__(
        self, x: Tensor, self_kv: Tensor, audio: Heard, mask: Tensor | None, positions: slice | Tensor
    ) -> tuple[Tensor, Tensor]:
        """One block over `x` (rows, n, width), float32, at `positions`; also the attention of the alignment heads.

        There is a row per text: `self_kv` has as many, `audio` one per window. Where windows have several, n is 1,
        and their texts stand side by side where else the new tokens of one text do, in the attention too, which has
        shape (windows, num_alignment_heads, n or beams, audio_positions).
        """
        q, k, v = _split_heads(self.qkv(self.self_norm(x)), 3, self.num_heads)
        keys, values = self_kv
        keys[:, :, positions] = k
        values[:, :, positions] = v
        attended = attend(q, keys, values, mask)
        x = x + self.self_out(_join_heads(attended))
        by_window = self.cross_norm(x).view(len(audio), -1, x.shape[2])
        seen, attention = self.cross_attention(by_window, audio)
        return self.feed_forward(x + seen.view(x.shape)), attention


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
        self._norm = _Norm(weights, "layer_norm", torch.float32)
        self._head = Linear(self._embeddings)

    def start(self, audio: Tensor, max_length: int) -> DecoderState:
        """Texts of up to `max_length` tokens on the encoder's output (windows, audio_positions, width)."""
        return DecoderState(self.text_cache(len(audio), max_length), hear(audio))

    def text_cache(self, num_windows: int, max_length: int) -> Tensor:
        """Room for a DecoderState's `self_kv`, one text per window; what is in it is undefined."""
        shape = self.config
        head_dim = shape.width // shape.num_heads
        return self._embeddings.new_empty(
            shape.decoder_layers, 2, num_windows, 1, shape.num_heads, max_length, head_dim
        )

    def audio_cache(self, num_windows: int) -> Tensor:
        """Room for the embeddings of a DecoderState's `audio`; what is in it is undefined."""
        return self._embeddings.new_empty(num_windows, self.config.audio_positions, self.config.width)

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, Tensor]:
        """Append `tokens` (rows, n) to the state's texts, one row each; n is 1 where windows have several.

        Returns the hidden states, float32 (rows, n, width), and the cross-attention of the alignment heads
        (windows, num_alignment_heads, n or beams, audio_positions).
        """
        start, num_new = state.length, tokens.shape[1]
        end = start + num_new
        mask = self._causal_mask(start, num_new) if num_new > 1 else None
        state.length = end
        return self.run(tokens, slice(start, end), state.self_kv[..., :end, :], state.audio, mask)

    def run(
        self, tokens: Tensor, positions: slice | Tensor, self_kv: Tensor, audio: Heard, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What `step` returns, for tokens at `positions` of texts and audio shaped as a DecoderState's.

        `mask` (n, text_positions) is added to the scores of the texts' own keys: it hides those that are not there.
        """
        x = self._embeddings[tokens].float() + self._positions[positions]
        texts = (2, len(x), *self_kv.shape[4:])
        attention = []
        for i, layer in enumerate(self._layers):
            x, weights = layer(x, self_kv[i].view(texts), audio, mask, positions)
            attention.append(weights)
        return self._norm(x), torch.cat(attention, 1)

    @property
    def device(self) -> torch.device:
        return self._embeddings.device

    def logits(self, hidden: Tensor, vocab_size: int | None = None) -> Tensor:
        """Scores of all tokens, or of the first `vocab_size`: float32, rounded to the model's dtype."""
        return self._head(hidden.to(self._embeddings.dtype))[..., :vocab_size].float()

    def exact_logits(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Unrounded scores of some tokens (rows, n) at one hidden state per row (rows, width): float32 (rows, n)."""
        return (self._embeddings[tokens].float() @ hidden[:, :, None])[..., 0]

    def _causal_mask(self, start: int, num_new: int) -> Tensor:
        keys = torch.arange(start + num_new, device=self.device)
        return self.mask(keys, keys[start:])

    def mask(self, keys: Tensor, queries: Tensor) -> Tensor:
        """(num_queries, num_keys): -inf where a key's position is after its query's, else 0."""
        later = keys > queries[:, None]
        return torch.zeros_like(later, dtype=self._embeddings.dtype).masked_fill_(later, -torch.inf)
