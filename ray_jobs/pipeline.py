"""The stages as one Ray Data stream: from a source of partitions to committed transcripts and insights."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from ray_jobs import handoff
from ray_jobs.actors import Analyse, LoadCommitted, Redact, Transcribe
from ray_jobs.board import start_board
from ray_jobs.errors import FatalError
from ray_jobs.ledger import Ledger
from ray_jobs.records import StageEvent, StartUp
from ray_jobs.sources import Source
from ray_jobs.spec import ActorSpec, RunSpec
from spark_etl.plan import Plan

MAX_ACTOR_RESTARTS = 20
"""An actor that dies is started again this often; the board bounds what one partition may cost."""

PARTITIONS_PER_ACTOR = 2
"""The next partition waits at its actor, not in a queue; it is given out when every actor has one."""

MAX_LOAD_DEATHS = 2
"""Actors that may die one after the other while loading before the run is given up."""

JOIN_S = 120.0


class Pipeline:
    """One run's stages over the partitions of its plan. Use on a connected Ray; `run` blocks until all is committed.

    `stages` are those to run here, in the order of spec.STAGES; without asr there is nothing to do but to analyse what
    is committed, and no source.
    """

    def __init__(
        self, spec: RunSpec, plan: Plan, ledger: Ledger, run_id: str, stages: Sequence[str], source: Source | None
    ) -> None:
        self._spec = spec
        self._plan = plan
        self._ledger = ledger
        self._run_id = run_id
        self._source = source
        self._analyses = "analyse" in stages
        self.board: Any = start_board(plan.partitions, spec.max_ahead(source.wave_size if source else 1))

    def run(self) -> None:
        """Raises FatalError with the first cause where a stage gives up."""
        _configure_ray_data()
        with self._produced():
            try:
                for _ in self.dataset().iter_internal_ref_bundles():
                    pass  # the stages commit; that references are taken pulls the stream, what they name is not fetched
            except Exception as error:
                raise FatalError(_cause(error)) from error

    def events(self, start: int) -> list[StageEvent]:
        """What the stages have done so far, from event `start` on."""
        events: list[StageEvent] = ray.get(self.board.events.remote(start))
        return events

    def warnings(self, start: int) -> list[str]:
        """What went wrong and was mended, one line each, from warning `start` on."""
        warnings: list[str] = ray.get(self.board.warnings.remote(start))
        return warnings

    def startups(self) -> list[StartUp]:
        """When Spark and the first actor of each stage started, as far as they are up."""
        startups: list[StartUp] = ray.get(self.board.startups.remote())
        return startups

    def waiting_for(self) -> str:
        """What is still starting up; empty once every stage is there."""
        up = {startup.phase for startup in self.startups()}
        needed = [self._source.phase, "asr", "redact"] if self._source and self._plan.partitions else []
        needed += ["analyse"] if self._analyses else []
        missing = [phase for phase in needed if phase not in up]
        return f"starting {', '.join(missing)}" if missing else ""

    def dataset(self) -> Dataset:
        """The whole flow, in the order the data takes."""
        spec, board, run_id = self._spec, self.board, self._run_id
        streams = []
        if self._plan.partitions:
            tickets = handoff.read_tickets(board, self._plan.partitions, spec.asr.actors.max_actors)
            transcripts = _stage(tickets, Transcribe, spec.asr.actors, spec, board, concurrent_calls=2)
            streams.append(_stage(transcripts, Redact, spec.redact.actors, spec, board, run_id))
        markers = list(self._plan.analyse_only)
        if markers:
            stored = ray.data.from_arrow([handoff.ticket(marker.partition_id) for marker in markers])
            loader = ActorSpec(num_cpus=0)
            streams.append(_stage(stored, LoadCommitted, loader, self._ledger.output_uri, markers))
        outcomes = streams[0].union(*streams[1:]) if len(streams) > 1 else streams[0]
        if self._analyses:
            outcomes = _stage(outcomes, Analyse, spec.llm.actors, spec, board, run_id, markers, concurrent_calls=2)
        return outcomes

    @contextlib.contextmanager
    def _produced(self) -> Iterator[None]:
        """The source at work while the stream runs; stopped whatever happens to the stream."""
        if self._source is None or not self._plan.partitions:
            yield
            return
        producer = handoff.Producer(self.board, self._plan.partitions, self._source)
        producer.start()
        try:
            yield
            producer.join(JOIN_S)  # it releases what was committed last
        finally:
            ray.get(self.board.fail.remote("the run has ended"))
            producer.join(JOIN_S)


def _stage(stream: Dataset, stage: type, actors: ActorSpec, *arguments: Any, concurrent_calls: int = 1) -> Dataset:
    """A pool of long-lived actors, each given one whole partition per call."""
    pool = ActorPoolStrategy(
        min_size=actors.min_actors,
        max_size=actors.max_actors,
        max_tasks_in_flight_per_actor=PARTITIONS_PER_ACTOR,
        max_concurrent_calls_per_actor=concurrent_calls,
        enable_true_multi_threading=concurrent_calls > 1,
    )
    return stream.map_batches(
        stage,
        fn_constructor_args=arguments,
        batch_size=None,
        batch_format="pyarrow",
        compute=pool,
        num_cpus=actors.num_cpus,
        num_gpus=actors.num_gpus,
        max_restarts=MAX_ACTOR_RESTARTS,
    )


def _configure_ray_data() -> None:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_consecutive_actor_init_deaths = MAX_LOAD_DEATHS
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _cause(error: BaseException) -> str:
    """One line naming the innermost cause of a failure that crossed actors."""
    innermost = error
    while isinstance(inner := getattr(innermost, "cause", None), BaseException):
        innermost = inner
    lines = [line for line in str(innermost).strip().splitlines() if line.strip()] or ["no message"]
    # a task's error is a traceback, which says what happened last; Ray's own errors say it first, and then give advice
    line = lines[-1 if isinstance(innermost, ray.exceptions.RayTaskError) else 0]
    return f"{type(innermost).__name__}: {line}"
