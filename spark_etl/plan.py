"""What a run has to do: list the recordings, skip what is done, lay the rest into partitions. Plain Python.

Nothing is decoded to plan: a call's expected speech comes from its size and, where reading it is cheap, its header.
Partitions that an earlier run planned and did not finish are taken up as they are, so their ids stay the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ray_jobs.ledger import OK, CallState, Ledger, Marker, Partition
from ray_jobs.records import FAILURE_CODES, Call
from ray_jobs.spec import RunSpec
from spark_etl.calls import find_calls
from spark_etl.listing import is_selected
from spark_etl.partition import lay_out
from spark_etl.selection import select_calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The work of one run.

    `calls` is everything the run answers for: the selected recordings, and planned ones that have vanished since;
    `left_out` counts the calls that were found and not selected, by the key of the spec that left them out.
    `done` are those among them with an outcome that stands; `partitions` holds the others, `resumed` of them planned
    by an earlier run. `analyse_only` are committed partitions whose transcripts lack the analyses of this spec, or
    are among `insights_to_redo`: committed analyses some of which failed, to be tried again. `notes` are lines for
    whoever starts the run.
    """

    fingerprints: Mapping[str, str]
    calls: tuple[Call, ...]
    done: frozenset[str]
    partitions: tuple[Partition, ...]
    resumed: frozenset[str]
    analyse_only: tuple[Marker, ...]
    insights_to_redo: tuple[Marker, ...]
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

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
        """Whether the call has an outcome that stands: this version, under this fingerprint, not to be retried.

        A transcript also stands when files it was made from have gone: what is left would only make a worse one.
        """
        if call.call_id not in self.newest:
            return False
        marker, state = self.newest[call.call_id]
        if marker.fingerprint != self.fingerprint:
            return False
        if state.code == OK:
            return set(call.version.split()) <= set(state.version.split())
        return state.version == call.version and not (self.retry_failed or FAILURE_CODES[state.code])


def make_plan(spec: RunSpec, ledger: Ledger, *, retry_failed: bool = False) -> Plan:
    """Plan a run; reads the input's listing and the ledger, writes nothing.

    With `retry_failed`, calls that failed for good are planned again too.
    Raises SpecError where the input does not exist, or holds nothing that the spec selects, and where its manifest
    cannot be read or contradicts itself.
    """
    fingerprints = spec.fingerprints()
    past = _load_past(ledger, fingerprints["redact"], retry_failed)
    found = find_calls(spec, past.owners)
    ids = {call.call_id for call in found.calls}

    def is_vanished(call: Call) -> bool:
        below = call.uri.startswith(found.root)
        return call.uri not in found.listed and below and is_selected(call.uri, found.root, spec.input)

    vanished = {
        call.call_id: call
        for partition in past.open_partitions
        for call in partition.calls
        if call.call_id not in ids and is_vanished(call)
    }
    # What was planned is accounted for, gone or not.
    selection = select_calls([*found.calls, *vanished.values()], found.root, found.listed, spec.input)
    calls = {call.call_id: call for call in selection.calls}
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
        notes=found.notes,
        left_out=selection.left_out,
    )


def _is_same(planned: Call, now: Call | None) -> bool:
    """Whether the plan still says what is known of a call. Once it is committed, new metadata alone changes nothing."""
    if now is None:
        return False
    return (planned.uri, planned.version, planned.metadata) == (now.uri, now.version, now.metadata)


def persist(plan: Plan, ledger: Ledger) -> None:
    """Write what the plan adds to the ledger, so that a rerun takes up the same partitions."""
    for marker in plan.insights_to_redo:
        ledger.remove(marker)
    new = [partition for partition in plan.partitions if partition.partition_id not in plan.resumed]
    if new:
        ledger.save_plan(plan.fingerprints["redact"], new)


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
