"""The pipeline as a discrete-event simulation: what a cluster that is not at hand would take.

The partitions are those `spark_etl.partition.lay_out` makes, Spark's waves are those of `ray_jobs.handoff.waves`, the
cap on partitions in flight is the spec's own, actors hold as many partitions as `ray_jobs.pipeline` lets them. What
work takes is drawn from what was measured, value by value, not from a mean. Added is what one machine does not show:
nodes that take minutes to come, that are reclaimed, an object store with a limit, a driver that does one thing at a
time.

One engine serves one partition at a time, first come, first served: of two that Ray hands it, the second waits, as its
front end overlaps the first one's decoding. A reclaimed node's partitions start again on the next free engine.
"""

import math
import random
import statistics
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import simpy

from ray_jobs.handoff import waves
from ray_jobs.ledger import Partition
from ray_jobs.pipeline import PARTITIONS_PER_ACTOR
from ray_jobs.records import Call
from ray_jobs.spec import RunSpec
from spark_etl.partition import SPEECH_SHARE, lay_out

HOUR_S = 3600.0
Process = Generator[Any, Any, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Measured costs.

    `etl`, `asr`, `redact`: seconds of one core or engine per second of calls, one value per partition seen.

    `start_s`: seconds until Spark and each stage's first actor are up, once their nodes are there.
    """

    etl: tuple[float, ...]
    asr: tuple[float, ...]
    redact: tuple[float, ...]
    start_s: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a place adds to measured rates. The defaults are one machine's: nothing.

    node_delay_s        median until a new node's pod runs (lognormal, sigma NODE_SIGMA); 0: the nodes are there
    reclaims_per_h      of one spot node, exponential
    store_bytes_per_s   that the object store gives all readers together
    store_gets_per_s    requests per second that it answers, all together
    bytes_per_call_s    of a recording: 16,000 for two channels of G.711
    driver_s            of the driver's one thread per partition: ticket, dispatch, commit
    """

    node_delay_s: float = 0.0
    reclaims_per_h: float = 0.0
    store_bytes_per_s: float = math.inf
    store_gets_per_s: float = math.inf
    bytes_per_call_s: float = 16_000.0
    driver_s: float = 0.0


NODE_SIGMA = 0.35


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a simulated run came to.

    wall_s          from submission to the last commit
    work_s          from the first partition handed to an ASR engine to the last commit
    asr_busy        share of work_s x engines in which engines worked
    tail_s          from the first moment an engine had nothing left to do to the last commit
    num_redone      partitions begun again after their node was reclaimed
    busy            share of wall_s in which a resource was in use, by name; the fullest breaks first
    """

    wall_s: float
    work_s: float
    asr_busy: float
    tail_s: float
    num_redone: int
    busy: Mapping[str, float]


def partitions_of(durations_s: Sequence[float], spec: RunSpec) -> list[Partition]:
    """The partitions that calls of these lengths would be laid into."""
    calls = [
        Call(
            call_id=f"c{number:08}",
            uri=f"c{number:08}.wav",
            source="",
            size_bytes=round(duration_s * 16_000),
            version="",
            expected_speech_s=duration_s * SPEECH_SHARE,
        )
        for number, duration_s in enumerate(durations_s)
    ]
    return lay_out(calls, spec.etl.partition, spec.asr.actors.max_actors, "", {})


def simulate(partitions: Sequence[Partition], spec: RunSpec, rates: Rates, site: Site, seed: int) -> Outcome:
    """One run of the fused job; the same arguments give the same outcome."""
    return _Run(partitions, spec, rates, site, seed).outcome()


class _Run:
    def __init__(self, partitions: Sequence[Partition], spec: RunSpec, rates: Rates, site: Site, seed: int) -> None:
        self._partitions = partitions
        self._call_s = {p.partition_id: sum(c.expected_speech_s for c in p.calls) / SPEECH_SHARE for p in partitions}
        self._spec, self._rates, self._site = spec, rates, site
        self._chance = random.Random(seed)
        self._env = env = simpy.Environment()
        self._max_ahead = spec.max_uncommitted
        self._num_reserved = self._num_posted = self._num_committed = 0
        self._room = env.event()
        self._cores = simpy.Resource(env, spec.wave_size)
        self._store = simpy.Resource(env, 1)
        self._driver = simpy.Resource(env, 1)
        self._posted = simpy.Store(env)
        self._redactors = simpy.Resource(env, spec.redact.actors.max_actors)
        self._used_s = dict.fromkeys(("etl cores", "object store", "driver", "asr engines", "redactors"), 0.0)
        self._began: float | None = None
        self._idle_from: float | None = None
        self._num_redone = 0
        self._done = env.event()

    def outcome(self) -> Outcome:
        actors = self._spec.asr.actors.max_actors
        self._env.process(self._produce())
        for _ in range(actors):
            self._env.process(self._engine())
        self._env.run(until=self._done)
        wall_s = self._env.now
        work_s = wall_s - (self._began or 0.0)
        sizes = {
            "etl cores": self._spec.wave_size,
            "object store": 1,
            "driver": 1,
            "asr engines": actors,
            "redactors": self._spec.redact.actors.max_actors,
        }
        return Outcome(
            wall_s=wall_s,
            work_s=work_s,
            asr_busy=self._used_s["asr engines"] / (actors * work_s),
            tail_s=wall_s - (wall_s if self._idle_from is None else self._idle_from),
            num_redone=self._num_redone,
            busy={name: used_s / (sizes[name] * wall_s) for name, used_s in self._used_s.items()},
        )

    # ---------------------------------------------------------------------------------------------- Spark's side

    def _produce(self) -> Process:
        yield self._env.timeout(self._node_delay_s() + self._rates.start_s["spark"])
        for wave in waves(self._partitions, self._spec.wave_size):
            while self._num_reserved + len(wave) > self._max_ahead:
                self._room = self._env.event()
                yield self._room
            self._num_reserved += len(wave)
            yield self._env.all_of([self._env.process(self._prepare(partition)) for partition in wave])
            for partition in wave:
                self._num_posted += 1
                self._posted.put(partition.partition_id)

    def _prepare(self, partition: Partition) -> Process:
        """One task of a wave: its recordings from the object store, then a core's work."""
        call_s = self._call_s[partition.partition_id]
        fetch_s = max(
            call_s * self._site.bytes_per_call_s / self._site.store_bytes_per_s,
            len(partition.calls) / self._site.store_gets_per_s,
        )
        with self._cores.request() as core:
            yield core
            if fetch_s:
                yield from self._hold(self._store, "object store", fetch_s)
            service_s = call_s * self._chance.choice(self._rates.etl)
            self._used_s["etl cores"] += service_s
            yield self._env.timeout(service_s)

    # -------------------------------------------------------------------------------------------- the GPUs' side

    def _engine(self) -> Process:
        """One ASR engine, on node after node: it takes partitions in order until none is left."""
        while True:
            yield self._env.timeout(self._node_delay_s() + self._rates.start_s["asr"])
            reclaimed_at = self._env.now + self._lifetime_s()
            while (yield from self._serve(reclaimed_at)):
                pass

    def _serve(self, reclaimed_at: float) -> Generator[Any, Any, bool]:
        """Take what is posted, up to PARTITIONS_PER_ACTOR, and transcribe it; False when the node is gone."""
        if self._num_posted == len(self._partitions) and not self._posted.items and self._idle_from is None:
            self._idle_from = self._env.now
        held = [(yield self._posted.get())]
        while self._posted.items and len(held) < PARTITIONS_PER_ACTOR and self._is_crowded():
            held.append((yield self._posted.get()))
        for position, partition_id in enumerate(held):
            self._began = self._env.now if self._began is None else self._began
            yield from self._hold(self._driver, "driver", self._site.driver_s)
            service_s = self._call_s[partition_id] * self._chance.choice(self._rates.asr)
            left_s = max(0.0, reclaimed_at - self._env.now)
            self._used_s["asr engines"] += min(service_s, left_s)
            if service_s > left_s:
                yield self._env.timeout(left_s)
                self._num_redone += len(held) - position
                for lost in held[position:]:
                    self._posted.put(lost)
                return False
            yield self._env.timeout(service_s)
            self._env.process(self._commit(partition_id))
        return True

    def _is_crowded(self) -> bool:
        """Whether every engine has one already: Ray gives a second partition to an engine only then."""
        return len(self._posted.items) > len(self._posted.get_queue)

    def _commit(self, partition_id: str) -> Process:
        yield from self._hold(
            self._redactors, "redactors", self._call_s[partition_id] * self._chance.choice(self._rates.redact)
        )
        self._num_reserved -= 1
        self._num_committed += 1
        if not self._room.triggered:
            self._room.succeed()
        if self._num_committed == len(self._partitions):
            self._done.succeed()

    # --------------------------------------------------------------------------------------------------- chances

    def _hold(self, resource: simpy.Resource, name: str, service_s: float) -> Process:
        with resource.request() as turn:
            yield turn
            self._used_s[name] += service_s
            yield self._env.timeout(service_s)

    def _node_delay_s(self) -> float:
        median_s = self._site.node_delay_s
        return self._chance.lognormvariate(math.log(median_s), NODE_SIGMA) if median_s else 0.0

    def _lifetime_s(self) -> float:
        per_h = self._site.reclaims_per_h
        return self._chance.expovariate(per_h / HOUR_S) if per_h else math.inf


def measured_rates(report: Mapping[str, Any]) -> Rates:
    """The costs in a fused run's report.json.

    A worker serves one partition after the other: from two that overlap, the second's time counts from the first
    one's end.
    """
    served: dict[str, list[float]] = {}
    for stage in ("etl", "asr", "redact"):
        by_worker: dict[str, list[Mapping[str, Any]]] = {}
        for partition in report["partitions"]:
            for event in partition["stages"]:
                if event["stage"] == stage and event["audio_s"] > 0:
                    by_worker.setdefault(event["worker"], []).append(event)
        served[stage] = [cost for events in by_worker.values() for cost in _costs(events)]
    startup_s = report["startup_s"]
    return Rates(
        etl=tuple(served["etl"]),
        asr=tuple(served["asr"]),
        redact=tuple(served["redact"]),
        start_s={"spark": startup_s["spark"], "asr": startup_s["asr"]},
    )


def _costs(events: Sequence[Mapping[str, Any]]) -> list[float]:
    """Seconds per second of calls, of one worker's partitions."""
    costs = []
    free_from_s = 0.0
    for event in sorted(events, key=lambda event: float(event["end_s"])):
        costs.append((event["end_s"] - max(event["start_s"], free_from_s)) / event["audio_s"])
        free_from_s = event["end_s"]
    return costs


def work_s(report: Mapping[str, Any]) -> float:
    """Of a fused run: from the first partition handed to ASR to the last stage's end, which is the last commit."""
    stages = [stage for partition in report["partitions"] for stage in partition["stages"]]
    first = min(stage["start_s"] for stage in stages if stage["stage"] == "asr")
    return float(max(stage["end_s"] for stage in stages) - first)


def middle(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of the median wall time."""
    median_s = statistics.median_low([outcome.wall_s for outcome in outcomes])
    return next(outcome for outcome in outcomes if outcome.wall_s == median_s)
