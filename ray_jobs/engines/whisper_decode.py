"""Batched greedy decoding of Whisper, and the sampling it falls back to; windows that are done leave the batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ray_jobs.engines import text
from ray_jobs.engines.whisper_scores import MAX_TOKENS, Scorer
from ray_jobs.engines.whisper_vocabulary import Vocabulary

_LOOP_CHECK_STEPS = 16
_LOOP_TOKENS, _MAX_LOOP_PERIOD = 48, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """The text of one window, before it becomes words.

    `token_logprobs` has one entry per token; `avg_logprob` counts the end token too; `attention` holds the weights of
    the alignment heads as each token, and the end, was chosen: shape (num_tokens + 1, num_heads, audio_positions).
    """

    tokens: list[int]
    token_logprobs: list[float]
    avg_logprob: float
    no_speech_prob: float
    attention: Tensor

    def is_poor(self, vocabulary: Vocabulary) -> bool:
        """Whether to try again (section 4.5 of the Whisper paper): the text is a loop, or an unlikely one."""
        if text.is_invented(self.avg_logprob, self.no_speech_prob):
            return False  # silence: another try only invents another text
        return self.avg_logprob < text.MIN_AVG_LOGPROB or self.is_looping(vocabulary)

    def is_looping(self, vocabulary: Vocabulary) -> bool:
        return text.is_looping(vocabulary.text(self.tokens))


def decode(
    scorer: Scorer,
    audio: Tensor,
    languages: Sequence[str],
    temperatures: Sequence[float] = (),
    seeds: Sequence[int] = (),
) -> list[Decoded]:
    """One text per window of `audio`, the encoder's output: shape (num_windows, audio_positions, width).

    With temperatures, one per window, tokens are sampled, each window from its own seed: what its neighbours are does
    not matter.
    """
    state, logits, attention, no_speech = scorer.begin(audio, languages)
    heat = torch.tensor(temperatures, device=audio.device)[:, None]
    samplers = [torch.Generator(audio.device).manual_seed(seed) for seed in seeds]
    trace = _Trace(attention, scorer.vocabulary.end)
    rows = torch.arange(len(audio), device=audio.device)
    for step in range(MAX_TOKENS):
        if temperatures:
            tokens = _sample(logits / heat[rows], [samplers[row] for row in rows.tolist()])
        else:
            tokens = logits.max(-1).indices  # on a CPU a third of argmax's time
        logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
        trace.add(rows, tokens, logprobs, attention)
        active = trace.active(rows, tokens, step)
        if len(active) == 0:
            break
        if len(active) < len(rows):
            rows = rows[state.keep(active)]
        logits, attention = scorer.advance(trace.texts(rows), state)
    else:
        trace.cut_short(rows, attention)
    return trace.read(no_speech)


def _sample(logits: Tensor, samplers: Sequence[torch.Generator]) -> Tensor:
    """A token of each row's softmax: where its running sum passes a random number of the row's own sampler.

    torch.multinomial draws a number for each of 50,000 tokens, which takes three times as long. The sum is float64, as
    so many small float32 lose too much; the random number is never 0, which tokens without any probability would pass.
    """
    passed = logits.softmax(-1).cumsum(-1, dtype=torch.float64)
    at = torch.stack([1 - torch.rand(1, device=logits.device, generator=sampler) for sampler in samplers])
    return torch.searchsorted(passed, at * passed[:, -1:])[:, 0]


class _Trace:
    """What was chosen for every window of a batch, step by step."""

    def __init__(self, attention: Tensor, end: int) -> None:
        """`attention`: (num_windows, num_heads, audio_positions) of any step."""
        num_windows, self._end = len(attention), end
        self._tokens = torch.full((MAX_TOKENS, num_windows), end, device=attention.device)
        self._logprobs = torch.zeros(MAX_TOKENS, num_windows, device=attention.device)
        self._attention = attention.new_empty(MAX_TOKENS + 1, *attention.shape)
        self._num_steps = 0

    def add(self, windows: Tensor, tokens: Tensor, logprobs: Tensor, attention: Tensor) -> None:
        step = self._num_steps
        self._tokens[step, windows] = tokens
        self._logprobs[step, windows] = logprobs
        self._attention[step, windows] = attention
        self._num_steps += 1

    def cut_short(self, windows: Tensor, attention: Tensor) -> None:
        """Where texts that did not end would have gone on: their last words end there."""
        self._attention[self._num_steps, windows] = attention

    def texts(self, windows: Tensor) -> Tensor:
        """The tokens chosen so far: (len(windows), num_steps)."""
        return self._tokens[: self._num_steps, windows].T

    def active(self, windows: Tensor, tokens: Tensor, step: int) -> Tensor:
        """Indices into `windows` of those that go on: neither ended nor caught in a loop."""
        goes_on = tokens != self._end
        if step % _LOOP_CHECK_STEPS == 0 and step >= _LOOP_TOKENS:
            tail = self._tokens[self._num_steps - _LOOP_TOKENS : self._num_steps, windows]
            for period in range(1, _MAX_LOOP_PERIOD + 1):
                goes_on &= (tail[period:] != tail[:-period]).any(0)
        return torch.where(goes_on)[0]

    def read(self, no_speech: Tensor) -> list[Decoded]:
        windows = zip(self._tokens.T.tolist(), self._logprobs.T.tolist(), no_speech.tolist(), strict=True)
        return [self._read(window, *columns) for window, columns in enumerate(windows)]

    def _read(self, window: int, tokens: list[int], logprobs: list[float], no_speech_prob: float) -> Decoded:
        length = tokens.index(self._end) if self._end in tokens else len(tokens)
        return Decoded(
            tokens=tokens[:length],
            token_logprobs=logprobs[:length],
            avg_logprob=sum(logprobs[: length + 1]) / (length + 1),
            no_speech_prob=no_speech_prob,
            attention=self._attention[: length + 1, window],
        )
