"""What a run has to do: list the recordings, skip what is done, lay the rest into partitions. Plain Python.

Nothing is decoded to plan: a call's expected speech comes from its size and, where reading it is cheap, its header.
Partitions that an earlier run planned and did not finish are taken up as they are, so their ids stay the same.
"""

import fnmatch
import hashlib
import heapq
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ray_jobs import storage
from ray_jobs.errors import SpecError
from ray_jobs.ledger import OK, CallState, Ledger, Marker, Partition, make_partition
from ray_jobs.pii_names import looks_personal
from ray_jobs.records import FAILURE_CODES, Call
from ray_jobs.spec import InputSpec, PartitionSpec, RunSpec
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

MAX_CALL_ID = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The work of one run.

    `calls` is everything the run answers for: the selected recordings, and planned ones that have vanished since.
    `done` are those among them with an outcome that stands; `partitions` holds the others, `resumed` of them planned
    by an earlier run. `analyse_only` are committed partitions whose transcripts lack the analyses of this spec, or
    are among `insights_to_redo`: committed analyses some of which failed, to be tried again.
    """

    fingerprints: Mapping[str, str]
    calls: tuple[Call, ...]
    done: frozenset[str]
    partitions: tuple[Partition, ...]
    resumed: frozenset[str]
    analyse_only: tuple[Marker, ...]
    insights_to_redo: tuple[Marker, ...]

    @property
    def nothing_to_do(self) -> bool:
        return not self.partitions and not self.analyse_only

    @property
    def skew(self) -> float:
        """The heaviest partition's expected speech over the mean; 1.0 is perfect balance."""
        loads = [partition.expected_speech_s for partition in self.partitions]
        return max(loads) * len(loads) / sum(loads) if loads else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Past:
    """What the ledger says before this run.

    `newest` maps a call's id to the marker that holds its outcome and its state there, `owners` to the recording that
    has the id, `open_partitions` are planned and not committed.
    """

    fingerprint: str
    retry_failed: bool
    newest: Mapping[str, tuple[Marker, CallState]]
    owners: Mapping[str, str]
    open_partitions: tuple[Partition, ...]

    def is_done(self, call: Call) -> bool:
        """Whether the call has an outcome that stands: this version, under this fingerprint, not to be retried."""
        if call.call_id not in self.newest:
            return False
        marker, state = self.newest[call.call_id]
        if marker.fingerprint != self.fingerprint or state.version != call.version:
            return False
        return state.code == OK or not (self.retry_failed or FAILURE_CODES[state.code])


def make_plan(spec: RunSpec, ledger: Ledger, *, retry_failed: bool = False) -> Plan:
    """Plan a run; reads the input's listing and the ledger, writes nothing.

    With `retry_failed`, calls that failed for good are planned again too.
    Raises SpecError where the input does not exist, or holds nothing that the spec selects.
    """
    fingerprints = spec.fingerprints()
    root = storage.normalise(spec.input.uri)
    listed = {info.uri: info for info in _list_input(root, storage.normalise(spec.output.uri))}
    past = _load_past(ledger, fingerprints["redact"], retry_failed)
    selected = {c.call_id: c for c in _name_calls(root, _select(root, listed, spec.input), past.owners)}

    def is_vanished(call: Call) -> bool:
        return call.uri not in listed and call.uri.startswith(root) and _is_selected(call.uri, root, spec.input)

    vanished = {
        call.call_id: call
        for partition in past.open_partitions
        for call in partition.calls
        if call.call_id not in selected and is_vanished(call)
    }
    calls = {**selected, **vanished}  # what was planned is accounted for, gone or not
    todo = {call_id: call for call_id, call in calls.items() if not past.is_done(call)}
    resumed = [p for p in past.open_partitions if all(_is_same(call, todo.get(call.call_id)) for call in p.calls)]
    resumed_ids = {call.call_id for partition in resumed for call in partition.calls}
    fresh = [call for call in todo.values() if call.call_id not in resumed_ids]
    replaces = {call_id: marker.partition_id for call_id, (marker, _) in past.newest.items()}
    new = lay_out(fresh, spec.etl.partition, spec.asr.actors.max_actors, past.fingerprint, replaces)
    done = calls.keys() - todo.keys()
    insights = [m for m in ledger.load_markers("insights") if m.fingerprint == fingerprints["analyse"]]
    to_redo = [m for m in insights if retry_failed and any(state.code != OK for state in m.calls)]
    analysed = [m for m in insights if m not in to_redo]
    return Plan(
        fingerprints=fingerprints,
        calls=tuple(calls.values()),
        done=frozenset(done),
        partitions=(*resumed, *new),
        resumed=frozenset(partition.partition_id for partition in resumed),
        analyse_only=_lacking_analyses(past, done, analysed) if spec.analyses else (),
        insights_to_redo=tuple(to_redo) if spec.analyses else (),
    )


def _is_same(planned: Call, now: Call | None) -> bool:
    return now is not None and (planned.uri, planned.version) == (now.uri, now.version)


def persist(plan: Plan, ledger: Ledger) -> None:
    """Write what the plan adds to the ledger, so that a rerun takes up the same partitions."""
    for marker in plan.insights_to_redo:
        ledger.remove(marker)
    new = [partition for partition in plan.partitions if partition.partition_id not in plan.resumed]
    if new:
        ledger.save_plan(plan.fingerprints["redact"], new)


# ----------------------------------------------------------------------------------------------------------- listing


def _list_input(root: str, output: str) -> Iterator[ObjectInfo]:
    """Everything under the input but the run's own output, should that lie inside it."""
    try:
        objects = [info for info in storage.list_objects(root) if not info.uri.startswith(output + "/")]
    except PermissionError as error:
        raise SpecError(f"input {root}: {error.strerror}; grant s3:ListBucket, or check the credentials") from None
    except FileNotFoundError:
        objects = []
    if not objects:
        raise SpecError(f"input {root}: there is nothing there; check the path, or the bucket and prefix")
    yield from objects


def _select(root: str, listed: Mapping[str, ObjectInfo], selection: InputSpec) -> list[ObjectInfo]:
    chosen = [info for uri, info in listed.items() if _is_selected(uri, root, selection)]
    if not chosen:
        raise SpecError(
            f"input {root}: none of its {len(listed)} files is selected; input.include: {', '.join(selection.include)}"
        )
    return chosen[: selection.limit]


def _is_selected(uri: str, root: str, selection: InputSpec) -> bool:
    path = PurePosixPath(uri).name if uri == root else storage.relative(uri, root)
    return _matches(path, selection.include) and not _matches(path, selection.exclude)


def _matches(path: str, globs: Iterable[str]) -> bool:
    """Whether any glob matches; `**/` matches any number of folders, none included."""
    lowered = path.lower()
    return any(
        fnmatch.fnmatchcase(lowered, glob.lower()) or fnmatch.fnmatchcase(lowered, glob.lower().removeprefix("**/"))
        for glob in globs
    )


# ------------------------------------------------------------------------------------------------------------- names


def _name_calls(root: str, objects: Iterable[ObjectInfo], owners: Mapping[str, str]) -> Iterator[Call]:
    """A Call per object, with an id that is unique, safe as a file name, and stays with its recording."""
    by_uri = {uri: call_id for call_id, uri in owners.items()}
    taken = dict(owners)
    for info in objects:
        path = PurePosixPath(info.uri).name if info.uri == root else storage.relative(info.uri, root)
        call_id = by_uri.get(info.uri) or _call_id(path)
        if taken.get(call_id, info.uri) != info.uri:
            call_id = f"{call_id}-{_digest(info.uri)}"
        taken[call_id] = info.uri
        yield Call(
            call_id=call_id,
            uri=info.uri,
            source=_public_name(root, path, call_id) if _is_personal(path) else info.uri,
            size_bytes=info.size_bytes,
            version=info.version,
            expected_speech_s=expected_speech_s(info),
        )


def _call_id(path: str) -> str:
    """The path without its extension, made safe: folders joined by `__`, anything unusual replaced by `_`."""
    if _is_personal(path):
        return f"call-{_digest(path)}"
    stem = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", path)
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", stem.replace("/", "__")).lstrip(".") or "call"
    return safe if len(safe) <= MAX_CALL_ID else f"{safe[:MAX_CALL_ID]}-{_digest(path)}"


def _is_personal(path: str) -> bool:
    return any(looks_personal(PurePosixPath(part).stem) for part in path.split("/"))


def _public_name(root: str, path: str, call_id: str) -> str:
    return storage.join(root, call_id + PurePosixPath(path).suffix)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# ------------------------------------------------------------------------------------------------------- the ledger


def _load_past(ledger: Ledger, fingerprint: str, retry_failed: bool) -> _Past:
    planned = [p for partitions in ledger.load_plans(fingerprint).values() for p in partitions]
    markers = ledger.load_markers("transcripts")
    newest = {state.call_id: (marker, state) for marker in markers for state in marker.calls}  # oldest first
    committed = {marker.partition_id for marker in markers}
    return _Past(
        fingerprint=fingerprint,
        retry_failed=retry_failed,
        newest=newest,
        owners={
            **{call.call_id: call.uri for partition in planned for call in partition.calls},
            **{call_id: state.uri for call_id, (_, state) in newest.items()},
        },
        open_partitions=tuple(partition for partition in planned if partition.partition_id not in committed),
    )


def _lacking_analyses(past: _Past, done: Iterable[str], insights: Iterable[Marker]) -> tuple[Marker, ...]:
    """The committed partitions that hold transcripts of `done` calls and are not among `insights`."""
    analysed = {marker.partition_id for marker in insights}
    holding = {marker.partition_id: marker for marker, state in map(past.newest.__getitem__, done) if state.code == OK}
    return tuple(holding[partition_id] for partition_id in sorted(holding.keys() - analysed))


# ----------------------------------------------------------------------------------------------------------- balance


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
