"""When each token was said: dynamic time warping of cross-attention, for a batch of windows at once."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

POSITION_S = 0.02
"""Seconds of audio per encoder position."""


def token_starts(attention: Sequence[Tensor], num_positions: Sequence[int]) -> list[list[int]]:
    """The encoder position at which each row of attention begins, ascending.

    `attention`: one tensor per window, (num_rows, num_heads, audio_positions), one row per token and one for the end;
    `num_positions`: how much of the window is audio. As in OpenAI's whisper, a head's weights are standardised over
    the tokens, heads are averaged, and the path of least cost runs through the result (Sakoe and Chiba, 1978).
    """
    costs = pad_sequence([_cost(window) for window in attention], batch_first=True)
    rows = torch.tensor([len(window) for window in attention], device=costs.device)
    columns = torch.tensor(num_positions, device=costs.device)
    entries, from_diagonal = _warp(costs[:, :, : max(num_positions)])
    starts = _walk_back(entries, from_diagonal, rows, columns)
    return [window[:length] for window, length in zip(starts.tolist(), rows.tolist(), strict=True)]


def _cost(attention: Tensor) -> Tensor:
    """(num_rows, audio_positions) float64: low where the heads look."""
    weights = attention.float()
    weights = weights - weights.mean(0)
    deviation = weights.square().mean(0).sqrt_()  # on a CPU in a fraction of std_mean's time
    return -(weights / deviation.clamp_(min=1e-8)).mean(1).double()


def _warp(costs: Tensor) -> tuple[Tensor, Tensor]:
    """Least-cost paths through (batch, rows, columns) by steps down, right and down-right.

    Returns, both (batch, rows, columns): for a path that is at a cell, the column where it entered that cell's row
    (int32), and whether a path that enters a row at that column comes from the column before (bool).
    Going right costs what lies on the way, so the cheapest entry of a row up to each column is a running minimum of
    the cost above less the row's own running sum: one row at a time, all columns at once.
    """
    entries = torch.zeros(costs.shape, dtype=torch.int32, device=costs.device)
    from_diagonal = torch.zeros(costs.shape, dtype=torch.bool, device=costs.device)
    total = costs[:, 0].cumsum(-1)
    for row in range(1, costs.shape[1]):
        run = costs[:, row].cumsum(-1)
        diagonal = torch.nn.functional.pad(total[:, :-1], (1, 0), value=torch.inf)
        from_diagonal[:, row] = diagonal < total
        cheapest, entry = (torch.minimum(diagonal, total) - run + costs[:, row]).cummin(-1)
        entries[:, row] = entry
        total = cheapest + run
    return entries, from_diagonal


def _walk_back(entries: Tensor, from_diagonal: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(batch, max rows): the column where the path to each window's last row and column enters each row."""
    starts = torch.zeros(entries.shape[:2], dtype=torch.long, device=entries.device)
    batch = torch.arange(len(entries), device=entries.device)
    column = columns - 1
    for row in range(entries.shape[1] - 1, -1, -1):
        entry = entries[batch, row, column].long()
        entry = torch.where(row < rows, entry, column)
        starts[:, row] = entry
        column = entry - (from_diagonal[batch, row, entry] & (row < rows)).long()
    return starts
