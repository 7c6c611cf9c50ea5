"""Times in a text: when one may come, on ten words and 1,501 times; and the segments they cut."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.engines.whisper_timestamps import TimedTokens, TimestampRules, cut

END = 10
T0 = END + 3  # behind two control tokens, which are none of the rules' business
TIMES = range(T0, T0 + 1501)
WORDS = set(range(END))
RULES = TimestampRules(TIMES, END)


def allowed(*history: int, time_score: float = 0.0) -> set[int]:
    """What may follow where each word, and the end, has a score of 100."""
    logits = torch.full((1, TIMES.stop), time_score)
    logits[:, : END + 1] = 100.0
    scores = RULES(logits, torch.tensor([history], dtype=torch.long))
    return {int(token) for token in torch.where(scores[0] > -torch.inf)[0]} - {END + 1, END + 2}


def test_a_text_starts_with_a_time_in_the_first_second() -> None:
    assert allowed() == set(range(T0, T0 + 51))


def test_a_time_opens_a_text_or_nothing_more_comes() -> None:
    assert allowed(T0 + 5) == {*WORDS, END}


def test_a_text_goes_on_or_is_closed_by_a_later_time() -> None:
    assert allowed(T0 + 5, 1) == {*WORDS, END, *range(T0 + 6, TIMES.stop)}


def test_after_a_closed_text_comes_the_next_time_or_the_end() -> None:
    assert allowed(T0 + 5, 1, T0 + 9) == {END, *range(T0 + 9, TIMES.stop)}
    assert allowed(T0 + 5, 1, T0 + 9, T0 + 12) == {*WORDS, END}


def test_a_time_comes_where_all_times_together_are_likelier_than_any_word() -> None:
    assert END in allowed(T0, 1, time_score=90.0)
    assert allowed(T0, 1, time_score=95.0) == set(range(T0 + 1, TIMES.stop))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=12))
def test_whatever_is_chosen_times_never_go_back(choices: list[int]) -> None:
    history: list[int] = []
    for choice in choices:
        options = sorted(allowed(*history) - {END})
        if not options:
            break
        history.append(options[choice % len(options)])
    times = [token for token in history if token >= T0]
    assert times == sorted(times)
    segments = list(cut(history, T0, 30.0))
    assert [token for part in segments for token in history[part.start : part.end]] == [t for t in history if t < T0]
    assert all(0 <= part.start_s <= part.end_s <= 30.0 for part in segments)


def test_rows_of_a_batch_do_not_mix() -> None:
    histories = torch.tensor([[T0, 1], [T0, T0], [1, T0 + 7]])
    logits = torch.randn(3, TIMES.stop, generator=torch.Generator().manual_seed(0))
    together = RULES(logits, histories)
    for i, row in enumerate(together):
        torch.testing.assert_close(row, RULES(logits[i : i + 1], histories[i : i + 1])[0])


@pytest.mark.parametrize(
    ("tokens", "segments"),
    [
        ([], []),
        ([T0, T0 + 50], []),
        ([1, 2], [(0, 2, 0.0, 8.0)]),
        ([T0 + 50, 1, 2, T0 + 100], [(1, 3, 1.0, 2.0)]),
        ([T0, 1, T0 + 100, T0 + 150, 2, 3], [(1, 2, 0.0, 2.0), (4, 6, 3.0, 8.0)]),
        ([T0, 1, T0 + 1500], [(1, 2, 0.0, 8.0)]),
    ],
    ids=["nothing", "only times", "no times", "one", "two, the last left open", "beyond the window"],
)
def test_times_cut_a_text_into_segments(tokens: list[int], segments: list[tuple[int, int, float, float]]) -> None:
    keys = ("start", "end", "start_s", "end_s")
    assert list(cut(tokens, T0, 8.0)) == [TimedTokens(**dict(zip(keys, values, strict=True))) for values in segments]
