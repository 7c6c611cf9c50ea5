"""Which of the calls found a run takes: by date, by sample, up to a limit. Nothing here changes a call or its id.

Every step says how many calls it leaves out, and one that leaves none says which key to change.
"""

import functools
import hashlib
import heapq
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath

from ray_jobs.errors import SpecError
from ray_jobs.records import Call
from ray_jobs.spec import DATE_CODES, DateSpec, InputSpec, SampleSpec
from ray_jobs.storage import ObjectInfo
from spark_etl.listing import path_below
from spark_etl.partition import SPEECH_SHARE

_DATE_PARTS = {"Y": "year", "m": "month", "d": "day", "H": "hour", "M": "minute", "S": "second"}
_BEGINNING = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The calls taken, in order of their location, and how many each key of the spec left out (none: not there)."""

    calls: tuple[Call, ...]
    left_out: Mapping[str, int]


def select_calls(calls: Sequence[Call], root: str, listed: Mapping[str, ObjectInfo], spec: InputSpec) -> Selection:
    """Apply `input.dates`, `input.sample` and `input.limit`, in this order.

    `listed` has what lies below `root`, by location; a planned call that has gone from there stays within
    `by: modified`.
    Raises SpecError where a key selects nothing, or names what no call has.
    """
    steps: list[tuple[str, Callable[[Sequence[Call]], Sequence[Call]]]] = []
    if spec.dates is not None:
        dates = spec.dates
        steps.append(("input.dates", lambda calls: _in_range(calls, root, listed, dates)))
    if spec.sample is not None:
        sample = spec.sample
        steps.append(("input.sample", lambda calls: _sampled(calls, root, sample)))
    steps.append(("input.limit", lambda calls: calls[: spec.limit]))
    taken: Sequence[Call] = sorted(calls, key=lambda call: call.uri)
    left_out = {}
    for key, step in steps:
        kept = step(taken)
        if taken and not kept:
            raise SpecError(f"{key} takes none of the {len(taken):,} calls below {root}; widen it")
        if len(kept) < len(taken):
            left_out[key] = len(taken) - len(kept)
        taken = kept
    return Selection(calls=tuple(taken), left_out=left_out)


# ------------------------------------------------------------------------------------------------------------- dates


def _in_range(calls: Sequence[Call], root: str, listed: Mapping[str, ObjectInfo], dates: DateSpec) -> Sequence[Call]:
    moments = [_moment(call, root, listed, dates) for call in calls]
    if calls and not any(moments):
        raise SpecError(_nothing_dated(calls, root, dates))
    return [
        call
        for call, moment in zip(calls, moments, strict=True)
        if moment is not None
        and (dates.since is None or moment >= dates.since)
        and (dates.before is None or moment < dates.before)
    ]


def _moment(call: Call, root: str, listed: Mapping[str, ObjectInfo], dates: DateSpec) -> datetime | None:
    if dates.by == "path":
        return date_in(path_below(call.uri, root), dates.pattern or "")
    if dates.by == "started_at":
        return _parsed(call.metadata.get("started_at", ""))
    if call.uri not in listed:  # planned when it was in range, and gone since
        return dates.since or _BEGINNING
    return datetime.fromtimestamp(listed[call.uri].modified_unix_s, UTC)


def date_in(path: str, pattern: str) -> datetime | None:
    """The first stretch of a path that reads as a date under the pattern, in UTC."""
    for match in _date_regex(pattern).finditer(path):
        parts = {_DATE_PARTS[code]: int(digits) for code, digits in match.groupdict().items()}
        try:
            return datetime(**{"month": 1, "day": 1, **parts}, tzinfo=UTC)
        except ValueError:
            continue  # digits that are no date, such as those of a longer number
    return None


@functools.cache
def _date_regex(pattern: str) -> re.Pattern[str]:
    """Matches, without consuming it, what the pattern describes; one named group per code."""
    pieces = re.split("%(.)", pattern)
    texts = [f"(?P<{piece}>{DATE_CODES[piece]})" if i % 2 else re.escape(piece) for i, piece in enumerate(pieces)]
    return re.compile(f"(?={''.join(texts)})")


def _parsed(text: str) -> datetime | None:
    """An ISO 8601 time; one without a zone is UTC."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def _nothing_dated(calls: Sequence[Call], root: str, dates: DateSpec) -> str:
    such_as = f"such as {path_below(calls[0].uri, root)}"
    if dates.by == "path":
        return f"input.dates.pattern: {dates.pattern} is in none of the {len(calls):,} paths, {such_as}; correct it"
    return (
        f"input.dates.by: none of the {len(calls):,} calls, {such_as}, has an ISO 8601 started_at in its metadata; "
        "name its column in input.metadata, or take by: modified"
    )


# ------------------------------------------------------------------------------------------------------------ sample


def _sampled(calls: Sequence[Call], root: str, sample: SampleSpec) -> Sequence[Call]:
    """The calls whose hashes are lowest: below the fraction, or the lowest `count` of each stratum.

    Whether a call is among a fraction depends on nothing but its location; a count's calls stay until a newcomer with a
    lower hash takes the place of one (bottom-k sampling).
    """
    if sample.fraction is not None:
        return [call for call in calls if _hash(call, sample.seed) < sample.fraction]
    strata: dict[tuple[str, ...], list[Call]] = defaultdict(list)
    for call, stratum in zip(calls, _strata(calls, root, sample), strict=True):
        strata[stratum].append(call)
    taken = {
        call.call_id
        for stratum in strata.values()
        for call in heapq.nsmallest(sample.count or 0, stratum, key=lambda call: _hash(call, sample.seed))
    }
    return [call for call in calls if call.call_id in taken]


def _hash(call: Call, seed: int) -> float:
    """A number in [0, 1), evenly spread."""
    digest = hashlib.sha256(f"{seed}:{call.uri}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _strata(calls: Sequence[Call], root: str, sample: SampleSpec) -> Iterator[tuple[str, ...]]:
    """Each call's stratum; calls that lack a key of metadata share one. Raises SpecError where no call has the key."""
    known = {"folder", "duration"}.union(*(call.metadata for call in calls))
    for key in sample.by:
        if key not in known:
            raise SpecError(f"input.sample.by: no call has {key} in its metadata; known are {', '.join(sorted(known))}")
    for call in calls:
        yield tuple(_stratum(call, key, root, sample) for key in sample.by)


def _stratum(call: Call, key: str, root: str, sample: SampleSpec) -> str:
    if key in call.metadata:
        return call.metadata[key]
    if key == "folder":
        return str(PurePosixPath(path_below(call.uri, root)).parent)
    if key == "duration":
        return str(bisect_right(sample.duration_edges_s, call.expected_speech_s / SPEECH_SHARE))
    return ""
