"""What is known of recordings beside their audio: rows of a manifest (CSV or Parquet), or JSON files beside them."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from ray_jobs import storage
from ray_jobs.errors import RetryableError, SpecError
from ray_jobs.storage import ObjectInfo

SUFFIXES = (".csv", ".parquet")

Facts = Mapping[str, str]
"""What one row says, by column; nothing where a cell is empty."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Rows in their order. They name recordings by `uri` or `path`, relative to `base`, or else by `call_id`."""

    uri: str
    base: str
    columns: tuple[str, ...]
    rows: Sequence[Facts]

    @property
    def names_files(self) -> bool:
        return "uri" in self.columns or "path" in self.columns

    @cached_property
    def by_uri(self) -> dict[str, Facts]:
        """The rows by the location of their recording. Raises SpecError where one has none, or two have the same."""
        return self._indexed("uri" if "uri" in self.columns else "path", self._location) if self.names_files else {}

    @cached_property
    def by_call_id(self) -> dict[str, Facts]:
        """The rows by call id, where that is all that names them. Raises SpecError as `by_uri` does."""
        return {} if self.names_files else self._indexed("call_id", lambda call_id: call_id)

    def objects(self) -> list[ObjectInfo]:
        """The recordings the rows name, without a listing.

        Those on S3 are asked for one by one, unless their rows give `size_bytes` and `etag`, as an S3 inventory does.
        """
        known = {uri: info for uri, row in self.by_uri.items() if (info := _stated(uri, row))}
        asked = iter(storage.stat_many([uri for uri in self.by_uri if uri not in known]))
        return [known.get(uri) or next(asked) for uri in self.by_uri]

    def _indexed(self, column: str, key: Any) -> dict[str, Facts]:
        found: dict[str, Facts] = {}
        for number, row in enumerate(self.rows, start=1):
            if column not in row:
                raise SpecError(f"manifest {self.uri}: row {number} has no {column}; fill it in or remove the row")
            name = key(row[column])
            if name in found:
                raise SpecError(
                    f"manifest {self.uri}: row {number} repeats {column} {row[column]}; keep one of the two"
                )
            found[name] = row
        return found

    def _location(self, name: str) -> str:
        return storage.normalise(name if "://" in name or name.startswith("/") else storage.join(self.base, name))


def is_manifest(uri: str) -> bool:
    return uri.lower().endswith(SUFFIXES)


def read_manifest(uri: str, base: str | None = None) -> Manifest:
    """A manifest whose paths are relative to `base`, or to its own folder.

    Raises SpecError, one line that names the manifest and the fix, where it cannot be read or names no recordings.
    """
    location = storage.normalise(uri)
    try:
        data = storage.read_bytes(location)
    except FileNotFoundError:
        raise SpecError(f"manifest {uri}: there is no such file; check input.manifest") from None
    except (OSError, RetryableError) as error:
        raise SpecError(f"manifest {uri}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    match PurePosixPath(location).suffix.lower():
        case ".csv":
            columns, rows = _read_csv(uri, data)
        case ".parquet":
            columns, rows = _read_parquet(uri, data)
        case _:
            raise SpecError(f"manifest {uri}: its name ends in neither {' nor '.join(SUFFIXES)}")
    if not {"uri", "path", "call_id"}.intersection(columns):
        raise SpecError(
            f"manifest {uri}: none of its columns ({', '.join(columns)}) is uri, path or call_id, which name recordings"
        )
    return Manifest(uri=uri, base=base or location.rpartition("/")[0], columns=columns, rows=rows)


def _read_csv(uri: str, data: bytes) -> tuple[tuple[str, ...], list[Facts]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"manifest {uri}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    header = text.partition("\n")[0]
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True))
    except csv.Error as error:
        raise SpecError(f"manifest {uri}: is not CSV: {error}") from None
    columns = _columns(uri, lines[0] if lines else [])
    rows: list[Facts] = []
    for number, cells in enumerate(lines[1:], start=1):
        if cells and len(cells) != len(columns):
            raise SpecError(f"manifest {uri}: row {number} has {len(cells)} cells where the header has {len(columns)}")
        if any(cells):
            rows.append({name: cell.strip() for name, cell in zip(columns, cells, strict=True) if cell.strip()})
    return columns, rows


def _read_parquet(uri: str, data: bytes) -> tuple[tuple[str, ...], list[Facts]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise SpecError(f"manifest {uri}: is not a Parquet file: {' '.join(str(error).split())[:200]}") from None
    columns = _columns(uri, table.column_names)
    return columns, [_facts(row) for row in table.rename_columns(list(columns)).to_pylist()]


def _columns(uri: str, names: Iterable[str]) -> tuple[str, ...]:
    columns = tuple(name.strip().lower() for name in names)
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if not columns or twice:
        fault = f"has two columns {twice[0]}" if twice else "is empty"
        raise SpecError(f"manifest {uri}: {fault}; its first row names the columns")
    return columns


def _facts(values: Mapping[str, Any]) -> Facts:
    texts = ((name, _text(value)) for name, value in values.items())
    return {name: text for name, text in texts if text}


def _text(value: Any) -> str:
    """One cell; "" for what is no plain value."""
    match value:
        case None | dict():
            return ""
        case bool():
            return "true" if value else "false"
        case datetime() | date():
            return value.isoformat()
        case list() | tuple():
            return ",".join(value) if all(isinstance(item, str) for item in value) else ""
    return str(value).strip()


def _stated(uri: str, row: Facts) -> ObjectInfo | None:
    """An object as its row describes it. A local file's version is its own, so it is always asked for."""
    size, etag = row.get("size_bytes", ""), row.get("etag", "").strip('"')
    if not (storage.is_s3(uri) and etag and size.isdigit()):
        return None
    return ObjectInfo(uri=uri, size_bytes=int(size), version=etag, modified_unix_s=0.0)


def read_sidecars(recordings: Iterable[str], listed: Mapping[str, ObjectInfo]) -> tuple[dict[str, Facts], list[str]]:
    """By recording, what NAME.json beside it says, where there is one; and those that are no JSON object."""
    sidecars = {uri: str(uri.rpartition(".")[0]) + ".json" for uri in recordings}
    found = {uri: sidecar for uri, sidecar in sidecars.items() if sidecar in listed and sidecar != uri}
    facts: dict[str, Facts] = {}
    broken: list[str] = []
    for uri, data in zip(found, storage.read_many(list(found.values())), strict=True):
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict):
            facts[uri] = _facts({str(name).strip().lower(): value for name, value in document.items()})
        else:
            broken.append(found[uri])
    return facts, broken
