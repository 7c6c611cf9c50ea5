"""The ledger: which partitions were planned, and which are committed.

Everything lies under OUTPUT/_callmill, in names a reader of Parquet folders passes over:

    plans/FINGERPRINT/PLAN.json              partitions laid out by one planning, kept until all are committed
    markers/transcripts/FINGERPRINT/P.json   partition P's transcripts and failures are committed
    markers/insights/FINGERPRINT/P.json      partition P's analyses are committed

FINGERPRINT is that of the stage redact (transcripts) or analyse (insights). A marker is made last and made once
(exclusive create), and names its data files: a data file no marker names was never committed.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from ray_jobs import storage
from ray_jobs.records import SCHEMA_VERSION, Call

FOLDER = "_callmill"
OK = "ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """Whole calls that travel together; see `make_partition` for the id."""

    partition_id: str
    calls: tuple[Call, ...]

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Inverse of `asdict`, after JSON."""
        return cls(partition_id=document["partition_id"], calls=tuple(map(Call.from_document, document["calls"])))

    @property
    def expected_speech_s(self) -> float:
        return sum(call.expected_speech_s for call in self.calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallState:
    """What a committed partition says of one call: `code` is "ok" or a failure code."""

    call_id: str
    uri: str
    version: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """One committed partition. `kind` is transcripts or insights; `files` are relative to the output."""

    kind: str
    partition_id: str
    fingerprint: str
    run_id: str
    committed_unix_s: float
    files: tuple[str, ...]
    calls: tuple[CallState, ...]


def make_partition(calls: Sequence[Call], fingerprint: str, replaces: Mapping[str, str]) -> Partition:
    """A partition with its id.

    `replaces` maps call ids to the committed partition they were last in, so that a retried call gets a partition of
    a new name; apart from that the same calls in the same versions under the same fingerprint give the same id.
    """
    content = json.dumps([fingerprint, sorted((c.call_id, c.version, replaces.get(c.call_id, "")) for c in calls)])
    digest = hashlib.sha256(content.encode()).hexdigest()
    return Partition(partition_id=f"p-{digest[:16]}", calls=tuple(calls))


class Ledger:
    """Reads and writes the ledger of one output location. Holds no state but the location."""

    def __init__(self, output_uri: str) -> None:
        self.output_uri = output_uri
        self._root = storage.join(output_uri, FOLDER)

    # ------------------------------------------------------------------------------------------------------- plans

    def save_plan(self, fingerprint: str, partitions: Sequence[Partition]) -> None:
        """Persist newly planned partitions beside the earlier ones."""
        document = {"schema_version": SCHEMA_VERSION, "partitions": partitions}
        name = hashlib.sha256("".join(p.partition_id for p in partitions).encode()).hexdigest()[:16]
        storage.write_bytes(storage.join(self._root, "plans", fingerprint, f"{name}.json"), _dump(document))

    def load_plans(self, fingerprint: str) -> dict[str, list[Partition]]:
        """Every persisted plan under a fingerprint: its file's location to its partitions, in order."""
        uris = [
            o.uri for o in storage.list_objects(storage.join(self._root, "plans", fingerprint)) if _is_document(o.uri)
        ]
        documents = map(json.loads, storage.read_many(uris))
        return {
            uri: list(map(Partition.from_document, document["partitions"]))
            for uri, document in zip(uris, documents, strict=True)
        }

    # ----------------------------------------------------------------------------------------------------- markers

    def marker_uri(self, kind: str, fingerprint: str, partition_id: str) -> str:
        return storage.join(self._root, "markers", kind, fingerprint, f"{partition_id}.json")

    def commit(self, marker: Marker) -> Marker:
        """Make the marker; returns the marker that stands: this one, or the one an earlier writer made."""
        uri = self.marker_uri(marker.kind, marker.fingerprint, marker.partition_id)
        if storage.create_bytes(uri, _dump(marker)):
            return marker
        return _marker(storage.read_bytes(uri))

    def load_marker(self, kind: str, fingerprint: str, partition_id: str) -> Marker:
        """Raises FileNotFoundError where the partition is not committed."""
        return _marker(storage.read_bytes(self.marker_uri(kind, fingerprint, partition_id)))

    def replace(self, marker: Marker) -> None:
        """Put a marker in place of the one that stands (rows were removed from its data files)."""
        storage.write_bytes(self.marker_uri(marker.kind, marker.fingerprint, marker.partition_id), _dump(marker))

    def remove(self, marker: Marker) -> None:
        storage.delete(self.marker_uri(marker.kind, marker.fingerprint, marker.partition_id))

    def load_markers(self, kind: str) -> list[Marker]:
        """Every marker of a kind, whatever its fingerprint, oldest first."""
        uris = [o.uri for o in storage.list_objects(storage.join(self._root, "markers", kind)) if _is_document(o.uri)]
        return sorted(map(_marker, storage.read_many(uris)), key=lambda m: (m.committed_unix_s, m.partition_id))


def new_marker(
    kind: str, partition_id: str, fingerprint: str, run_id: str, files: Iterable[str], calls: Iterable[CallState]
) -> Marker:
    return Marker(
        kind=kind,
        partition_id=partition_id,
        fingerprint=fingerprint,
        run_id=run_id,
        committed_unix_s=time.time(),
        files=tuple(files),
        calls=tuple(calls),
    )


def _is_document(uri: str) -> bool:
    return uri.endswith(".json") and "/.tmp-" not in uri


def _dump(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), default=_fields).encode()


def _fields(record: Any) -> dict[str, Any]:
    """A record's fields as they are; `asdict` copies every value, which is most of the time of storing a plan."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _marker(data: bytes) -> Marker:
    document = json.loads(data)
    calls = tuple(CallState(**call) for call in document.pop("calls"))
    return Marker(**{**document, "files": tuple(document["files"]), "calls": calls})
