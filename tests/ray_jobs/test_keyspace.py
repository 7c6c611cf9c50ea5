"""Listing in parallel: every key once and in order, however keys are spread and pages are cut."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.keyspace import Page, list_in_parallel


class Bucket:
    """A store of sorted keys that gives them in pages and counts the pages asked for."""

    def __init__(self, keys: Sequence[str], page_size: int) -> None:
        self.keys = sorted(keys)
        self.page_size = page_size
        self.num_pages = 0

    def page_after(self, prefix: str) -> Callable[[str], Page[str]]:
        keys = [key for key in self.keys if key.startswith(prefix)]

        def page(after: str) -> Page[str]:
            self.num_pages += 1
            start = bisect_right(keys, after)
            found = keys[start : start + self.page_size]
            return Page(keys=found, items=found, is_last=start + self.page_size >= len(keys))

        return page


keys = st.sets(st.text("aé/0019~\U0001f600", min_size=1, max_size=12) | st.text(min_size=1, max_size=4), max_size=200)


@given(keys, st.integers(1, 30), st.integers(1, 9), st.sampled_from(["", "a", "0/"]))
def test_every_key_below_the_prefix_is_listed_once_and_in_order(keys, page_size, num_threads, prefix):
    bucket = Bucket([*keys], page_size)
    listed = list(list_in_parallel(bucket.page_after(prefix), prefix, num_threads))
    assert listed == [key for key in bucket.keys if key.startswith(prefix) and key != prefix]


FLAT = [f"call-{number:05}.wav" for number in range(20_000)]
DATED = [
    f"2026/{day // 28 + 1:02}/{day % 28 + 1:02}/{n:04}-{n * 7919 % 1000:03}.wav"
    for day in range(336)
    for n in range(60)
]
ONE_FOLDER_HOLDS_ALL = [*(f"a/{number:05}" for number in range(19_900)), *(f"z{number}" for number in range(100))]


@pytest.mark.parametrize("keys", [FLAT, DATED, ONE_FOLDER_HOLDS_ALL])
def test_the_pages_asked_for_are_few_more_than_one_after_the_other(keys):
    serial, parallel = Bucket(keys, 100), Bucket(keys, 100)
    assert [*list_in_parallel(serial.page_after(""), "", 1)] == [*list_in_parallel(parallel.page_after(""), "", 16)]
    assert serial.num_pages == -(-len(keys) // 100)
    assert parallel.num_pages < 2 * serial.num_pages


def test_the_first_keys_come_before_all_are_listed():
    bucket = Bucket(FLAT, 100)
    first = [*islice(list_in_parallel(bucket.page_after(""), "", 4), 50)]
    assert first == FLAT[:50]
    assert bucket.num_pages == 1


def test_what_a_page_raises_is_raised():
    def denied(after: str) -> Page[str]:
        raise PermissionError(13, "access denied")

    with pytest.raises(PermissionError):
        list(list_in_parallel(denied, "", 4))
