"""The long-lived actors of the pipeline: each loads its engine once and takes one partition per call.

They are glue: fetch the partition, run the stage, commit, report what was done to the board. A table that travels
between them is one partition's outcomes (records.OUTCOME_SCHEMA) with its id in a column.
"""

import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import ray

from ray_jobs import handoff, records, storage
from ray_jobs.board import Attempt
from ray_jobs.errors import CallError
from ray_jobs.ledger import CallState, Ledger, Marker, Partition
from ray_jobs.metrics import EngineMetrics, MeteredLlm, count_insights
from ray_jobs.records import CallAudio, Failure, Insight, Outcome, StageEvent, StartUp, Transcript, failed
from ray_jobs.sinks import Sink, read_parquet
from ray_jobs.spec import RedactSpec, RunSpec
from spark_etl.job import etl_event

if TYPE_CHECKING:
    from ray_jobs.engines.pii import Redactor

T = TypeVar("T")

LOAD_NICENESS = 10

_PARTITION_ID = pa.field("partition_id", pa.string())


class Transcribe:
    """Tickets in, outcomes out: ASR over one partition of speech.

    Two calls at once: one partition is fetched, packed and written up while the engine decodes the other's windows.
    """

    def __init__(self, spec: RunSpec, board: Any) -> None:
        from ray_jobs.engines.load_asr import load_asr

        began_unix_s = time.time()
        self._spec = spec
        self._board = board
        self._engine = load_asr(spec.asr, num_threads=_num_threads(spec.asr.actors.num_cpus))
        self._gate = Gate()
        self._metrics = EngineMetrics("asr", self._engine.model_name)
        _report_start(board, "asr", began_unix_s)

    def __call__(self, ticket: pa.Table) -> pa.Table:
        partition_id = ticket["partition_id"][0].as_py()
        with self._gate.enter(alone=ray.get(self._board.must_be_alone.remote(partition_id))):
            return self._take(partition_id)

    def _take(self, partition_id: str) -> pa.Table:
        attempt = ray.get(self._board.begin.remote(partition_id))
        prepared = handoff.fetch(self._board, partition_id)
        if prepared is None:  # the task was run again after its partition's commit
            return _committed(self._spec, partition_id)
        began = time.time()
        rows = records.table_to_audio(prepared.select(records.AUDIO_SCHEMA.names))
        self._board.record.remote(etl_event(prepared))
        outcomes = self._transcribe(rows, partition_id, attempt)
        self._metrics.publish(self._engine.stats())
        _record(self._board, partition_id, "asr", began, outcomes)
        return _tag(records.outcomes_to_table(outcomes), partition_id)

    def _transcribe(self, rows: Sequence[CallAudio | Failure], partition_id: str, attempt: Attempt) -> list[Outcome]:
        from ray_jobs.stages.transcribe import originals, transcribe, with_duplicates

        if not attempt.call_by_call:
            return transcribe(rows, self._engine, self._spec.asr, self._spec.channels)
        outcomes: list[Outcome] = []
        for row in originals(rows):
            if row.call_id in attempt.deadly_calls:
                reason = "the ASR engine's process died on this call; see the worker's log, then --retry-failed"
                outcomes.append(failed(row, code="asr_crashed", stage="asr", reason=reason))
                continue
            ray.get(self._board.suspect.remote(partition_id, row.call_id))
            outcomes.extend(transcribe([row], self._engine, self._spec.asr, self._spec.channels))
            ray.get(self._board.clear.remote(partition_id))
        return with_duplicates(rows, outcomes)


class Gate:
    """Lets several in at once, or one that has to be alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_inside = 0
        self._is_closed = False

    @contextmanager
    def enter(self, *, alone: bool) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_closed and not (alone and self._num_inside))
            self._num_inside += 1
            self._is_closed = alone
        try:
            yield
        finally:
            with self._changed:
                self._num_inside -= 1
                self._is_closed = False
                self._changed.notify_all()


class Redact:
    """Outcomes in, redacted and committed outcomes out."""

    def __init__(self, spec: RunSpec, board: Any, run_id: str) -> None:
        from ray_jobs.engines.load_llm import load_reader

        began_unix_s = time.time()
        self._spec = spec
        self._board = board
        self._redactor = _giving_way(lambda: _redactor(spec.redact))
        self._reader = MeteredLlm(load_reader(spec.redact.llm), spec.llm, "redact") if spec.redact.llm else None
        self._sink = Sink(spec, run_id)
        _report_start(board, "redact", began_unix_s)

    def __call__(self, table: pa.Table) -> pa.Table:
        from ray_jobs.stages.redact import redact

        partition_id, outcomes = _untag(table)
        if ray.get(self._board.is_committed.remote(partition_id)):  # run again; what came in is not redacted
            return _committed(self._spec, partition_id)
        began = time.time()
        outcomes = redact(outcomes, self._redactor, self._reader)
        partition = ray.get(self._board.partition.remote(partition_id))
        if self._spec.redact.muted_audio:
            self._write_muted(partition, outcomes)
        self._sink.commit_transcripts(partition, outcomes)
        ray.get(self._board.commit.remote(partition_id))
        _record(self._board, partition_id, "redact", began, outcomes)
        return _tag(records.outcomes_to_table(outcomes), partition_id)

    def _write_muted(self, partition: Partition, outcomes: Sequence[Outcome]) -> None:
        """Before the marker, so that a committed call has its audio; a recording gone meanwhile costs only that."""
        from spark_etl.muted import write_muted

        with tempfile.TemporaryDirectory(prefix="callmill-muted-") as folder:
            path = Path(folder, "muted.wav")
            for call, outcome in zip(partition.calls, outcomes, strict=True):
                if not isinstance(outcome, Transcript):
                    continue
                try:
                    write_muted(call, outcome.redactions, self._spec.etl, path)
                    self._sink.write_muted(call.call_id, path)
                except CallError as error:
                    self._sink.write_muted(call.call_id, None)
                    ray.get(self._board.warn.remote(f"{call.call_id}: no muted audio, {error.reason}"))


class LoadCommitted:
    """Tickets of committed partitions in, their stored outcomes out: for runs that only analyse."""

    def __init__(self, output_uri: str, markers: Sequence[Marker]) -> None:
        self._output_uri = output_uri
        self._markers = {marker.partition_id: marker for marker in markers}

    def __call__(self, ticket: pa.Table) -> pa.Table:
        marker = self._markers[ticket["partition_id"][0].as_py()]
        return _tag(records.outcomes_to_table(stored_outcomes(self._output_uri, marker)), marker.partition_id)


class Analyse:
    """Committed outcomes in, committed insights out. Two calls at once, or the engine drains at a partition's edge."""

    def __init__(self, spec: RunSpec, board: Any, run_id: str, markers: Sequence[Marker]) -> None:
        from ray_jobs.engines.load_llm import load_judges, load_llm

        began_unix_s = time.time()
        self._spec = spec
        self._board = board
        self._states = {marker.partition_id: marker.calls for marker in markers}
        self._engine = MeteredLlm(load_llm(spec.llm), spec.llm)
        self._judges = {name: MeteredLlm(engine, spec.llm) for name, engine in load_judges(spec.llm).items()}
        self._sink = Sink(spec, run_id)
        _report_start(board, "analyse", began_unix_s)

    def __call__(self, table: pa.Table) -> pa.Table:
        from ray_jobs.stages.analyse import analyse

        partition_id, outcomes = _untag(table)
        began = time.time()
        transcripts = [outcome for outcome in outcomes if isinstance(outcome, Transcript)]
        insights = analyse(
            transcripts,
            self._engine,
            self._spec.llm,
            judges=self._judges,
            allow_unredacted=not self._spec.redact.removes_secrets,
        )
        self._sink.commit_insights(partition_id, transcripts, insights, self._states_of(partition_id))
        count_insights(insights, self._spec.llm)
        _record(self._board, partition_id, "analyse", began, transcripts, _failed_calls(insights))
        return table

    def _states_of(self, partition_id: str) -> dict[str, CallState]:
        if partition_id in self._states:
            return {state.call_id: state for state in self._states[partition_id]}
        calls = ray.get(self._board.partition.remote(partition_id)).calls
        return {c.call_id: CallState(call_id=c.call_id, uri=c.uri, version=c.version, code="ok") for c in calls}


def stored_outcomes(output_uri: str, marker: Marker) -> list[Outcome]:
    """The committed transcripts and failures a marker of transcripts names."""
    outcomes: list[Outcome] = []
    for name in marker.files:
        table = read_parquet(storage.join(output_uri, name))
        is_failures = name.startswith("failures/")
        outcomes.extend(records.table_to_failures(table) if is_failures else records.table_to_transcripts(table))
    return outcomes


def _committed(spec: RunSpec, partition_id: str) -> pa.Table:
    """What an actor passes on for a partition of this run that is committed already: the outcomes as stored."""
    ledger = Ledger(storage.normalise(spec.output.uri))
    marker = ledger.load_marker("transcripts", spec.fingerprints()["redact"], partition_id)
    return _tag(records.outcomes_to_table(stored_outcomes(ledger.output_uri, marker)), partition_id)


def _num_threads(num_cpus: float) -> int:
    """An actor's share of the machine in threads: its CPU slots, or all cores where it asks for none."""
    return max(1, round(num_cpus)) if num_cpus else (os.cpu_count() or 1)


def _redactor(spec: RedactSpec) -> "Redactor":
    from ray_jobs.engines.pii import Redactor

    style = "mask" if spec.mode == "store_unredacted" else spec.mode
    key = os.environ[spec.hash_key_env].encode() if spec.hash_key_env else b""
    return Redactor(spec, style=style, key=key, patterns=spec.patterns)


def _giving_way(load: Callable[[], T]) -> T:
    """What `load` returns, from a thread of low priority.

    The first partition needs Spark and the ASR engine; where cores are few, what is needed after it would only keep
    them up. On Linux a thread has a nice value of its own, and its end is the one way back from it.
    """
    with ThreadPoolExecutor(1, initializer=os.nice, initargs=(LOAD_NICENESS,)) as thread:
        return thread.submit(load).result()


def _tag(table: pa.Table, partition_id: str) -> pa.Table:
    return table.append_column(_PARTITION_ID, pa.array([partition_id] * table.num_rows, pa.string()))


def _untag(table: pa.Table) -> tuple[str, list[Outcome]]:
    return table["partition_id"][0].as_py(), records.table_to_outcomes(table.drop_columns(["partition_id"]))


def _worker() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _report_start(board: Any, stage: str, began_unix_s: float) -> None:
    board.started.remote(StartUp(phase=stage, start_unix_s=began_unix_s, end_unix_s=time.time()))


def _record(
    board: Any,
    partition_id: str,
    stage: str,
    began_unix_s: float,
    outcomes: Sequence[Outcome],
    num_failed: int | None = None,
) -> None:
    """Tell the board what a stage did; the failures counted are the stage's own."""
    if num_failed is None:
        num_failed = sum(isinstance(outcome, Failure) and outcome.stage == stage for outcome in outcomes)
    event = StageEvent(
        partition_id=partition_id,
        stage=stage,
        start_unix_s=began_unix_s,
        end_unix_s=time.time(),
        num_failed=num_failed,
        worker=_worker(),
        **_sums(outcomes),
    )
    ray.get(board.record.remote(event))


def _sums(rows: Sequence[Outcome]) -> dict[str, Any]:
    heard = [row for row in rows if not isinstance(row, Failure) and row.duplicate_of is None]
    return {
        "num_calls": len(rows),
        "audio_s": sum(row.duration_s for row in heard),
        "speech_s": sum(row.speech_s for row in heard),
    }


def _failed_calls(insights: Sequence[Insight]) -> int:
    return len({insight.call_id for insight in insights if not insight.answered})
