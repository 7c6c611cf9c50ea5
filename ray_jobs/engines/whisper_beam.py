"""Batched beam search over Whisper's decoder: the beams of a window share the keys and values of its audio."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ray_jobs.engines.whisper_decode import Decoded
from ray_jobs.engines.whisper_scores import MAX_TOKENS, Scorer


def beam_search(scorer: Scorer, audio: Tensor, languages: Sequence[str], num_beams: int) -> list[Decoded]:
    """One text per window of `audio`, the encoder's output: shape (num_windows, audio_positions, width).

    As in the reference decoder: each step keeps the `num_beams` likeliest texts of a window, a window is done once as
    many have ended (its patience is 1), and of those the one of the highest mean log-probability is taken.
    """
    state, logits, _, no_speech = scorer.begin(audio, languages)
    state.fan_out(num_beams)
    beams = _Beams(len(audio), num_beams, scorer.vocabulary.end, audio.device)
    logits = logits.repeat_interleave(num_beams, 0)
    for _ in range(MAX_TOKENS):
        state.reorder(beams.extend(logits))
        undone = beams.undone()
        if len(undone) == 0:
            break
        if len(undone) < beams.num_windows:
            beams.keep(state.keep(undone))
        logits, _ = scorer.advance(beams.tokens.flatten(0, 1), state)
    texts = beams.best()
    attention = scorer.attention(audio, languages, [text.tokens for text in texts])
    return [
        Decoded(
            tokens=text.tokens,
            token_logprobs=text.logprobs[: len(text.tokens)],
            avg_logprob=sum(text.logprobs) / (len(text.tokens) + 1),
            no_speech_prob=prob,
            attention=rows,
        )
        for text, rows, prob in zip(texts, attention, no_speech.tolist(), strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    """A text that has ended; `logprobs` has the end's too, where there was room for one."""

    tokens: list[int]
    logprobs: list[float]

    @property
    def score(self) -> float:
        return sum(self.logprobs) / max(1, len(self.tokens))


class _Beams:
    """The texts in the making: (windows, beams, num_tokens) of tokens and their log-probabilities, likeliest first."""

    def __init__(self, num_windows: int, num_beams: int, end: int, device: torch.device) -> None:
        self.tokens = torch.empty(num_windows, num_beams, 0, dtype=torch.long, device=device)
        self._num_beams, self._end = num_beams, end
        self._logprobs = torch.empty(num_windows, num_beams, 0, device=device)
        # All beams begin alike: the first step takes all its texts from one of them.
        self._totals = torch.full((num_windows, num_beams), -torch.inf, device=device)
        self._totals[:, 0] = 0.0
        self._windows = list(range(num_windows))
        self._ended: list[list[_Text]] = [[] for _ in range(num_windows)]

    @property
    def num_windows(self) -> int:
        return len(self._windows)

    def extend(self, logits: Tensor) -> Tensor:
        """Add a token to each text. `logits`: (windows * beams, vocab_size). Returns the beam each text came from."""
        logprobs = logits.log_softmax(-1).unflatten(0, self._totals.shape)
        # A beam has one way to end, so among twice as many candidates there are enough that go on.
        totals, places = (self._totals[..., None] + logprobs).flatten(1).topk(2 * self._num_beams)
        parents, tokens = places // logprobs.shape[-1], places % logprobs.shape[-1]
        goes_on = tokens != self._end
        rank = goes_on.cumsum(1)
        for window, candidate in torch.nonzero(~goes_on & (rank < self._num_beams)).tolist():
            parent = int(parents[window, candidate])
            self._end_text(window, parent, [float(logprobs[window, parent, self._end])])
        kept = torch.nonzero(goes_on & (rank <= self._num_beams))[:, 1].unflatten(0, self._totals.shape)
        parents, tokens, self._totals = (values.gather(1, kept) for values in (parents, tokens, totals))
        windows = torch.arange(len(parents), device=parents.device)[:, None]
        self.tokens = torch.cat([self.tokens[windows, parents], tokens[..., None]], -1)
        chosen = logprobs[windows, parents, tokens]
        self._logprobs = torch.cat([self._logprobs[windows, parents], chosen[..., None]], -1)
        return parents

    def undone(self) -> Tensor:
        """Places of the windows of which too few texts have ended."""
        places = [i for i, window in enumerate(self._windows) if len(self._ended[window]) < self._num_beams]
        return torch.tensor(places, device=self.tokens.device)

    def keep(self, places: Tensor) -> None:
        """Go on with the windows at these places only, in this order."""
        self._windows = [self._windows[i] for i in places.tolist()]
        self.tokens, self._logprobs, self._totals = (x[places] for x in (self.tokens, self._logprobs, self._totals))

    def best(self) -> list[_Text]:
        """Each window's best text; where none could end, the likeliest as it stands."""
        for place, window in enumerate(self._windows):
            if not self._ended[window]:
                self._end_text(place, 0, [])
        return [max(texts, key=lambda text: text.score) for texts in self._ended]

    def _end_text(self, place: int, beam: int, end_logprob: list[float]) -> None:
        ended = self._ended[self._windows[place]]
        if len(ended) < self._num_beams:
            logprobs = [*self._logprobs[place, beam].tolist(), *end_logprob]
            ended.append(_Text(tokens=self.tokens[place, beam].tolist(), logprobs=logprobs))
