"""Alignment: the batched warping finds the path that the textbook's double loop finds."""

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.engines.whisper_align import token_starts


def textbook_starts(cost: npt.NDArray[np.float64]) -> list[int]:
    """Where the least-cost path from the first to the last cell enters each row."""
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    steps = {}
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            ways = {(1, 1): total[i - 1, j - 1], (1, 0): total[i - 1, j], (0, 1): total[i, j - 1]}
            steps[i, j] = min(ways, key=lambda way: ways[way])
            total[i, j] = cost[i - 1, j - 1] + min(ways.values())
    starts = [0] * rows
    i, j = rows, columns
    while i > 0:
        starts[i - 1] = j - 1
        down, right = steps[i, j]
        i, j = i - down, j - right
    return starts


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
        assert found == textbook_starts(standardised(window, columns))
        assert found == sorted(found)
        assert found[0] >= 0
        assert found[-1] < columns


def test_a_clear_diagonal_is_followed() -> None:
    attention = torch.eye(5).repeat_interleave(4, dim=1)[:, None]  # token i looks at positions 4i to 4i + 3
    assert token_starts([attention], [20]) == [[0, 4, 8, 12, 16]]


def test_no_token_but_the_end() -> None:
    assert token_starts([torch.rand(1, 2, 10)], [10]) == [[0]]
