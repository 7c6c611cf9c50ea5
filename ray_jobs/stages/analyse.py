"""Asks a language model every task about every redacted transcript, and judges about the answers.

Every task of every call of a partition is one prompt of one batch (asking.py), and so is every judgement of a judge.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import jsonschema

from ray_jobs.engines.llm import LlmEngine
from ray_jobs.errors import FatalError, SpecError
from ray_jobs.prompts import PromptFile
from ray_jobs.records import Insight, Transcript
from ray_jobs.spec import JudgeSpec, LlmSpec, PromptUse, TaskSpec
from ray_jobs.stages.asking import Answer, Fitted, Question, ask, dumps, fit, inert, one_line, room

_SCORE = {"type": "integer", "minimum": 1, "maximum": 5}


def analyse(
    transcripts: Sequence[Transcript],
    engine: LlmEngine,
    llm: LlmSpec,
    *,
    judges: Mapping[str, LlmEngine] | None = None,
    allow_unredacted: bool = False,
) -> list[Insight]:
    """One Insight per transcript and task, then per judge, in that order; `judges` are the engines of their own.

    An answer that is not JSON of the task's schema, or that repeats the prompt's instructions, is asked for once more,
    then becomes a failed Insight; one with a text cut off at its maxLength a truncated one. What the engine refuses for
    one call while it answers for others fails too. Where it answers for no call, its exception goes on. Calls of one
    recording are asked about once: a duplicate's Insights are its original's, at no tokens of its own. Raises
    FatalError for a transcript that was not redacted, unless `allow_unredacted`, and SpecError where the context is too
    small for a task.
    """
    if not allow_unredacted:
        _refuse_unredacted(transcripts)
    asked: dict[str, Transcript] = {}
    for transcript in transcripts:
        asked.setdefault(transcript.duplicate_of or transcript.call_id, transcript)
    texts = {transcript.call_id: dialogue(transcript) for transcript in asked.values()}
    fitted = fit(texts, engine, min(_room(engine, task) for task in llm.tasks))
    answers = _answers(fitted, engine, llm.tasks)
    by_use = {task.name: _insights(task, engine, answers[task.name]) for task in llm.tasks}
    for judge in llm.judges:
        own = (judges or {}).get(judge.name)
        read = texts if own else {call_id: one.text for call_id, one in fitted.items()}
        by_use[judge.name] = _judgements(judge, own or engine, read, answers[judge.task])
    numbers = {recording: number for number, recording in enumerate(asked)}
    return [
        _of(transcript, insights[numbers[transcript.duplicate_of or transcript.call_id]])
        for transcript in transcripts
        for insights in by_use.values()
    ]


def _of(transcript: Transcript, insight: Insight) -> Insight:
    """What was said of a call, for that call or another of the same recording."""
    if transcript.call_id == insight.call_id:
        return replace(insight, metadata=transcript.metadata)
    return replace(
        insight,
        call_id=transcript.call_id,
        metadata=transcript.metadata,
        prompt_tokens=0,
        completion_tokens=0,
        num_broken=0,
    )


def check_tasks(llm: LlmSpec) -> None:
    """Raise SpecError, one line, for a task or a judge whose prompt is missing or wrong, or does not go with it."""
    for task in llm.tasks:
        file = task.file
        _check_kind(task, file, "task")
        if file.wants_labels and not task.labels:
            raise SpecError(
                f"llm.tasks: {task.name} has no labels, and prompt {task.prompt} chooses among them; set labels"
            )
        if task.labels and not file.wants_labels:
            raise SpecError(f"llm.tasks: {task.name} has labels, and prompt {task.prompt} does not use {{{{labels}}}}")
        _check_schema(file, task.labels)
    for judge in llm.judges:
        file = judge.file
        _check_kind(judge, file, "judge")
        _check_schema(file)
        if not _is_score(file.schema.get("properties", {}).get("score")) or not {"score", "reason"} <= set(
            file.schema.get("required", ())
        ):
            raise SpecError(
                f"prompt {judge.prompt}: a judge's schema requires a reason and a score "
                "{type: integer, minimum: 1, maximum: 5}"
            )


def _is_score(schema: object) -> bool:
    return isinstance(schema, dict) and schema.items() >= _SCORE.items()


def dialogue(transcript: Transcript) -> str:
    """What a model reads of a call: "" where nobody spoke."""
    if not any(utterance.text.strip() for utterance in transcript.utterances):
        return ""
    return inert(transcript.dialogue())


def _check_kind(use: PromptUse, file: PromptFile, kind: str) -> None:
    if file.kind != kind:
        raise SpecError(f"llm.{kind}s: {use.name} is a {kind}, and prompt {use.prompt} is of kind {file.kind}")


def _check_schema(file: PromptFile, labels: Sequence[str] = ()) -> None:
    try:
        jsonschema.Draft202012Validator.check_schema(file.render(labels=labels).schema)
    except jsonschema.SchemaError as error:
        raise SpecError(f"prompt {file.version}: schema is not a JSON schema: {one_line(error.message)}") from None


def _refuse_unredacted(transcripts: Iterable[Transcript]) -> None:
    for transcript in transcripts:
        if not transcript.redacted:
            raise FatalError(
                f"call {transcript.call_id} was not redacted, so no model may read it; "
                "set redact.mode: store_unredacted if it may"
            )


# -------------------------------------------------------------------------------------------------------------- tasks


def _room(engine: LlmEngine, task: TaskSpec) -> int:
    return room(engine, task.prompt, task.file.render(labels=task.labels), task.budget)


def _answers(
    fitted: Mapping[str, Fitted], engine: LlmEngine, tasks: Sequence[TaskSpec]
) -> dict[str, dict[str, Answer]]:
    """Per task and call its answer. The questions about a call follow each other, for the prefix cache."""
    files = {task.name: task.file for task in tasks}
    questions = {
        (call_id, task.name): Question(
            call_id=call_id,
            rendered=files[task.name].render(transcript=one.text, labels=task.labels),
            max_tokens=task.budget,
        )
        for call_id, one in fitted.items()
        if not one.error
        for task in tasks
    }
    answers = ask(questions, engine)
    per_task = {task.name: {i: _given(answers.get((i, task.name)), one) for i, one in fitted.items()} for task in tasks}
    first = per_task[tasks[0].name]
    per_task[tasks[0].name] = {i: replace(first[i], spent=first[i].spent + one.spent) for i, one in fitted.items()}
    return per_task


def _given(answer: Answer | None, read: Fitted) -> Answer:
    """An answer and what is to be said of the text it was given on; the error where nothing could be asked."""
    return Answer(error=read.error) if answer is None else replace(answer, cut=answer.cut or read.cut)


def _insights(use: PromptUse, engine: LlmEngine, answers: Mapping[str, Answer]) -> list[Insight]:
    file = use.file
    return [
        Insight(
            call_id=call_id,
            task=use.name,
            status="failed" if answer.error else "truncated" if answer.cut else "ok",
            value_json="" if answer.error else dumps(answer.value),
            error=answer.error or answer.cut,
            model=engine.model_name,
            prompt_version=file.version,
            prompt_hash=file.content_hash,
            prompt_tokens=answer.spent.prompt_tokens,
            completion_tokens=answer.spent.completion_tokens,
            num_broken=answer.spent.num_broken,
        )
        for call_id, answer in answers.items()
    ]


# ------------------------------------------------------------------------------------------------------------- judges


def _judgements(
    judge: JudgeSpec, engine: LlmEngine, texts: Mapping[str, str], answers: Mapping[str, Answer]
) -> list[Insight]:
    """One Insight per answer: the judge's, or that there was nothing to judge."""
    file = judge.file
    judged = {call_id: inert(dumps(answer.value)) for call_id, answer in answers.items() if not answer.error}
    longest = max(judged.values(), key=engine.count_tokens, default="")
    around = file.render(answer=longest, rubric=judge.rubric)
    fitted = fit(
        {call_id: texts[call_id] for call_id in judged}, engine, room(engine, judge.prompt, around, judge.budget)
    )
    judgements = ask(
        {
            (call_id, judge.name): Question(
                call_id=call_id,
                rendered=file.render(transcript=one.text, answer=judged[call_id], rubric=judge.rubric),
                max_tokens=judge.budget,
            )
            for call_id, one in fitted.items()
            if not one.error
        },
        engine,
    )
    nothing = Fitted(error=f"task {judge.task} has no answer to judge")
    found = {}
    for call_id in answers:
        one = fitted.get(call_id, nothing)
        judgement = _given(judgements.get((call_id, judge.name)), one)
        found[call_id] = replace(judgement, spent=judgement.spent + one.spent)
    return _insights(judge, engine, found)
