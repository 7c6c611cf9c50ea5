"""Where results become durable: a partition's data files first, then the one marker that names them.

    transcripts/P-RUN.parquet   TRANSCRIPT_SCHEMA        insights/P-RUN.parquet   INSIGHT_SCHEMA
    failures/P-RUN.parquet      FAILURE_SCHEMA           calls/CALL_ID.{json,vtt,srt,txt}
    muted/CALL_ID.wav          where the spec asks for it

P is the partition's id and RUN the run's, so two runs on one output never write the same file; the marker is made by
exclusive create, so only one of them commits. Text that was not redacted goes under unredacted/.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ray_jobs import callfiles, records, storage
from ray_jobs.ledger import OK, CallState, Ledger, Marker, Partition, new_marker
from ray_jobs.records import Failure, Insight, Outcome, Transcript
from ray_jobs.spec import RunSpec

TASK_FAILED = "task_failed"
"""The code of a call some of whose analyses failed, in a marker of insights."""

UNREDACTED = "unredacted"

_CALL_FILE_EXTENSIONS = ("json", "vtt", "srt", "txt")


class Sink:
    """Commits partitions of one run to one output."""

    def __init__(self, spec: RunSpec, run_id: str) -> None:
        self._output = storage.normalise(spec.output.uri)
        self._ledger = Ledger(self._output)
        self._fingerprints = spec.fingerprints()
        self._run_id = run_id
        self._prefix = "" if spec.redact.removes_secrets else UNREDACTED + "/"
        self._call_files = spec.output.call_files
        self._analyses = spec.analyses

    def commit_transcripts(self, partition: Partition, outcomes: Sequence[Outcome]) -> Marker:
        """Make one partition's outcomes durable. Returns the marker that stands, which may be another run's.

        Raises ValueError where the outcomes are not one per planned call, in order.
        """
        if [o.call_id for o in outcomes] != [call.call_id for call in partition.calls]:
            raise ValueError(f"{partition.partition_id}: outcomes do not match the planned calls")
        transcripts = [o for o in outcomes if isinstance(o, Transcript)]
        failures = [o for o in outcomes if isinstance(o, Failure)]
        files = []
        if transcripts:
            files.append(
                self._write(
                    self._prefix + "transcripts", partition.partition_id, records.transcripts_to_table(transcripts)
                )
            )
        if failures:
            files.append(self._write("failures", partition.partition_id, records.failures_to_table(failures)))
        if self._call_files and not self._analyses:
            self._write_call_files(transcripts, ())
        self._remove_call_files(failures)
        codes = {o.call_id: o.code if isinstance(o, Failure) else OK for o in outcomes}
        states = [
            CallState(call_id=c.call_id, uri=c.uri, version=c.version, code=codes[c.call_id]) for c in partition.calls
        ]
        return self._commit("transcripts", partition.partition_id, self._fingerprints["redact"], files, states)

    def commit_insights(
        self,
        partition_id: str,
        transcripts: Sequence[Transcript],
        insights: Sequence[Insight],
        states: Mapping[str, CallState],
    ) -> Marker:
        """Make one partition's analyses durable; `states` are those of the partition's committed calls."""
        files = []
        if insights:
            files.append(self._write(self._prefix + "insights", partition_id, records.insights_to_table(insights)))
        if self._call_files:
            self._write_call_files(transcripts, insights)
        failed = {insight.call_id for insight in insights if insight.status != OK}
        analysed = [
            CallState(
                call_id=t.call_id,
                uri=states[t.call_id].uri,
                version=states[t.call_id].version,
                code=TASK_FAILED if t.call_id in failed else OK,
            )
            for t in transcripts
        ]
        return self._commit("insights", partition_id, self._fingerprints["analyse"], files, analysed)

    def write_muted(self, call_id: str, path: Path | None) -> None:
        """Put a call's muted recording before its transcript is committed; None removes an earlier version's."""
        uri = storage.join(self._output, f"muted/{call_id}.wav")
        if path is None:
            storage.delete(uri)
        else:
            storage.write_file(uri, path)

    def _write(self, folder: str, partition_id: str, table: pa.Table) -> str:
        name = f"{folder}/{partition_id}-{self._run_id}.parquet"
        storage.write_bytes(storage.join(self._output, name), parquet_bytes(table))
        return name

    def _commit(
        self, kind: str, partition_id: str, fingerprint: str, files: Sequence[str], states: Sequence[CallState]
    ) -> Marker:
        marker = new_marker(kind, partition_id, fingerprint, self._run_id, files, states)
        standing = self._ledger.commit(marker)
        if standing.run_id != self._run_id:  # another run was first: its files stand, ours go
            for name in files:
                storage.delete(storage.join(self._output, name))
        return standing

    def _write_call_files(self, transcripts: Sequence[Transcript], insights: Sequence[Insight]) -> None:
        for transcript in transcripts:
            own = [insight for insight in insights if insight.call_id == transcript.call_id]
            for extension, data in callfiles.render(transcript, own).items():
                storage.write_bytes(self._call_file(transcript.call_id, extension), data)

    def _remove_call_files(self, failures: Sequence[Failure]) -> None:
        """A call that fails now may have files from an earlier version of its recording."""
        for failure in failures:
            self.write_muted(failure.call_id, None)
            for extension in _CALL_FILE_EXTENSIONS:
                storage.delete(self._call_file(failure.call_id, extension))

    def _call_file(self, call_id: str, extension: str) -> str:
        return storage.join(self._output, f"{self._prefix}calls/{call_id}.{extension}")


def parquet_bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_parquet(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    return pq.read_table(io.BytesIO(storage.read_bytes(uri)), columns=list(columns) if columns else None)
