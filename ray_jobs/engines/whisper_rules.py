"""Whisper's rules inside vLLM, which decodes freely by itself: they are laid over its logits. Written for vLLM 0.32."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from ray_jobs.engines.whisper_grammar import Grammar
from ray_jobs.engines.whisper_vocabulary import Vocabulary
from ray_jobs.engines.whisper_weights import read_suppressed


class WhisperRules(LogitsProcessor):
    """Lays the Grammar over a running batch's logits; `extra_args` of a request hold its language, or None."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        model = vllm_config.model_config
        folder, self._vocab_size = Path(model.model), model.hf_config.vocab_size
        self._grammar = Grammar(Vocabulary(folder, self._vocab_size))
        self._device = device
        self._positions = torch.arange(self._vocab_size, device=device)
        self._is_written = torch.ones(self._vocab_size, dtype=torch.bool, device=device)
        self._is_written[[token for token in read_suppressed(folder) if token < self._grammar.end]] = False
        self._requests: dict[int, tuple[Sequence[int], str | None]] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(
            self._requests, batch_update, lambda params, _, tokens: (tokens, (params.extra_args or {})["language"])
        )

    def apply(self, logits: Tensor) -> Tensor:
        """Forbid what may not follow; and text where a timestamp of whatever value is likelier than any text token."""
        rows = list(self._requests)
        if not rows:
            return logits
        follow = [self._grammar.next(*self._requests[row]) for row in rows]
        lowest, first, last = torch.tensor(follow, device=self._device).T[..., None]
        is_text = self._positions <= self._grammar.end
        allowed = is_text & self._is_written & (self._positions >= lowest)
        allowed |= (self._positions >= first) & (self._positions <= last)
        scores = logits[rows, : self._vocab_size].masked_fill_(~allowed, -torch.inf)
        timestamps = scores[:, self._grammar.first_timestamp :].logsumexp(-1)
        is_time = timestamps > scores[:, : self._grammar.first_timestamp].amax(-1)
        scores[:, : self._grammar.first_timestamp].masked_fill_(is_time[:, None], -torch.inf)
        logits[rows, : self._vocab_size] = scores
        return logits
