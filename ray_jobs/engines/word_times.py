"""From an alignment of Whisper's tokens with the audio to words with times; for every Whisper engine."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ray_jobs.engines.asr import WindowWord

_TOKENS_PER_S = 50  # positions of the encoder's output, which the alignment counts in


def timed_words(
    pieces: Sequence[str],
    num_tokens: Sequence[int],
    alignment: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float64],
    window_s: float,
    *,
    spaced: bool,
) -> list[WindowWord]:
    """Words from a token-to-frame path: times monotone and inside the window.

    `pieces`: whole-character stretches of the text, of `num_tokens` tokens each; a blank before one starts a word, as
    does, where the language is not `spaced`, anything but punctuation. `alignment`: shape (path_length, 2), (token,
    encoder position) along the dynamic-time-warping path over the model's alignment heads, as in OpenAI's whisper;
    `probabilities`: shape (num_tokens,).
    """
    words: list[list[int]] = []
    for i, piece in enumerate(pieces):
        if not words or piece.startswith(" ") or not (spaced or _is_punctuation(piece)):
            words.append([])
        words[-1].append(i)
    spoken = [[i for i in word if not _is_punctuation(pieces[i])] for word in words]
    token_starts_s = alignment[np.diff(alignment[:, 0], prepend=-1) > 0, 1] / _TOKENS_PER_S
    edges = np.cumsum([0, *num_tokens])
    return [
        WindowWord(
            text="".join(pieces[i] for i in word).strip(),
            start_s=min(float(token_starts_s[edges[core[0]]]), window_s),
            end_s=min(float(token_starts_s[edges[core[-1] + 1]]), window_s),
            probability=float(np.mean(probabilities[edges[core[0]] : edges[core[-1] + 1]])),
        )
        # Punctuation is aligned with the pause it stands for: a word ends where its last letter does.
        for word, core in zip(words, spoken, strict=True)
        if core
    ]


def _is_punctuation(piece: str) -> bool:
    return not any(character.isalnum() for character in piece)
