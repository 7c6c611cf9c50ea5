"""What became of a run: the accounting of calls, the rates, and a page a person can read.

`build_report` compares the call ids in the committed files with the persisted plan and works out the rates;
`render_json` and `render_html` write the result as report.json and report.html.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import jinja2
import yaml

from ray_jobs.records import SCHEMA_VERSION, Failure, Insight, StageEvent, StartUp, Transcript
from ray_jobs.spec import STAGES, PriceSpec

MAX_ROWS = 1000
"""Most rows of a table in the HTML page; the Parquet files hold them all."""

MAX_TIMELINE_ROWS = 240
"""Most partitions in the HTML page's timeline."""


# ------------------------------------------------------------------------------------------------------------ inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptSummary:
    """What the report needs of one committed transcript. `redactions` counts by entity."""

    call_id: str
    duration_s: float
    speech_s: float
    language: str
    num_utterances: int
    redacted: bool
    redactions: Mapping[str, int]
    duplicate_of: str | None = None

    @classmethod
    def of(cls, transcript: Transcript) -> Self:
        return cls(
            call_id=transcript.call_id,
            duration_s=transcript.duration_s,
            speech_s=transcript.speech_s,
            language=transcript.language,
            num_utterances=len(transcript.utterances),
            redacted=transcript.redacted,
            redactions=Counter(redaction.entity for redaction in transcript.redactions),
            duplicate_of=transcript.duplicate_of,
        )

    @property
    def num_redactions(self) -> int:
        return sum(self.redactions.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What is known when a run has ended.

    `planned` are the call ids of the persisted plan; `transcripts`, `failures` and `insights` are read back from the
    committed files, one entry per row found there (a call stored twice comes twice). `num_skipped` planned calls were
    done before this run; `events`, `startups` and `warnings` are this run's own. `peak_memory_bytes` is of all the
    run's processes together, None where it was not measured; `call_files` says whether the folder calls/ was written.
    `planned_skew` is what the plan expected `Report.skew` to be; `left_out` counts the calls found and not selected, by
    the key of the spec that left them out. `judges` maps each judge to the task it scores, `prices` a model to what its
    tokens cost.
    """

    run_id: str
    started_unix_s: float
    ended_unix_s: float
    spec: Mapping[str, Any]
    fingerprints: Mapping[str, str]
    versions: Mapping[str, str]
    planned: frozenset[str]
    transcripts: Sequence[TranscriptSummary]
    failures: Sequence[Failure]
    insights: Sequence[Insight]
    num_skipped: int
    events: Sequence[StageEvent]
    startups: Sequence[StartUp]
    peak_memory_bytes: int | None
    call_files: bool
    warnings: Sequence[str] = ()
    planned_skew: float = 1.0
    left_out: Mapping[str, int] = field(default_factory=dict)
    judges: Mapping[str, str] = field(default_factory=dict)
    prices: Mapping[str, PriceSpec] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------------------ report


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Calls processed in some time. `real_time_factor` is seconds of audio per second of work: above 1 is faster."""

    num_calls: int
    num_failed: int
    audio_s: float
    speech_s: float
    work_s: float

    @property
    def real_time_factor(self) -> float:
        return self.audio_s / self.work_s if self.work_s > 0 else 0.0

    @property
    def calls_per_min(self) -> float:
        return 60 * self.num_calls / self.work_s if self.work_s > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageWork:
    """One stage in this run; `work.work_s` adds up its workers' busy seconds."""

    stage: str
    num_partitions: int
    num_workers: int
    work: Work


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutcomes:
    """How often one analysis task was answered, and what that took.

    `num_truncated` answers hold a text that was cut off; `num_broken` broke their schema and were asked for again or
    given up. `cost_usd` is None where a model has
    no price. A judge has the task it `judges` and its mean score, 1 to 5, where there is one.
    """

    task: str
    num_ok: int
    num_truncated: int
    num_failed: int
    num_broken: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    judges: str | None
    mean_score: float | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """The facts of a run and what follows from them.

    `num_ok` and `num_failed` count planned calls with a committed transcript or failure. `missing` are planned calls
    with neither, `unexpected` outcomes of calls that were not planned, `duplicated` calls with more than one outcome.
    `overall.work_s` is the run's wall time and its audio that of the partitions this run worked on.
    """

    facts: RunFacts
    num_ok: int
    num_failed: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    duplicated: tuple[str, ...]
    overall: Work
    stages: tuple[StageWork, ...]
    tasks: tuple[TaskOutcomes, ...]

    @property
    def num_calls(self) -> int:
        return len(self.facts.planned)

    @property
    def accounted(self) -> bool:
        """Whether every planned call has exactly one outcome, and nothing else has one."""
        return not (self.missing or self.unexpected or self.duplicated)

    @property
    def num_duplicate_recordings(self) -> int:
        """Calls that have another call's recording, byte for byte, and its outcome."""
        rows: list[TranscriptSummary | Failure] = [*self.facts.transcripts, *self.facts.failures]
        return sum(row.duplicate_of is not None for row in rows)

    @property
    def skew(self) -> float:
        """The most speech in one of this run's partitions over their mean; 1.0 is perfect balance."""
        loads = [max(event.speech_s for event in events) for events in self.events_by_partition.values()]
        return max(loads) * len(loads) / sum(loads) if sum(loads) else 1.0

    @cached_property
    def failures_by_code(self) -> dict[str, int]:
        return _most_common_first(Counter(failure.code for failure in self.facts.failures))

    @cached_property
    def redactions_by_entity(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for transcript in self.facts.transcripts:
            total.update(transcript.redactions)
        return _most_common_first(total)

    @cached_property
    def events_by_partition(self) -> dict[str, list[StageEvent]]:
        """Partitions in the order they were begun, each with its events in order of start."""
        partitions: dict[str, list[StageEvent]] = defaultdict(list)
        for event in sorted(self.facts.events, key=lambda e: (e.start_unix_s, e.partition_id)):
            partitions[event.partition_id].append(event)
        return dict(partitions)


def build_report(facts: RunFacts) -> Report:
    """The accounting and the rates of a run."""
    ok = Counter(transcript.call_id for transcript in facts.transcripts)
    failed = Counter(failure.call_id for failure in facts.failures)
    outcomes = ok + failed
    return Report(
        facts=facts,
        num_ok=len(facts.planned & ok.keys()),
        num_failed=len(facts.planned & failed.keys()),
        missing=tuple(sorted(facts.planned - outcomes.keys())),
        unexpected=tuple(sorted(outcomes.keys() - facts.planned)),
        duplicated=tuple(sorted(call_id for call_id, number in outcomes.items() if number > 1)),
        overall=_overall(facts),
        stages=tuple(
            _stage_work(stage, facts.events) for stage in STAGES if any(e.stage == stage for e in facts.events)
        ),
        tasks=_task_outcomes(facts),
    )


def _overall(facts: RunFacts) -> Work:
    # A partition passes several stages, and a stage may see it again in pieces after a crash: its fullest event counts.
    fullest: dict[str, StageEvent] = {}
    for event in facts.events:
        known = fullest.get(event.partition_id)
        if known is None or event.audio_s > known.audio_s:
            fullest[event.partition_id] = event
    return _work(list(fullest.values()), work_s=facts.ended_unix_s - facts.started_unix_s)


def _stage_work(stage: str, events: Sequence[StageEvent]) -> StageWork:
    own = [event for event in events if event.stage == stage]
    return StageWork(
        stage=stage,
        num_partitions=len({event.partition_id for event in own}),
        num_workers=len({event.worker for event in own}),
        work=_work(own, work_s=sum(event.end_unix_s - event.start_unix_s for event in own)),
    )


def _work(events: Sequence[StageEvent], *, work_s: float) -> Work:
    return Work(
        num_calls=sum(event.num_calls for event in events),
        num_failed=sum(event.num_failed for event in events),
        audio_s=sum(event.audio_s for event in events),
        speech_s=sum(event.speech_s for event in events),
        work_s=work_s,
    )


def _task_outcomes(facts: RunFacts) -> tuple[TaskOutcomes, ...]:
    by_task: dict[str, list[Insight]] = defaultdict(list)
    for insight in facts.insights:
        by_task[insight.task].append(insight)
    return tuple(_outcomes(task, insights, facts) for task, insights in by_task.items())


def _outcomes(task: str, insights: Sequence[Insight], facts: RunFacts) -> TaskOutcomes:
    answered = [insight for insight in insights if insight.answered]
    num_truncated = sum(insight.status == "truncated" for insight in answered)
    scores = [json.loads(insight.value_json)["score"] for insight in answered] if task in facts.judges else []
    return TaskOutcomes(
        task=task,
        num_ok=len(answered) - num_truncated,
        num_truncated=num_truncated,
        num_failed=len(insights) - len(answered),
        num_broken=sum(insight.num_broken for insight in insights),
        prompt_tokens=sum(insight.prompt_tokens for insight in insights),
        completion_tokens=sum(insight.completion_tokens for insight in insights),
        cost_usd=_cost_usd(insights, facts.prices),
        judges=facts.judges.get(task),
        mean_score=sum(scores) / len(scores) if scores else None,
    )


def _cost_usd(insights: Sequence[Insight], prices: Mapping[str, PriceSpec]) -> float | None:
    """What the answers cost, those included that were broken; None where a model has no price."""
    if any(insight.model not in prices for insight in insights):
        return None
    return sum(prices[i.model].cost_usd(i.prompt_tokens, i.completion_tokens) for i in insights)


def _most_common_first(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


# -------------------------------------------------------------------------------------------------------------- JSON


def render_json(report: Report) -> bytes:
    """report.json: everything but the rows per call, which are in the Parquet files. Times of stages are seconds
    since the run's start."""
    facts = report.facts
    document = {
        "schema_version": SCHEMA_VERSION,
        "run_id": facts.run_id,
        "started_unix_s": facts.started_unix_s,
        "ended_unix_s": facts.ended_unix_s,
        "num_calls": report.num_calls,
        "num_ok": report.num_ok,
        "num_failed": report.num_failed,
        "num_skipped": facts.num_skipped,
        "num_duplicate_recordings": report.num_duplicate_recordings,
        "left_out": dict(facts.left_out),
        "accounted": report.accounted,
        "missing": report.missing,
        "unexpected": report.unexpected,
        "duplicated": report.duplicated,
        "failures": report.failures_by_code,
        "insights": {t.task: _task_document(t) for t in report.tasks},
        "redactions": report.redactions_by_entity,
        "rates": {
            **_rates(report.overall, "wall_s"),
            "stages": {
                s.stage: {
                    "num_partitions": s.num_partitions,
                    "num_workers": s.num_workers,
                    "num_calls": s.work.num_calls,
                    **_rates(s.work, "busy_s"),
                }
                for s in report.stages
            },
        },
        "startup_s": {startup.phase: round(startup.duration_s, 3) for startup in facts.startups},
        "peak_memory_bytes": facts.peak_memory_bytes,
        "skew": {"planned": round(facts.planned_skew, 3), "measured": round(report.skew, 3)},
        "partitions": [
            {"partition_id": partition_id, "stages": [_stage_times(event, facts.started_unix_s) for event in events]}
            for partition_id, events in report.events_by_partition.items()
        ],
        "warnings": list(facts.warnings),
        "versions": dict(facts.versions),
        "fingerprints": dict(facts.fingerprints),
        "spec": facts.spec,
    }
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "replace")


def _task_document(task: TaskOutcomes) -> dict[str, Any]:
    document = {
        "num_ok": task.num_ok,
        "num_truncated": task.num_truncated,
        "num_failed": task.num_failed,
        "num_broken": task.num_broken,
        "prompt_tokens": task.prompt_tokens,
        "completion_tokens": task.completion_tokens,
        "cost_usd": task.cost_usd if task.cost_usd is None else round(task.cost_usd, 6),
    }
    if task.judges is None:
        return document
    return {
        **document,
        "judges": task.judges,
        "mean_score": task.mean_score if task.mean_score is None else round(task.mean_score, 3),
    }


def _rates(work: Work, time_name: str) -> dict[str, float]:
    return {
        "audio_s": round(work.audio_s, 3),
        "speech_s": round(work.speech_s, 3),
        time_name: round(work.work_s, 3),
        "real_time_factor": round(work.real_time_factor, 3),
        "calls_per_min": round(work.calls_per_min, 3),
    }


def _stage_times(event: StageEvent, origin_unix_s: float) -> dict[str, Any]:
    return {
        "stage": event.stage,
        "start_s": round(event.start_unix_s - origin_unix_s, 3),
        "end_s": round(event.end_unix_s - origin_unix_s, 3),
        "num_calls": event.num_calls,
        "num_failed": event.num_failed,
        "audio_s": round(event.audio_s, 3),
        "worker": event.worker,
    }


# -------------------------------------------------------------------------------------------------------------- HTML


@dataclass(frozen=True, slots=True, kw_only=True)
class _CallRow:
    """One line of the table of calls; `insights` are in the order of the report's tasks."""

    call_id: str
    outcome: str
    transcript: TranscriptSummary | None
    insights: tuple[Insight | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bar:
    """A stretch of the timeline, in the picture's units."""

    kind: str
    x: float
    width: float
    tooltip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _TimelineRow:
    label: str
    y: float
    bars: tuple[_Bar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timeline:
    """The partitions' stages over time; `ticks` are pairs of x and label."""

    width: float
    height: float
    left: float
    bar_height: float
    rows: tuple[_TimelineRow, ...]
    ticks: tuple[tuple[float, str], ...]


def render_html(report: Report) -> bytes:
    """report.html: one file that needs no network; it links to calls/ beside it where call files are on."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "duration": _duration,
        "count": _count,
        "factor": _factor,
        "percent": _percent,
        "answer": _answer,
    }
    template = environment.from_string(Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8"))
    facts = report.facts
    page = template.render(
        report=report,
        facts=facts,
        started=datetime.fromtimestamp(facts.started_unix_s, UTC),
        startup_s=min((e.start_unix_s for e in facts.events), default=facts.started_unix_s) - facts.started_unix_s,
        busy_s=sum(stage.work.work_s for stage in report.stages),
        num_unredacted=sum(not transcript.redacted for transcript in facts.transcripts),
        timeline=_timeline(report),
        max_timeline_rows=MAX_TIMELINE_ROWS,
        calls=_call_rows(report),
        max_rows=MAX_ROWS,
        spec_yaml=yaml.safe_dump(json.loads(json.dumps(facts.spec)), sort_keys=False, allow_unicode=True),
    )
    return page.encode("utf-8", "replace")


def _call_rows(report: Report) -> list[_CallRow]:
    """The first MAX_ROWS calls by id: planned ones, and unexpected ones that were found in the files."""
    facts = report.facts
    shown = sorted(facts.planned.union(report.unexpected))[:MAX_ROWS]
    transcripts = {transcript.call_id: transcript for transcript in facts.transcripts}
    # Later entries win: what is wrong with a call's accounting says more than its outcome.
    outcomes = (
        dict.fromkeys(report.missing, "missing")
        | dict.fromkeys(transcripts, "ok")
        | {failure.call_id: failure.code for failure in facts.failures}
        | dict.fromkeys(report.unexpected, "unexpected")
        | dict.fromkeys(report.duplicated, "duplicated")
    )
    insights = {(insight.call_id, insight.task): insight for insight in facts.insights}
    return [
        _CallRow(
            call_id=call_id,
            outcome=outcomes[call_id],
            transcript=transcripts.get(call_id),
            insights=tuple(insights.get((call_id, task.task)) for task in report.tasks),
        )
        for call_id in shown
    ]


def _answer(insight: Insight) -> str:
    """An answer as a person reads it: the value alone where the document has only one."""
    value = json.loads(insight.value_json)
    if isinstance(value, dict) and len(value) == 1:
        [value] = value.values()
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _timeline(report: Report) -> _Timeline:
    """A Gantt chart: one row per engine that started, then one per partition in the order they were begun."""
    facts, left, width = report.facts, 118.0, 1120.0
    partitions = list(report.events_by_partition.items())[:MAX_TIMELINE_ROWS]
    # A few rows are easy to read, many still fit on a screen or two.
    pitch = min(26.0, max(5.0, 640.0 / (len(partitions) + len(facts.startups) + 1)))
    span_s = max(facts.ended_unix_s - facts.started_unix_s, 1e-3)
    scale = (width - left - 12) / span_s

    def bar(kind: str, start_s: float, end_s: float, tooltip: str) -> _Bar:
        width = max((end_s - start_s) * scale - 1, 2.0)
        return _Bar(kind=kind, x=left + start_s * scale, width=width, tooltip=tooltip)

    def since_start(unix_s: float) -> float:
        return max(unix_s - facts.started_unix_s, 0.0)

    rows = []
    for startup in facts.startups:
        tooltip = f"start-up of {startup.phase}: {_duration(startup.duration_s)}"
        begin, end = since_start(startup.start_unix_s), since_start(startup.end_unix_s)
        rows.append((f"start {startup.phase}", [bar("startup", begin, end, tooltip)]))
    for partition_id, events in partitions:
        spans = [(e, since_start(e.start_unix_s), since_start(e.end_unix_s)) for e in events]
        rows.append((partition_id, [bar(e.stage, begin, end, _tooltip(e, facts)) for e, begin, end in spans]))
    step_s = _tick_step_s(span_s)
    return _Timeline(
        width=width,
        height=len(rows) * pitch + 30,
        left=left,
        bar_height=pitch * 0.72,
        rows=tuple(_TimelineRow(label=label, y=i * pitch, bars=tuple(bars)) for i, (label, bars) in enumerate(rows)),
        ticks=tuple((left + i * step_s * scale, _duration(i * step_s)) for i in range(int(span_s / step_s) + 1)),
    )


def _tooltip(event: StageEvent, facts: RunFacts) -> str:
    start_s, end_s = event.start_unix_s - facts.started_unix_s, event.end_unix_s - facts.started_unix_s
    failed = f", {event.num_failed} failed" if event.num_failed else ""
    return (
        f"{event.stage} of {event.partition_id}: {_duration(end_s - start_s)} "
        f"({start_s:.1f} s to {end_s:.1f} s)\n"
        f"{event.num_calls} calls{failed}, {_duration(event.audio_s)} of audio\n{event.worker}"
    )


def _tick_step_s(span_s: float) -> float:
    """The shortest round step that cuts the span into ten or fewer."""
    steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 4 * 3600, 6 * 3600]
    return next((step for step in steps if span_s / step <= 10), 86400.0)


# ------------------------------------------------------------------------------------------------------ for a person


def _duration(seconds: float) -> str:
    """Short, and never finer than it matters: 0.4 s, 12 s, 2 min 05 s, 3 h 10 min, 29.3 h."""
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 10:
        return f"{seconds / 3600:,.1f} h"
    if hours:
        return f"{hours} h {minute:02d} min" if minute else f"{hours} h"
    if minutes:
        return f"{minutes} min {second:02d} s" if second else f"{minutes} min"
    return f"{second} s"


def _count(number: int) -> str:
    return f"{number:,}"


def _factor(number: float) -> str:
    """Three digits are enough to compare speeds."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
