"""What Whisper may write next, inside vLLM: the language first, then text in pairs of timestamps.

vLLM decodes freely; the model's own rules (Radford et al., 2022, section 2.3 and its reference decoder) are laid over
its logits here. A request starts from the token `<|startoftranscript|>` alone, so that its first step shows both the
language and how likely there is no speech. Written against vLLM 0.32.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from ray_jobs.engines.whisper_vocabulary import Vocabulary
from ray_jobs.engines.whisper_weights import read_suppressed

_MAX_FIRST_TIMESTAMP = 50
"""Text starts in a window's first second, as in the reference: a later start is speech passed over."""


class Grammar:
    """Which tokens may follow: a function of the tokens so far."""

    def __init__(self, vocabulary: Vocabulary, vocab_size: int) -> None:
        self.end = vocabulary.end
        self.first_timestamp = vocabulary.first_timestamp
        self.num_header_tokens = 2 if vocabulary.languages else 0  # language and task
        self._last_timestamp = vocab_size - 1
        self._languages = vocabulary.languages
        self._transcribe = vocabulary.transcribe

    def next(self, tokens: Sequence[int], language: str | None) -> tuple[int, int, int]:
        """(lowest, first, last): allowed are the text tokens from `lowest` to the end token, and first to last."""
        said = tokens[self.num_header_tokens :]
        if len(tokens) < self.num_header_tokens:
            return (self.end + 1, *self._header(len(tokens), language))
        if not said:
            return self.end + 1, self.first_timestamp, self.first_timestamp + _MAX_FIRST_TIMESTAMP
        latest = next(token for token in reversed(said) if token >= self.first_timestamp)
        if said[-1] < self.first_timestamp:  # in the text: it goes on, or is closed by a later time
            return 0, latest + 1, self._last_timestamp
        if len(said) == 1 or said[-2] >= self.first_timestamp:  # a text has been opened
            return 0, self.end, self.end
        return self.end, latest, self._last_timestamp  # a text has been closed: another one, or the end

    def _header(self, step: int, language: str | None) -> tuple[int, int]:
        if step == 1:
            return self._transcribe, self._transcribe
        if language is not None:
            return self._languages[language], self._languages[language]
        return min(self._languages.values()), max(self._languages.values())


class WhisperRules(LogitsProcessor):
    """Lays the Grammar over a running batch's logits; `extra_args` of a request hold its language, or None."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        model = vllm_config.model_config
        folder, self._vocab_size = Path(model.model), model.hf_config.vocab_size
        self._grammar = Grammar(Vocabulary(folder, self._vocab_size), self._vocab_size)
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
