"""How calls are laid into partitions: by expected seconds of speech, whole, about equal, the same every time."""

import heapq
import math
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ray_jobs import storage
from ray_jobs.ledger import Partition, make_partition
from ray_jobs.records import Call
from ray_jobs.spec import PartitionSpec
from ray_jobs.storage import ObjectInfo

WINDOW_CALLS = 10_000
"""Calls are balanced against each other within windows of this many listed keys."""

MIN_PARTITIONS_PER_ACTOR = 4
"""Small inputs are cut finer than the limits ask, so that the stages have something to overlap."""

SPEECH_SHARE = 0.8
"""Expected seconds of speech, over all channels, per second of a call."""

DECODED_BYTES_PER_SPEECH_S = 32_000
"""16-bit samples at 16 kHz, the most a second of speech takes."""

BYTES_PER_S = {
    ".wav": 16_000,
    ".flac": 12_000,
    ".mp3": 6_000,
    ".m4a": 6_000,
    ".mp4": 6_000,
    ".aac": 6_000,
    ".ogg": 4_000,
    ".opus": 4_000,
    ".oga": 4_000,
    ".webm": 4_000,
    ".amr": 1_600,
    ".gsm": 1_650,
}
"""Usual rates of telephone recordings, where nothing but the size is known."""


def expected_speech_s(info: ObjectInfo) -> float:
    """Seconds of speech to expect of a recording, over all its channels, from its size and name or WAV header."""
    rate = None if storage.is_s3(info.uri) else _wav_bytes_per_s(info.uri)
    rate = rate or BYTES_PER_S.get(PurePosixPath(info.uri).suffix.lower(), BYTES_PER_S[".wav"])
    return info.size_bytes / rate * SPEECH_SHARE


def _wav_bytes_per_s(path: str) -> int | None:
    """The rate that a local RIFF/WAVE header states in a leading `fmt ` chunk (WAVEFORMAT), if it is plausible."""
    try:
        head = storage.read_head(path, 32)
    except OSError:
        return None
    if len(head) < 32 or head[:4] != b"RIFF" or head[8:16] != b"WAVEfmt ":
        return None
    (rate,) = struct.unpack_from("<I", head, 28)
    return rate if 1_000 <= rate <= 2_000_000 else None


def lay_out(
    calls: Sequence[Call], limits: PartitionSpec, max_actors: int, fingerprint: str, replaces: Mapping[str, str]
) -> list[Partition]:
    """Lay whole calls into partitions of about equal expected speech; the same input gives the same partitions.

    Calls of one size may be one recording stored twice. They stay together as far as the limits allow, so that ETL,
    which sees one partition at a time, finds out.
    """
    max_speech_s = min(limits.max_speech_s, limits.max_bytes / DECODED_BYTES_PER_SPEECH_S)
    partitions: list[Partition] = []
    for window in _windows(_bundles(calls, max_speech_s, limits.max_calls)):
        groups = _balance(window, max_speech_s, limits.max_calls, MIN_PARTITIONS_PER_ACTOR * max_actors)
        partitions.extend(make_partition(group, fingerprint, replaces) for group in groups)
    return partitions


@dataclass(frozen=True, slots=True)
class _Bundle:
    """Calls that are to meet in one partition, in order of their location."""

    calls: Sequence[Call]
    expected_speech_s: float

    @property
    def uri(self) -> str:
        return self.calls[0].uri


def _bundles(calls: Iterable[Call], max_speech_s: float, max_calls: int) -> list[_Bundle]:
    """The calls by size, in order of their first location; where more have one size than a partition takes, it is cut.

    A cut seldom parts one content stored twice: such calls follow each other where they have one version, as with the
    ETag of most stores.
    """
    by_size: dict[int, list[Call]] = defaultdict(list)
    for call in calls:
        by_size[call.size_bytes].append(call)
    bundles = [
        bundle
        for same_size in by_size.values()
        for bundle in _cut(sorted(same_size, key=lambda call: (call.version, call.uri)), max_speech_s, max_calls)
    ]
    return sorted(bundles, key=lambda bundle: bundle.uri)


def _cut(calls: Sequence[Call], max_speech_s: float, max_calls: int) -> Iterator[_Bundle]:
    """The calls, in order, in bundles that a partition takes whole; a giant call is alone."""
    start, speech_s = 0, 0.0
    for index, call in enumerate(calls):
        if index > start and (speech_s + call.expected_speech_s > max_speech_s or index - start == max_calls):
            yield _Bundle(sorted(calls[start:index], key=lambda call: call.uri), speech_s)
            start, speech_s = index, 0.0
        speech_s += call.expected_speech_s
    yield _Bundle(sorted(calls[start:], key=lambda call: call.uri), speech_s)


def _windows(bundles: Iterable[_Bundle]) -> Iterator[list[_Bundle]]:
    window: list[_Bundle] = []
    num_calls = 0
    for bundle in bundles:
        window.append(bundle)
        num_calls += len(bundle.calls)
        if num_calls >= WINDOW_CALLS:
            yield window
            window, num_calls = [], 0
    if window:
        yield window


def _balance(bundles: Sequence[_Bundle], max_speech_s: float, max_calls: int, min_partitions: int) -> list[list[Call]]:
    """Longest processing time first (Graham 1969): each bundle goes to the lightest group that has room for it."""
    full = [bundle for bundle in bundles if bundle.expected_speech_s >= max_speech_s]
    others = [bundle for bundle in bundles if bundle.expected_speech_s < max_speech_s]
    others.sort(key=lambda bundle: (-bundle.expected_speech_s, bundle.uri))
    speech_s = sum(bundle.expected_speech_s for bundle in others)
    num_calls = sum(len(bundle.calls) for bundle in others)
    num_groups = max(
        math.ceil(speech_s / max_speech_s), math.ceil(num_calls / max_calls), min(len(others), min_partitions)
    )
    groups: list[list[Call]] = [[] for _ in range(num_groups)]
    lightest = [(0.0, index) for index in range(num_groups)]
    for bundle in others:
        load_s, index = heapq.heappop(lightest)
        too_long = load_s + bundle.expected_speech_s > max_speech_s
        too_many = len(groups[index]) + len(bundle.calls) > max_calls
        if groups[index] and (too_long or too_many):  # even the lightest is too full for it
            heapq.heappush(lightest, (load_s, index))
            groups.append([])
            load_s, index = 0.0, len(groups) - 1
        groups[index].extend(bundle.calls)
        if len(groups[index]) < max_calls:
            heapq.heappush(lightest, (load_s + bundle.expected_speech_s, index))
        elif not lightest:
            groups.append([])
            heapq.heappush(lightest, (0.0, len(groups) - 1))
    return [[*bundle.calls] for bundle in full] + [group for group in groups if group]
