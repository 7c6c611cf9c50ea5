"""Several recordings of one call, a party each, as the channels of one."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain

import numpy as np

from ray_jobs.errors import CallError
from spark_etl.decode import MAX_CHANNELS, Block, Samples, resample

Blocks = Generator[Block, None, None]


def side_by_side(parts: Sequence[Blocks]) -> Iterator[Block]:
    """The parts' channels, one part after the other, from a common start on.

    All come out at the highest rate of a part, and shorter ones go on as silence. Where one fails, the others are
    closed. Raises CallError `unsupported_codec` for more than MAX_CHANNELS, and whatever the parts raise.
    """
    with ExitStack() as stack:
        for part in parts:
            stack.enter_context(closing(part))
        firsts = [next(part) for part in parts]
        num_channels = sum(len(first.pcm) for first in firsts)
        if num_channels > MAX_CHANNELS:
            raise CallError(
                "unsupported_codec", f"{num_channels} channels in {len(parts)} files; {MAX_CHANNELS} are taken"
            )
        rate = max(first.sample_rate_hz for first in firsts)
        channels = [
            _Queue(len(first.pcm), _at_rate(rate, first, part)) for first, part in zip(firsts, parts, strict=True)
        ]
        while count := min((n for queue in channels if (n := queue.fill())), default=0):
            yield Block(sample_rate_hz=rate, pcm=np.concatenate([queue.take(count) for queue in channels]))


def _at_rate(rate_hz: int, first: Block, rest: Iterator[Block]) -> Iterator[Block]:
    blocks = chain([first], rest)
    return blocks if first.sample_rate_hz == rate_hz else resample(blocks, rate_hz)


class _Queue:
    """The samples of one part that are not given out yet."""

    def __init__(self, num_channels: int, blocks: Iterator[Block]) -> None:
        self._blocks = blocks
        self._held: Samples = np.zeros((num_channels, 0), np.int16)

    def fill(self) -> int:
        """Samples at hand; 0 at the end."""
        if not self._held.shape[1] and (block := next(self._blocks, None)) is not None:
            self._held = block.pcm
        return self._held.shape[1]

    def take(self, count: int) -> Samples:
        """The next samples, as many as are at hand; silence after the end."""
        if not self._held.shape[1]:
            return np.zeros((len(self._held), count), np.int16)
        taken, self._held = self._held[:, :count], self._held[:, count:]
        return taken
