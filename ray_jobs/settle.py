"""Leaves one row per call in the data files: what a reader of transcripts/*.parquet sees is what the markers say.

A retried call, a new version of a recording or another model puts a call into a new partition; its row in the older
one is stale. The newest marker that names a call holds its outcome. `settle` rewrites or removes what is stale and
removes data files that were never committed. It is safe to kill at any point, and safe beside another run of the same
spec: a file is removed only when its partition is committed or no longer planned. (A run of another spec on the same
output at the same moment could lose a file it is about to commit; its report would then name the missing calls.)
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from ray_jobs import storage
from ray_jobs.ledger import Ledger, Marker
from ray_jobs.sinks import UNREDACTED, parquet_bytes, read_parquet

DATA_FOLDERS = tuple(
    prefix + folder for prefix in ("", UNREDACTED + "/") for folder in ("transcripts", "failures", "insights")
)


def newest_partitions(markers: Iterable[Marker]) -> dict[str, Marker]:
    """Call id to the marker that holds its outcome; `markers` are oldest first."""
    return {state.call_id: marker for marker in markers for state in marker.calls}


def settle(ledger: Ledger, fingerprint: str) -> None:
    """Remove stale rows, stale markers, finished plans, and files that no marker names.

    `fingerprint` is the current one of the stage redact: plans under it may have open partitions.
    """
    transcripts = ledger.load_markers("transcripts")
    insights = ledger.load_markers("insights")
    newest = newest_partitions(transcripts)
    holders = {(call_id, marker.partition_id, marker.fingerprint) for call_id, marker in newest.items()}
    for marker in transcripts:
        live = {s.call_id for s in marker.calls if (s.call_id, marker.partition_id, marker.fingerprint) in holders}
        _keep_only(ledger, marker, live)
    latest = {marker.partition_id: marker for marker in insights}
    for marker in insights:
        current = latest[marker.partition_id] is marker
        live = {s.call_id for s in marker.calls if current and newest[s.call_id].partition_id == marker.partition_id}
        _keep_only(ledger, marker, live)
    _remove_orphans(ledger, fingerprint)


def _keep_only(ledger: Ledger, marker: Marker, live: set[str]) -> None:
    """Reduce a committed partition to its live calls: new files, then the marker; the old files become orphans."""
    if len(live) == len(marker.calls):
        return
    if not live:
        ledger.remove(marker)
        return
    files = []
    for name in marker.files:
        table = read_parquet(storage.join(ledger.output_uri, name))
        kept = table.filter(pc.is_in(table["call_id"], value_set=pa.array(sorted(live))))
        if kept.num_rows:
            new_name = name.removesuffix(".parquet") + f"-{len(live)}.parquet"
            storage.write_bytes(storage.join(ledger.output_uri, new_name), parquet_bytes(kept))
            files.append(new_name)
    ledger.replace(replace(marker, files=tuple(files), calls=tuple(s for s in marker.calls if s.call_id in live)))


def _remove_orphans(ledger: Ledger, fingerprint: str) -> None:
    """Data files that no marker names, unless their partition is planned and not committed.

    The files are listed before the plans and markers are read, so one that appears meanwhile is left alone.
    """
    files = [
        info.uri for folder in DATA_FOLDERS for info in storage.list_objects(storage.join(ledger.output_uri, folder))
    ]
    plans = ledger.load_plans(fingerprint)
    markers = ledger.load_markers("transcripts")
    committed = {marker.partition_id for marker in markers}
    still_open = {p.partition_id for partitions in plans.values() for p in partitions} - committed
    named = {
        storage.join(ledger.output_uri, name) for m in (*markers, *ledger.load_markers("insights")) for name in m.files
    }
    for uri in files:
        if uri not in named and _partition_of(uri) not in still_open:
            storage.delete(uri)
    for plan_uri, partitions in plans.items():
        if not still_open.intersection(p.partition_id for p in partitions):
            storage.delete(plan_uri)


def _partition_of(uri: str) -> str:
    """`p-HASH` of .../p-HASH-RUN.parquet."""
    return "-".join(PurePosixPath(uri).name.split("-")[:2])
