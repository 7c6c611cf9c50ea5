"""What a decoder's layers look back at: the encoder's output, as the processor at hand multiplies it fastest."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ray_jobs.engines.attention import lacks_amx
from ray_jobs.engines.linear import Linear


class Audio:
    """A batch's audio embeddings in one tensor (windows, audio_positions, width), which it takes over."""

    def __init__(self, embeddings: Tensor) -> None:
        self.embeddings = embeddings

    def __len__(self) -> int:
        """Windows in it."""
        return len(self.embeddings)

    def scores(self, queries: Tensor) -> Tensor:
        """(windows, n, width) to (windows, n, audio_positions), in the embeddings' dtype as all here."""
        # Audio first: the many rows are read as they lie, and only the few are rearranged.
        return (self.embeddings @ queries.transpose(1, 2)).transpose(1, 2)

    def mixed(self, attention: Tensor) -> Tensor:
        """The embeddings' sums by weights: (windows, n, audio_positions) to (windows, n, width)."""
        return attention @ self.embeddings

    def keep(self, order: Tensor, moved: Tensor) -> None:
        """Let window i be what `order[i]` was; only those at `moved` change places."""
        self.embeddings[moved] = self.embeddings[order[moved]]
        self.embeddings = self.embeddings[: len(order)]


class PackedAudio:
    """The same for AVX512: each window as the weights of two linear layers, one towards positions and one back.

    A batched product rearranges all of the audio at every step and layer, for a few queries. Packed once, it is only
    read, which takes two thirds of the time: for Whisper base on a Zen 4 0.37 and not 0.55 ms a token and layer.
    Packing takes 4 ms a window, and as much memory again, 3 MB.
    """

    def __init__(self, embeddings: Tensor) -> None:
        """`embeddings` as Audio's; they are copied."""
        self._to_positions = [Linear(window) for window in embeddings]
        self._to_width = [Linear(window.T.contiguous()) for window in embeddings]

    def __len__(self) -> int:
        return len(self._to_positions)

    def scores(self, queries: Tensor) -> Tensor:
        return _each(self._to_positions, queries)

    def mixed(self, attention: Tensor) -> Tensor:
        return _each(self._to_width, attention)

    def keep(self, order: Tensor, moved: Tensor) -> None:
        rows = order.tolist()
        self._to_positions = [self._to_positions[row] for row in rows]
        self._to_width = [self._to_width[row] for row in rows]


Heard = Audio | PackedAudio


def hear(embeddings: Tensor) -> Heard:
    """A batch to look back at, apart from `embeddings`, for windows that are done leave it."""
    return PackedAudio(embeddings) if lacks_amx(embeddings) else Audio(embeddings.clone())


def _each(layers: Sequence[Linear], x: Tensor) -> Tensor:
    return torch.stack([layer(rows) for layer, rows in zip(layers, x, strict=True)])
