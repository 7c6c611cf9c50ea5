"""Two ways of asking one question, side by side over past calls: other prompts, or other models.

What is asked about are the redacted transcripts that an output has committed. The result is a page for a person,
comparison.html, and the same as comparison.json.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2

from ray_jobs import prompts, records, storage
from ray_jobs.engines.llm import LlmEngine
from ray_jobs.engines.load_llm import load_judges, load_llm
from ray_jobs.errors import SpecError
from ray_jobs.ledger import OK, Ledger, Marker
from ray_jobs.records import SCHEMA_VERSION, Insight, Transcript
from ray_jobs.sinks import read_parquet
from ray_jobs.spec import LlmSpec
from ray_jobs.stages.analyse import analyse, check_tasks, dialogue
from ray_jobs.stages.prefer import Preference, prefer

PREFERENCE = "preference/v1"
"""The prompt by which a judge prefers one of two answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One way of asking: the only task of `llm`, by its model, and perhaps one judge of its answers."""

    label: str
    llm: LlmSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Referee:
    """Who prefers one of two answers, and by what."""

    llm: LlmSpec
    rubric: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one side said of one call; `score` and `reason` are its judge's."""

    answer: Insight
    score: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both sides' replies on one call, of which the model read `transcript`."""

    call_id: str
    transcript: str
    a: Reply
    b: Reply
    preference: Preference | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """One side over all calls; `mean_chars` is the length of an answer's JSON, `cost_usd` None without a price."""

    label: str
    model: str
    prompt: str
    num_ok: int
    num_truncated: int
    num_failed: int
    num_broken: int
    mean_chars: float
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    mean_score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`num_agreed` calls got the same answer from both sides, of `num_both_answered` that both answered.

    `changes` counts the pairs of differing answers where they are labels; `verdicts` counts preferences.
    """

    task: str
    a: Totals
    b: Totals
    num_both_answered: int
    num_agreed: int
    changes: Mapping[str, int]
    verdicts: Mapping[str, int]
    pairs: tuple[Pair, ...]


def sample(output_uri: str, num_calls: int) -> list[Transcript]:
    """Committed transcripts of an output: the same calls each time, spread over it by a hash of their ids.

    Raises SpecError where there are none, or none is asked for.
    """
    if num_calls < 1:
        raise SpecError(f"--calls {num_calls}: at least 1 call is to be asked about")
    ledger = Ledger(storage.normalise(output_uri))
    newest: dict[str, Marker] = {}
    for marker in ledger.load_markers("transcripts"):
        for state in marker.calls:
            newest[state.call_id] = marker
            if state.code != OK:
                del newest[state.call_id]
    if not newest:
        raise SpecError(f"{ledger.output_uri}: holds no transcripts; a run's output is asked for")
    chosen = sorted(newest, key=lambda call_id: hashlib.sha256(call_id.encode()).digest())[:num_calls]
    markers = {newest[call_id].partition_id: newest[call_id] for call_id in chosen}
    found = {
        transcript.call_id: transcript
        for marker in markers.values()
        for name in marker.files
        if not name.startswith("failures/")
        for transcript in records.table_to_transcripts(read_parquet(storage.join(ledger.output_uri, name)))
    }
    return [found[call_id] for call_id in sorted(chosen)]


def compare(transcripts: Sequence[Transcript], a: Side, b: Side, referee: Referee | None = None) -> Comparison:
    """Ask both sides about every transcript, and the referee about every pair of answers.

    Raises SpecError where a side's task cannot be asked, and what engines raise.
    """
    check_tasks(a.llm)
    check_tasks(b.llm)
    with _engines() as load:
        replies = [_replies(transcripts, side, load(side.llm)) for side in (a, b)]
        preferences = _preferences(transcripts, replies, referee, load) if referee else {}
    pairs = tuple(
        Pair(
            call_id=t.call_id,
            transcript=dialogue(t),
            a=replies[0][t.call_id],
            b=replies[1][t.call_id],
            preference=preferences.get(t.call_id),
        )
        for t in transcripts
    )
    both = [(pair.a.answer.value_json, pair.b.answer.value_json) for pair in pairs if _both_answered(pair)]
    are_labels = bool(a.llm.tasks[0].labels)
    return Comparison(
        task=a.llm.tasks[0].name,
        a=_totals(a, replies[0]),
        b=_totals(b, replies[1]),
        num_both_answered=len(both),
        num_agreed=sum(x == y for x, y in both),
        changes=dict(Counter(f"{x} -> {y}" for x, y in both if x != y)) if are_labels else {},
        verdicts=dict(Counter(p.verdict for p in preferences.values() if not p.error)),
        pairs=pairs,
    )


def write(comparison: Comparison, folder: Path) -> Path:
    """Write comparison.html and comparison.json; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"schema_version": SCHEMA_VERSION, **asdict(comparison)}
    (folder / "comparison.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    page = folder / "comparison.html"
    page.write_text(render_html(comparison), encoding="utf-8")
    return page


def render_html(comparison: Comparison) -> str:
    """One file that needs no network: the totals, then the calls, transcript beside both answers."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(Path(__file__).with_name("compare.html.j2").read_text(encoding="utf-8"))
    return template.render(comparison=comparison, sides=(comparison.a, comparison.b))


def describe(comparison: Comparison) -> str:
    """The totals in a few lines."""
    rows: list[tuple[str, ...]] = [("", comparison.a.label, comparison.b.label)]
    for name in (
        "num_ok",
        "num_truncated",
        "num_failed",
        "num_broken",
        "mean_chars",
        "prompt_tokens",
        "completion_tokens",
    ):
        rows.append((name, f"{getattr(comparison.a, name):,.10g}", f"{getattr(comparison.b, name):,.10g}"))
    for name in ("cost_usd", "mean_score"):
        values = [getattr(side, name) for side in (comparison.a, comparison.b)]
        if any(value is not None for value in values):
            rows.append((name, *("-" if value is None else f"{value:.4g}" for value in values)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append(f"same answer on {comparison.num_agreed} of {comparison.num_both_answered} calls that both answered")
    lines += [f"  {number} x {change}" for change, number in sorted(comparison.changes.items(), key=lambda c: -c[1])]
    if comparison.verdicts:
        lines.append(
            "preferred: " + ", ".join(f"{side} {comparison.verdicts.get(side, 0)}" for side in ("a", "b", "tie"))
        )
    return "\n".join(lines)


@contextmanager
def _engines() -> Iterator[Any]:
    """A function that loads an engine, or hands out the last one where it is the same; a local one is stopped before
    the next takes its memory."""
    with ExitStack() as loaded:
        current: dict[str, LlmEngine] = {}

        def load(llm: LlmSpec) -> LlmEngine:
            key = llm.model_dump_json(exclude={"tasks", "judges", "prices"})
            if key not in current:
                loaded.close()
                current.clear()
                current[key] = load_llm(llm)
                loaded.callback(getattr(current[key], "close", lambda: None))
            return current[key]

        yield load


def _replies(transcripts: Sequence[Transcript], side: Side, engine: LlmEngine) -> dict[str, Reply]:
    insights: dict[str, dict[str, Insight]] = defaultdict(dict)
    for insight in analyse(transcripts, engine, side.llm, judges=load_judges(side.llm)):
        insights[insight.call_id][insight.task] = insight
    return {call_id: _reply(side, by_task) for call_id, by_task in insights.items()}


def _reply(side: Side, by_task: Mapping[str, Insight]) -> Reply:
    answer = by_task[side.llm.tasks[0].name]
    judged = [by_task[judge.name] for judge in side.llm.judges]
    if not judged or not judged[0].answered:
        return Reply(answer=answer, score=None, reason=judged[0].error if judged else "")
    judgement = json.loads(judged[0].value_json)
    return Reply(answer=answer, score=judgement["score"], reason=judgement["reason"])


def _preferences(
    transcripts: Sequence[Transcript], replies: Sequence[Mapping[str, Reply]], referee: Referee, load: Any
) -> dict[str, Preference]:
    texts = {transcript.call_id: dialogue(transcript) for transcript in transcripts}
    answers = {i: [side[i].answer for side in replies] for i in texts}
    pairs = {call_id: (a.value_json, b.value_json) for call_id, (a, b) in answers.items() if a.answered and b.answered}
    return prefer(texts, pairs, load(referee.llm), prompts.load(PREFERENCE), referee.rubric)


def _both_answered(pair: Pair) -> bool:
    return pair.a.answer.answered and pair.b.answer.answered


def _totals(side: Side, replies: Mapping[str, Reply]) -> Totals:
    answers = [reply.answer for reply in replies.values()]
    answered = [answer for answer in answers if answer.answered]
    num_truncated = sum(answer.status == "truncated" for answer in answered)
    scores = [reply.score for reply in replies.values() if reply.score is not None]
    prompt_tokens, completion_tokens = (
        sum(answer.prompt_tokens for answer in answers),
        sum(answer.completion_tokens for answer in answers),
    )
    price = side.llm.prices.get(side.llm.model)
    return Totals(
        label=side.label,
        model=side.llm.model,
        prompt=side.llm.tasks[0].prompt,
        num_ok=len(answered) - num_truncated,
        num_truncated=num_truncated,
        num_failed=len(answers) - len(answered),
        num_broken=sum(answer.num_broken for answer in answers),
        mean_chars=round(sum(len(answer.value_json) for answer in answered) / len(answered), 1) if answered else 0.0,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cost_usd=price.cost_usd(prompt_tokens, completion_tokens) if price else None,
        mean_score=sum(scores) / len(scores) if scores else None,
    )
