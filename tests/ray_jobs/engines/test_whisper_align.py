"""Alignment: the batched warping finds the path that the textbook's double loop finds."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.engines.whisper_align import token_starts


def textbook_cost(cost: npt.NDArray[np.float64]) -> float:
    """The least cost of a path from the first to the last cell."""
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for i in range(rows):
        for j in range(columns):
            total[i + 1, j + 1] = cost[i, j] + min(total[i, j], total[i, j + 1], total[i + 1, j])
    return float(total[-1, -1])


def path_cost(cost: npt.NDArray[np.float64], starts: list[int]) -> float:
    """The least cost of a path that enters each row at its start: by a step down, or down-right where it can."""
    total = cost[-1, starts[-1] :].sum()
    for row, (start, following) in enumerate(pairwise(starts)):
        down = cost[row, start : following + 1].sum()
        total += down if start == following else min(down, cost[row, start:following].sum())
    return float(total)


def standardised(attention: torch.Tensor, columns: int) -> npt.NDArray[np.float64]:
    weights = attention.double().numpy()
    return np.asarray(-((weights - weights.mean(0)) / weights.std(0)).mean(1)[:, :columns])


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shapes=st.lists(st.tuples(st.integers(2, 9), st.integers(1, 20)), min_size=1, max_size=4),
)
def test_equals_the_textbook_for_every_window_of_a_batch(seed: int, shapes: list[tuple[int, int]]) -> None:
    generator = torch.Generator().manual_seed(seed)
    attention = [torch.rand(rows, 3, 20, generator=generator) for rows, _ in shapes]
    starts = token_starts(attention, [columns for _, columns in shapes])
    for window, (_, columns), found in zip(attention, shapes, starts, strict=True):
        cost = standardised(window, columns)
        assert path_cost(cost, found) == pytest.approx(textbook_cost(cost), abs=1e-4)
        assert found == sorted(found)
        assert found[0] >= 0
        assert found[-1] < columns


def test_a_clear_diagonal_is_followed() -> None:
    attention = torch.eye(5).repeat_interleave(4, dim=1)[:, None]  # token i looks at positions 4i to 4i + 3
    assert token_starts([attention], [20]) == [[0, 4, 8, 12, 16]]


def test_no_token_but_the_end() -> None:
    assert token_starts([torch.rand(1, 2, 10)], [10]) == [[0]]
