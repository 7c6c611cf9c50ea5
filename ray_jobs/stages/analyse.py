"""Asks a language model every task about every redacted transcript.

Every task of every call of a partition is one prompt of one batch; what breaks its schema is asked for once more.

A call that is too long is cut into parts between utterances, each part is turned into notes (prompt condense/v1), and
the notes take the transcript's place; notes that are still too long are condensed again. Nothing is left out silently.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import jsonschema

from ray_jobs import prompts
from ray_jobs.engines.llm import Completion, LlmEngine, Message, Prompt
from ray_jobs.errors import FatalError, PipelineError, SpecError
from ray_jobs.prompts import PromptFile, Rendered
from ray_jobs.records import Insight, Metadata, Transcript
from ray_jobs.spec import LlmSpec, TaskSpec

_MAX_NOTES_TOKENS = 320
_MAX_ROUNDS = 4  # of condensing; each shrinks a text about tenfold at 4,096 tokens of context
_MARGIN_TOKENS = 128  # the chat template around the messages, and the complaint in a second prompt
_MAX_ERROR_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """One prompt about one call: what is asked, checked, and asked again."""

    call_id: str
    rendered: Rendered
    max_tokens: int

    def prompt(self, complaint: str = "") -> Prompt:
        """The first prompt, or the one after a `complaint` about its answer, with room for an answer twice as long."""
        system, user, max_tokens = self.rendered.system, self.rendered.user, self.max_tokens
        if complaint:
            user += f"\n\nYour last answer was not accepted: {complaint}. Answer again, briefly, with valid JSON."
            max_tokens *= 2
        messages = (Message(role="system", content=system), Message(role="user", content=user))
        return Prompt(messages=messages, max_tokens=max_tokens, schema=self.rendered.schema)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What came of a question: a JSON document, or the `error` in its place; the tokens are those of both attempts.

    `broken` tells an answer that does not obey its schema from an engine that gave none.
    """

    value: Any = None
    error: str = ""
    broken: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0


def analyse(
    transcripts: Sequence[Transcript], engine: LlmEngine, llm: LlmSpec, *, allow_unredacted: bool = False
) -> list[Insight]:
    """One Insight per transcript and task, in that order.

    An answer that is not JSON of the task's schema is asked for once more, then becomes a failed Insight; so does what
    the engine refuses for one call while it answers for others. Where it answers for no call, its exception goes on.
    Raises FatalError for a transcript that was not redacted, unless `allow_unredacted`, and SpecError where the
    context is too small for a task.
    """
    if not allow_unredacted:
        _refuse_unredacted(transcripts)
    files = {task.name: prompts.load(task.prompt) for task in llm.tasks}
    room = min(_room(engine, files[task.name], task.max_tokens, task.labels) for task in llm.tasks)
    texts, errors = _fit({t.call_id: _text(t) for t in transcripts}, engine, room)
    asked = [(transcript.call_id, task) for transcript in transcripts for task in llm.tasks]
    metadata = {transcript.call_id: transcript.metadata for transcript in transcripts}
    answers = _ask(
        {
            (call_id, task.name): _Question(
                call_id=call_id,
                rendered=files[task.name].render(transcript=texts[call_id], labels=task.labels),
                max_tokens=task.max_tokens,
            )
            for call_id, task in asked
            if call_id in texts
        },
        engine,
    )
    return [
        _insight(
            call_id,
            task,
            files[task.name],
            engine.model_name,
            answers[call_id, task.name] if call_id in texts else _Answer(error=errors[call_id]),
            metadata[call_id],
        )
        for call_id, task in asked
    ]


def check_tasks(llm: LlmSpec) -> None:
    """Raise SpecError, one line, for a task whose prompt is missing or wrong, or whose labels do not go with it."""
    for task in llm.tasks:
        file = prompts.load(task.prompt)
        if file.wants_labels and not task.labels:
            raise SpecError(
                f"llm.tasks: {task.name} has no labels, and prompt {task.prompt} chooses among them; set labels"
            )
        if task.labels and not file.wants_labels:
            raise SpecError(f"llm.tasks: {task.name} has labels, and prompt {task.prompt} does not use {{{{labels}}}}")
        try:
            jsonschema.Draft202012Validator.check_schema(file.render(transcript="", labels=task.labels).schema)
        except jsonschema.SchemaError as error:
            raise SpecError(f"prompt {task.prompt}: schema is not a JSON schema: {_one_line(error.message)}") from None


def _refuse_unredacted(transcripts: Iterable[Transcript]) -> None:
    for transcript in transcripts:
        if not transcript.redacted:
            raise FatalError(
                f"call {transcript.call_id} was not redacted, so no model may read it; "
                "set redact.mode: store_unredacted if it may"
            )


def _text(transcript: Transcript) -> str:
    """The dialogue without angle brackets, of which chat templates' control tokens are made; "" where nobody spoke."""
    if not any(utterance.text.strip() for utterance in transcript.utterances):
        return ""
    return transcript.dialogue().replace("<", "\u2039").replace(">", "\u203a")


def _insight(
    call_id: str, task: TaskSpec, file: PromptFile, model: str, answer: _Answer, metadata: Metadata
) -> Insight:
    return Insight(
        call_id=call_id,
        task=task.name,
        status="failed" if answer.error else "ok",
        value_json="" if answer.error else _dumps(answer.value),
        error=answer.error,
        model=model,
        prompt_version=file.version,
        prompt_hash=file.content_hash,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        metadata=metadata,
    )


# --------------------------------------------------------------------------------------------------------- long calls


def _room(engine: LlmEngine, file: PromptFile, max_tokens: int, labels: Sequence[str] = ()) -> int:
    """Tokens a transcript may have beside the prompt around it and a second, longer answer."""
    around = file.render(transcript="", labels=labels)
    num_fixed = engine.count_tokens(around.system) + engine.count_tokens(around.user) + 2 * max_tokens + _MARGIN_TOKENS
    if num_fixed >= engine.context_tokens:
        raise SpecError(
            f"llm.context_tokens {engine.context_tokens} leaves no room for a transcript beside prompt {file.version} "
            f"and its answer; set it above {num_fixed}"
        )
    return engine.context_tokens - num_fixed


def _fit(texts: Mapping[str, str], engine: LlmEngine, room: int) -> tuple[dict[str, str], dict[str, str]]:
    """Per call a text of at most `room` tokens, or else why there is none. Longer texts become notes on their parts."""
    errors = {call_id: "empty transcript" for call_id, text in texts.items() if not text}
    fitting = {call_id: text for call_id, text in texts.items() if text}
    for _ in range(_MAX_ROUNDS):
        too_long = {call_id: text for call_id, text in fitting.items() if engine.count_tokens(text) > room}
        if not too_long:
            return fitting, errors
        for call_id, (notes, error) in _condense(too_long, engine).items():
            fitting[call_id] = notes
            if error:
                errors[call_id] = f"the call is longer than the context, and its notes failed: {error}"
                del fitting[call_id]
    for call_id in [call_id for call_id, text in fitting.items() if engine.count_tokens(text) > room]:
        errors[call_id] = (
            f"the call does not fit {room} tokens after {_MAX_ROUNDS} rounds of notes; raise context_tokens"
        )
        del fitting[call_id]
    return fitting, errors


def _condense(texts: Mapping[str, str], engine: LlmEngine) -> dict[str, tuple[str, str]]:
    """Per call its notes, part by part, and the first error."""
    file = prompts.load(prompts.CONDENSE)
    max_tokens = min(_MAX_NOTES_TOKENS, engine.context_tokens // 8)
    room = _room(engine, file, max_tokens)
    questions = {
        (call_id, number): _Question(call_id=call_id, rendered=file.render(transcript=part), max_tokens=max_tokens)
        for call_id, text in texts.items()
        for number, part in enumerate(split_text(text, room, engine.count_tokens), start=1)
    }
    condensed = {}
    for call_id, keys_and_answers in groupby(_ask(questions, engine).items(), key=lambda item: item[0][0]):
        answers = [answer for _, answer in keys_and_answers]
        error = next((answer.error for answer in answers if answer.error), "")
        notes = "" if error else "\n".join(f"part {n}: {a.value['notes']}" for n, a in enumerate(answers, start=1))
        condensed[call_id] = (notes, error)
    return condensed


def split_text(text: str, max_tokens: int, count_tokens: Callable[[str], int]) -> list[str]:
    """Cut `text` into parts of at most `max_tokens`, in the middle of it if it comes to that; joined, they are `text`.

    Halves are cut at the line nearest behind their middle, else before it, else at a blank, else anywhere.
    """
    if len(text) < 2 or count_tokens(text) <= max_tokens:
        return [text]
    middle = len(text) // 2
    cuts = (
        text.find("\n", middle),
        text.rfind("\n", 0, middle),
        text.find(" ", middle),
        text.rfind(" ", 0, middle),
        middle,
    )
    cut = next(cut for cut in cuts if cut > 0)
    return [part for half in (text[:cut], text[cut:]) for part in split_text(half, max_tokens, count_tokens)]


# ------------------------------------------------------------------------------------------------------------- asking

_Key = tuple[str, Any]


def _ask(questions: Mapping[_Key, _Question], engine: LlmEngine) -> dict[_Key, _Answer]:
    """An answer per question: all in one batch, and once more those that broke their schema."""
    firsts = _ask_once(questions, {key: question.prompt() for key, question in questions.items()}, engine)
    broken = {key: first.error for key, first in firsts.items() if first.broken}
    seconds = _ask_once(questions, {key: questions[key].prompt(error) for key, error in broken.items()}, engine)
    return firsts | {key: _sum(firsts[key], second) for key, second in seconds.items()}


def _sum(first: _Answer, second: _Answer) -> _Answer:
    return replace(
        second,
        prompt_tokens=first.prompt_tokens + second.prompt_tokens,
        completion_tokens=first.completion_tokens + second.completion_tokens,
    )


def _ask_once(
    questions: Mapping[_Key, _Question], attempts: Mapping[_Key, Prompt], engine: LlmEngine
) -> dict[_Key, _Answer]:
    completions = _generate([(key[0], prompt) for key, prompt in attempts.items()], engine)
    return {
        key: _answer(completion, questions[key].rendered.schema)
        for key, completion in zip(attempts, completions, strict=True)
    }


def _answer(completion: Completion | Exception, schema: Mapping[str, Any]) -> _Answer:
    if isinstance(completion, Exception):
        return _Answer(error=_one_line(completion))
    value, error = _parse(completion, schema)
    return _Answer(
        value=value,
        error=error,
        broken=bool(error),
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
    )


def _parse(completion: Completion, schema: Mapping[str, Any]) -> tuple[Any, str]:
    """The document and "", or None and what is wrong with it."""
    try:
        value = json.loads(completion.text)
        jsonschema.Draft202012Validator(schema).validate(value)
        _dumps(value).encode()
    except jsonschema.ValidationError as error:
        return None, _one_line(f"it does not obey the schema: {error.message}")
    except (ValueError, RecursionError) as error:
        return None, "it was cut off" if completion.finish_reason == "length" else _one_line(f"it is not JSON: {error}")
    return value, ""


def _dumps(value: Any) -> str:
    """JSON that can be stored: NaN, 1e999 and half a surrogate pair, which Python reads, raise ValueError here or when
    encoded."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _generate(asked: Sequence[tuple[str, Prompt]], engine: LlmEngine) -> list[Completion | Exception]:
    """A completion or an exception per (call id, prompt): in one batch, then call by call where the batch fails.

    Raises what the engine raises where it answers for no call, unless there is one call only and the fault may be its.
    """
    if not asked:
        return []
    results = _try([prompt for _, prompt in asked], engine)
    calls = [[prompt for _, prompt in group] for _, group in groupby(asked, key=lambda item: item[0])]
    if isinstance(results[0], Exception) and len(calls) > 1:
        results = [result for call in calls for result in _try(call, engine)]
    fault = next((result for result in results if isinstance(result, Exception)), None)
    if fault is None or not all(isinstance(result, Exception) for result in results):
        return results
    if len(calls) > 1 or isinstance(fault, PipelineError):
        raise fault
    return results


def _try(batch: Sequence[Prompt], engine: LlmEngine) -> list[Completion | Exception]:
    try:
        return [*engine.generate(batch)]
    except FatalError:
        raise
    except Exception as error:
        return [error] * len(batch)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:_MAX_ERROR_CHARS] or type(error).__name__
