"""Whisper's timestamp tokens: when they may come while a text is written, and the segments they cut it into."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STEP_S = 0.02
"""Seconds between two timestamp tokens."""

_MAX_FIRST = 50
"""A text begins in the window's first second: later, the model tends to have skipped speech (the reference's limit)."""


class TimestampRules:
    """Forbids times out of place, as section 2.3 of the Whisper paper and its reference decoder have them.

    A text begins with a time. Times come in pairs, the end of one segment and the start of the next, or a last one
    before the text's end; they never go back, and a segment is not empty. Where all times together are likelier than
    any word, a time comes.
    """

    def __init__(self, times: range, end: int) -> None:
        """`times`: the ids of timestamp tokens, from 0 s on; `end` closes a text, ids below it are words."""
        self._first, self._end = times.start, end

    def __call__(self, logits: Tensor, history: Tensor) -> Tensor:
        """Scores (rows, vocab_size) after texts `history` (rows, num_tokens); minus infinity is what may not come."""
        ids = torch.arange(logits.shape[1], device=logits.device)
        if history.shape[1] == 0:
            return logits.masked_fill((ids < self._first) | (ids > self._first + _MAX_FIRST), -torch.inf)
        is_time = ids >= self._first
        after_time = history[:, -1:] >= self._first
        in_pair = history[:, -2:-1] >= self._first if history.shape[1] > 1 else torch.ones_like(after_time)
        closes = after_time & ~in_pair  # a segment has just ended: the next begins, or the text is over
        latest = history.where(history >= self._first, self._first - 1).amax(1, keepdim=True)
        earliest = torch.where(closes, latest, latest + 1)
        forbidden = (is_time & (ids < earliest)) | (is_time & after_time & in_pair) | ((ids < self._end) & closes)
        logits = logits.masked_fill(forbidden, -torch.inf)
        all_times = logits[:, self._first :].logsumexp(1, keepdim=True)
        a_time_is_due = all_times > logits[:, : self._first].amax(1, keepdim=True)
        return logits.masked_fill(a_time_is_due & ~is_time, -torch.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedTokens:
    """Tokens `start` to `end` of a text, without times, and when they were said, in seconds from the window's start."""

    start: int
    end: int
    start_s: float
    end_s: float


def cut(tokens: Sequence[int], first: int, window_s: float) -> Iterator[TimedTokens]:
    """A text's stretches between timestamp tokens (ids from `first` on); what no time ends, the window's end does."""
    times = [place for place, token in enumerate(tokens) if token >= first]
    edges = [-1, *times, len(tokens)]
    at_s = [0.0, *(min((tokens[place] - first) * STEP_S, window_s) for place in times), window_s]
    for i in range(len(edges) - 1):
        if edges[i + 1] > edges[i] + 1:
            yield TimedTokens(start=edges[i] + 1, end=edges[i + 1], start_s=at_s[i], end_s=max(at_s[i], at_s[i + 1]))
