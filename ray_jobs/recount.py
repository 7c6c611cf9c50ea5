"""Reads back what is committed: the report believes the files, not the run's memory of what it wrote."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ray_jobs import records, storage
from ray_jobs.errors import OutputError
from ray_jobs.ledger import Ledger
from ray_jobs.records import Failure, Insight
from ray_jobs.report import TranscriptSummary
from ray_jobs.sinks import read_parquet

_COLUMNS = ("call_id", "duration_s", "speech_s", "language", "utterances", "redactions", "redacted", "duplicate_of")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recount:
    """The rows found in committed files for the calls asked about; a call stored twice is there twice."""

    transcripts: tuple[TranscriptSummary, ...]
    failures: tuple[Failure, ...]
    insights: tuple[Insight, ...]


def recount(ledger: Ledger, call_ids: Collection[str], fingerprints: Mapping[str, str]) -> Recount:
    """Read the files of every committed partition that holds one of `call_ids` under these fingerprints.

    Rows of other calls that the partition's marker names are passed over; a row that no marker accounts for is kept.
    Raises OutputError where a marker names a file that is gone.
    """
    transcripts: list[TranscriptSummary] = []
    failures: list[Failure] = []
    insights: list[Insight] = []
    for name, others in _files(ledger, "transcripts", fingerprints["redact"], call_ids):
        if name.startswith("failures/"):
            failures.extend(records.table_to_failures(_without(_read(ledger, name), others)))
        else:
            transcripts.extend(_summaries(_without(_read(ledger, name, _COLUMNS), others)))
    for name, others in _files(ledger, "insights", fingerprints["analyse"], call_ids):
        insights.extend(records.table_to_insights(_without(_read(ledger, name), others)))
    return Recount(transcripts=tuple(transcripts), failures=tuple(failures), insights=tuple(insights))


def _files(ledger: Ledger, kind: str, fingerprint: str, call_ids: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """Each data file that holds some of `call_ids`, with the ids of its partition's other calls."""
    for marker in ledger.load_markers(kind):
        committed = {state.call_id for state in marker.calls}
        if marker.fingerprint == fingerprint and not committed.isdisjoint(call_ids):
            yield from ((name, sorted(committed.difference(call_ids))) for name in marker.files)


def _read(ledger: Ledger, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    try:
        return read_parquet(storage.join(ledger.output_uri, name), columns)
    except FileNotFoundError:
        raise OutputError(
            f"{name} is committed and gone from {ledger.output_uri}: restore it, or delete the output"
        ) from None


def _without(table: pa.Table, call_ids: Sequence[str]) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table["call_id"], value_set=pa.array(call_ids, pa.string()))))


def _summaries(table: pa.Table) -> list[TranscriptSummary]:
    counts = pc.list_value_length(table["utterances"]).to_pylist()
    rows = table.drop_columns(["utterances"]).to_pylist()
    return [
        TranscriptSummary(
            **{**row, "redactions": Counter(r["entity"] for r in row["redactions"]), "num_utterances": num_utterances}
        )
        for row, num_utterances in zip(rows, counts, strict=True)
    ]
