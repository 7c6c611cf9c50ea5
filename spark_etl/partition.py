"""How calls are laid into partitions: by expected seconds of speech, whole, about equal, the same every time."""

import heapq
import math
import struct
from collections.abc import Mapping, Sequence
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
    """Lay whole calls into partitions of about equal expected speech; the same input gives the same partitions."""
    ordered = sorted(calls, key=lambda call: call.uri)
    partitions: list[Partition] = []
    for start in range(0, len(ordered), WINDOW_CALLS):
        window = ordered[start : start + WINDOW_CALLS]
        groups = _balance(window, limits, MIN_PARTITIONS_PER_ACTOR * max_actors)
        partitions.extend(make_partition(group, fingerprint, replaces) for group in groups)
    return partitions


def _balance(calls: Sequence[Call], limits: PartitionSpec, min_partitions: int) -> list[list[Call]]:
    """Longest processing time first (Graham 1969): each call goes to the lightest group that has room for it."""
    max_speech_s = min(limits.max_speech_s, limits.max_bytes / DECODED_BYTES_PER_SPEECH_S)
    giants = [call for call in calls if call.expected_speech_s >= max_speech_s]
    others = [call for call in calls if call.expected_speech_s < max_speech_s]
    others.sort(key=lambda call: (-call.expected_speech_s, call.uri))
    speech_s = sum(call.expected_speech_s for call in others)
    num_groups = max(
        math.ceil(speech_s / max_speech_s), math.ceil(len(others) / limits.max_calls), min(len(others), min_partitions)
    )
    groups: list[list[Call]] = [[] for _ in range(num_groups)]
    lightest = [(0.0, index) for index in range(num_groups)]
    for call in others:
        load_s, index = heapq.heappop(lightest)
        if load_s + call.expected_speech_s > max_speech_s and groups[index]:  # even the lightest is too full for it
            heapq.heappush(lightest, (load_s, index))
            groups.append([])
            load_s, index = 0.0, len(groups) - 1
        groups[index].append(call)
        if len(groups[index]) < limits.max_calls:
            heapq.heappush(lightest, (load_s + call.expected_speech_s, index))
        elif not lightest:
            groups.append([])
            heapq.heappush(lightest, (0.0, len(groups) - 1))
    return [[call] for call in giants] + [group for group in groups if group]
