"""Lists a sorted store in parallel without knowing how its keys are spread: buckets have no folders to fan out over.

A store gives its keys a page at a time, from any key on. What is left to list, a range of keys, is cut at guessed keys
into as many pieces as may be asked for at once; the first page of each says where keys are, and what is left of the
pieces is cut again. A wrong guess costs one page. It is interpolation search, for all keys at once.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")

CUT_CHARACTERS = 8
"""How many characters of a guessed key are guessed; those before them are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Item]):
    """Some items with their keys, in ascending order of the keys; `is_last` where no key follows."""

    keys: Sequence[str]
    items: Sequence[Item]
    is_last: bool


@dataclass(frozen=True, slots=True)
class _Range:
    """The keys above `after`, up to and including `end`; all of them where that is None."""

    after: str
    end: str | None


def list_in_parallel(list_page: Callable[[str], Page[Item]], prefix: str, num_threads: int) -> Iterator[Item]:
    """Every item whose key starts with `prefix` and goes on, in order of the keys, from `num_threads` pages at once.

    `list_page(key)` gives the first page of keys above `key`; what it raises is raised here.
    """
    alphabet: set[str] = set()
    parts: list[_Range | Sequence[Item]] = [_Range(prefix, None)]
    with ThreadPoolExecutor(num_threads) as pool:
        while parts:
            first = parts[0]
            if not isinstance(first, _Range):
                yield from first
                del parts[0]
                continue
            unlisted = [part for part in parts if isinstance(part, _Range)]
            pages = iter([*pool.map(list_page, [part.after for part in unlisted])])
            num_pieces = num_threads // len(unlisted)
            after: list[_Range | Sequence[Item]] = []
            for part in parts:
                if not isinstance(part, _Range):
                    after.append(part)
                    continue
                page = next(pages)
                alphabet.update(*page.keys)
                num_inside = len(page.keys) if part.end is None else bisect_left(page.keys, part.end + "\0")
                after.append(page.items[:num_inside])
                if num_inside == len(page.keys) and not page.is_last:
                    after.extend(_cut(_Range(page.keys[-1], part.end), prefix, num_pieces, "".join(sorted(alphabet))))
            parts = after


def _cut(whole: _Range, prefix: str, num_pieces: int, alphabet: str) -> list[_Range]:
    """The range as up to `num_pieces` ranges, equally wide if keys were numbers with the alphabet's digits."""
    known = prefix if whole.end is None else _shared_start(whole.after, whole.end)
    low = _number(whole.after[len(known) :], alphabet)
    high = (len(alphabet) + 1) ** CUT_CHARACTERS if whole.end is None else _number(whole.end[len(known) :], alphabet)
    guesses = {known + _text(low + (high - low) * i // num_pieces, alphabet) for i in range(1, num_pieces)}
    inside = sorted(key for key in guesses if whole.after < key and (whole.end is None or key < whole.end))
    edges = [whole.after, *inside]
    return [_Range(after, end) for after, end in zip(edges, [*inside, whole.end], strict=True)]


def _shared_start(one: str, other: str) -> str:
    num_equal = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:num_equal]


def _number(text: str, alphabet: str) -> int:
    """The first characters of a text as a number; 0 is the text's end, an unknown character counts as its neighbour."""
    number = 0
    for character in text[:CUT_CHARACTERS].ljust(CUT_CHARACTERS, "\0"):
        digit = 0 if character == "\0" else min(bisect_left(alphabet, character), len(alphabet) - 1) + 1
        number = number * (len(alphabet) + 1) + digit
    return number


def _text(number: int, alphabet: str) -> str:
    """Inverse of `_number`, without what follows a 0."""
    characters = ""
    for _ in range(CUT_CHARACTERS):
        number, digit = divmod(number, len(alphabet) + 1)
        characters = alphabet[digit - 1] + characters if digit else ""
    return characters
