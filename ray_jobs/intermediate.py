"""The audio between `ray_jobs.preprocess` and `ray_jobs.transcribe`: one Parquet file per prepared partition.

    OUTPUT/_callmill/partitions/P-RUN.parquet             one row per call, speech included; or below intermediate.uri
    OUTPUT/_callmill/markers/partitions/FINGERPRINT/P.json   made after it: partition P is prepared

FINGERPRINT is that of the stage redact, as for the plan and the transcripts. What callers said lies here as it was
said, so files are their owner's alone (mode 0600; on S3 under the KMS key of the spec) and do not stay: a partition's
audio goes when its transcripts are committed, and whatever is older than its lifetime goes with the next job.
"""

import time
from collections.abc import Iterable, Mapping

import pyarrow as pa

from ray_jobs import storage
from ray_jobs.ledger import FOLDER, OK, CallState, Ledger, Marker, Partition, new_marker
from ray_jobs.sinks import parquet_bytes
from ray_jobs.spec import RunSpec

KIND = "partitions"
_DAY_S = 86_400.0


class Intermediate:
    """The prepared partitions of one output and spec. Small and picklable: Spark's workers get one each."""

    def __init__(self, spec: RunSpec) -> None:
        output_uri = storage.normalise(spec.output.uri)
        given = spec.intermediate.uri
        self.uri = storage.normalise(given) if given else storage.join(output_uri, FOLDER, KIND)
        self._ledger = Ledger(output_uri)
        self._fingerprint = spec.fingerprints()["redact"]
        self._lifetime_s = spec.intermediate.lifetime_days * _DAY_S
        self._kms_key_id = spec.intermediate.kms_key_id

    def put(self, partition: Partition, table: pa.Table, codes: Mapping[str, str], run_id: str) -> None:
        """Store a prepared partition, then its marker; `codes` are the failures' codes by call id.

        Of two runs that prepare one partition the first stands, and the other's file goes.
        """
        name = f"{partition.partition_id}-{run_id}.parquet"
        storage.write_private(storage.join(self.uri, name), parquet_bytes(table), kms_key_id=self._kms_key_id)
        states = [
            CallState(call_id=c.call_id, uri=c.uri, version=c.version, code=codes.get(c.call_id, OK))
            for c in partition.calls
        ]
        marker = new_marker(KIND, partition.partition_id, self._fingerprint, run_id, [name], states)
        if self._ledger.commit(marker).run_id != run_id:
            storage.delete(storage.join(self.uri, name))

    def prepared(self) -> dict[str, str]:
        """Partition id to the location of its audio, of those that are prepared and within their lifetime."""
        markers = self._ledger.load_markers(KIND)  # before the files: each is there before its marker
        there = {info.uri for info in storage.list_objects(self.uri)}
        return {
            marker.partition_id: self._location(marker)
            for marker in markers
            if marker.fingerprint == self._fingerprint
            and self._location(marker) in there
            and not self._is_old(marker.committed_unix_s)
        }

    def discard(self, partition_ids: Iterable[str]) -> None:
        """Remove committed partitions' audio; no error where there is none."""
        for partition_id in partition_ids:
            try:
                marker = self._ledger.load_marker(KIND, self._fingerprint, partition_id)
            except FileNotFoundError:
                continue
            self._remove(marker)

    def sweep(self) -> None:
        """Remove the audio of committed partitions, whatever is older than its lifetime, and markers without audio."""
        markers = self._ledger.load_markers(KIND)
        files = list(storage.list_objects(self.uri))
        there = {info.uri for info in files}
        for marker in markers:
            gone = self._location(marker) not in there
            if gone or self._is_old(marker.committed_unix_s) or self._is_committed(marker):
                self._remove(marker)
        named = {self._location(marker) for marker in markers}
        for info in files:  # of runs that were killed before the marker
            if info.uri not in named and self._is_old(info.modified_unix_s):
                storage.delete(info.uri)

    def _location(self, marker: Marker) -> str:
        return storage.join(self.uri, marker.files[0])

    def _remove(self, marker: Marker) -> None:
        self._ledger.remove(marker)  # first: what no marker names is not read
        storage.delete(self._location(marker))

    def _is_old(self, unix_s: float) -> bool:
        return time.time() - unix_s > self._lifetime_s

    def _is_committed(self, marker: Marker) -> bool:
        return storage.exists(self._ledger.marker_uri("transcripts", marker.fingerprint, marker.partition_id))
