"""Puts questions to a language model: the whole batch at once, a broken or cut answer once more, long texts as notes.

A text that is too long is cut into parts between utterances, each part is turned into notes (prompt condense/v1), and
the notes take the text's place; notes that are still too long are condensed again. Nothing is left out silently.

Guided decoding ends a text where its schema's maxLength does, in mid-sentence if need be, and the answer obeys the
schema all the same. Such an answer is asked for again, shorter; if that is cut too it is kept, and said to be cut.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import jsonschema

from ray_jobs import prompts
from ray_jobs.engines.llm import Completion, LlmEngine, Message, Prompt
from ray_jobs.errors import FatalError, PipelineError, SpecError
from ray_jobs.prompts import Rendered

_MAX_NOTES_TOKENS = 320
_MAX_ROUNDS = 4  # of condensing; each shrinks a text about tenfold at 4,096 tokens of context
_MARGIN_TOKENS = 128  # the chat template around the messages, and the complaint in a second prompt
_MAX_ERROR_CHARS = 200
_SENTENCE_ENDS = (".", "!", "?", "…", "。")
_LEAK_WORDS = 8  # nobody says eight words of a prompt in a row by chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
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
class Spent:
    """What answers cost: tokens of all attempts, and how many attempts broke their schema."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    num_broken: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            num_broken=self.num_broken + other.num_broken,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a question: a JSON document, or the `error` in its place.

    `cut` says which text of a document, or of the notes it was made from, ends where its schema's maxLength does; ""
    where none. `broken` tells an answer that does not obey its schema from an engine that gave none.
    """

    value: Any = None
    error: str = ""
    cut: str = ""
    broken: bool = False
    spent: Spent = field(default_factory=Spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A text that fits the context, or the `error` that says why there is none; `spent` went into its notes.

    `cut` says which notes were cut off, "" where none.
    """

    text: str = ""
    error: str = ""
    cut: str = ""
    spent: Spent = field(default_factory=Spent)


def inert(text: str) -> str:
    """Text without angle brackets, of which chat templates' control tokens are made."""
    return text.replace("<", "\u2039").replace(">", "\u203a")


# --------------------------------------------------------------------------------------------------------- long calls


def room(engine: LlmEngine, version: str, around: Rendered, max_tokens: int) -> int:
    """Tokens a transcript may have beside the prompt `around` it and a second, longer answer.

    Raises SpecError where there are none.
    """
    num_fixed = engine.count_tokens(around.system) + engine.count_tokens(around.user) + 2 * max_tokens + _MARGIN_TOKENS
    if num_fixed >= engine.context_tokens:
        raise SpecError(
            f"llm.context_tokens {engine.context_tokens} leaves no room for a transcript beside prompt {version} "
            f"and its answer; set it above {num_fixed}"
        )
    return engine.context_tokens - num_fixed


def fit(texts: Mapping[str, str], engine: LlmEngine, max_tokens: int) -> dict[str, Fitted]:
    """Per call a text of at most `max_tokens`, or why there is none. Longer texts become notes on their parts."""
    fitted = {call_id: Fitted(text=text, error="" if text else "empty transcript") for call_id, text in texts.items()}
    for _ in range(_MAX_ROUNDS):
        if not (too_long := _too_long(fitted, engine, max_tokens)):
            return fitted
        for call_id, notes in _condense(too_long, engine).items():
            before = fitted[call_id]
            fitted[call_id] = replace(notes, cut=before.cut or notes.cut, spent=before.spent + notes.spent)
    error = f"the call does not fit {max_tokens} tokens after {_MAX_ROUNDS} rounds of notes; raise context_tokens"
    return fitted | {
        call_id: Fitted(error=error, spent=fitted[call_id].spent) for call_id in _too_long(fitted, engine, max_tokens)
    }


def _too_long(fitted: Mapping[str, Fitted], engine: LlmEngine, max_tokens: int) -> dict[str, str]:
    return {i: f.text for i, f in fitted.items() if not f.error and engine.count_tokens(f.text) > max_tokens}


def _condense(texts: Mapping[str, str], engine: LlmEngine) -> dict[str, Fitted]:
    """Per call its notes, part by part, or the first error."""
    file = prompts.load(prompts.CONDENSE)
    max_tokens = min(_MAX_NOTES_TOKENS, engine.context_tokens // 8)
    part_tokens = room(engine, file.version, file.render(transcript=""), max_tokens)
    questions = {
        (call_id, number): Question(call_id=call_id, rendered=file.render(transcript=part), max_tokens=max_tokens)
        for call_id, text in texts.items()
        for number, part in enumerate(split_text(text, part_tokens, engine.count_tokens), start=1)
    }
    condensed = {}
    for call_id, keys_and_answers in groupby(ask(questions, engine).items(), key=lambda item: item[0][0]):
        answers = [answer for _, answer in keys_and_answers]
        spent = sum((answer.spent for answer in answers), Spent())
        error = next((answer.error for answer in answers if answer.error), "")
        cut = next((f"notes of part {n}: {answer.cut}" for n, answer in enumerate(answers, 1) if answer.cut), "")
        condensed[call_id] = (
            Fitted(error=f"the call is longer than the context, and its notes failed: {error}", spent=spent)
            if error
            else Fitted(
                text="\n".join(f"part {n}: {a.value['notes']}" for n, a in enumerate(answers, 1)), cut=cut, spent=spent
            )
        )
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

Key = tuple[str, Any]
"""A call's id, and which of the questions about it."""


def ask(questions: Mapping[Key, Question], engine: LlmEngine) -> dict[Key, Answer]:
    """An answer per question: all in one batch, and once more those that broke their schema or were cut off."""
    firsts = _ask_once(questions, {key: question.prompt() for key, question in questions.items()}, engine)
    complaints = {key: first.error or first.cut for key, first in firsts.items() if first.broken or first.cut}
    again = {key: questions[key].prompt(complaint) for key, complaint in complaints.items()}
    return firsts | {key: _better(firsts[key], second) for key, second in _ask_once(questions, again, engine).items()}


def _better(first: Answer, second: Answer) -> Answer:
    """The second answer, unless it is none and the first was only cut; both are paid for."""
    better = first if second.error and not first.error else second
    return replace(better, spent=first.spent + second.spent)


def _ask_once(
    questions: Mapping[Key, Question], attempts: Mapping[Key, Prompt], engine: LlmEngine
) -> dict[Key, Answer]:
    completions = _generate([(key[0], prompt) for key, prompt in attempts.items()], engine)
    return {
        key: _answer(completion, questions[key].rendered) for key, completion in zip(attempts, completions, strict=True)
    }


def _answer(completion: Completion | Exception, asked: Rendered) -> Answer:
    if isinstance(completion, Exception):
        return Answer(error=one_line(completion))
    value, error = _parse(completion, asked)
    spent = Spent(
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        num_broken=int(bool(error)),
    )
    cut = "" if error else _cut(value, asked.schema)
    return Answer(value=value, error=error, cut=cut, broken=bool(error), spent=spent)


def _parse(completion: Completion, asked: Rendered) -> tuple[Any, str]:
    """The document and "", or None and what is wrong with it."""
    try:
        value = json.loads(completion.text)
        if repeats(value, asked.system):  # before anything quotes it
            return None, "it repeats its instructions"
        jsonschema.Draft202012Validator(asked.schema).validate(value)
        dumps(value).encode()
    except jsonschema.ValidationError as error:
        return None, one_line(f"it does not obey the schema: {error.message}")
    except (ValueError, RecursionError) as error:
        return None, "it was cut off" if completion.finish_reason == "length" else one_line(f"it is not JSON: {error}")
    return value, ""


def _cut(value: Any, schema: Mapping[str, Any]) -> str:
    """Which text of a document that obeys its schema fills its maxLength without ending a sentence; "" for none."""
    for error in jsonschema.Draft202012Validator(_tightened(schema)).iter_errors(value):
        if error.validator == "maxLength" and not error.instance.rstrip().endswith(_SENTENCE_ENDS):
            name = ".".join(map(str, error.absolute_path)) or "text"
            return f"{name} was cut off at {len(error.instance)} characters"
    return ""


def _tightened(schema: Any) -> Any:
    """A schema that a text breaks which is as long as the schema's own maxLength allows."""
    if isinstance(schema, list):
        return [_tightened(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: item - 1 if key == "maxLength" and isinstance(item, int) else _tightened(item)
        for key, item in schema.items()
    }


def repeats(value: Any, instructions: str) -> bool:
    """Whether a text in `value` says _LEAK_WORDS words of the instructions in their order: what a caller who asks for
    them, and a model that obeys, would put into an answer that obeys its schema."""
    secret = _words(instructions)
    runs = {" ".join(secret[i : i + _LEAK_WORDS]) for i in range(len(secret) - _LEAK_WORDS + 1)}
    return any(
        " ".join(said[i : i + _LEAK_WORDS]) in runs
        for said in map(_words, prompts.strings(value))
        for i in range(len(said) - _LEAK_WORDS + 1)
    )


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def dumps(value: Any) -> str:
    """JSON that can be stored: NaN, 1e999 and half a surrogate pair, which Python reads, raise ValueError here or when
    encoded."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _generate(asked: Sequence[tuple[str, Prompt]], engine: LlmEngine) -> list[Completion | Exception]:
    """A completion or an exception per (call id, prompt): in one batch, then call by call where the batch fails.

    Raises what the engine says where it answers for no call, unless there is one call only and the fault may be its.
    """
    if not asked:
        return []
    calls = [[prompt for _, prompt in group] for _, group in groupby(asked, key=lambda item: item[0])]
    results = _results(calls, engine)
    fault = next((result for result in results if isinstance(result, Exception)), None)
    if fault is None or not all(isinstance(result, Exception) for result in results):
        return results
    if len(calls) > 1 or isinstance(fault, PipelineError):
        raise fault
    return results


def _results(calls: Sequence[Sequence[Prompt]], engine: LlmEngine) -> list[Completion | Exception]:
    try:
        return [*engine.generate([prompt for call in calls for prompt in call])]
    except FatalError:
        raise
    except Exception as error:
        if len(calls) == 1:
            return [error] * len(calls[0])
        return [result for call in calls for result in _results([call], engine)]


def one_line(error: object) -> str:
    return " ".join(str(error).split())[:_MAX_ERROR_CHARS] or type(error).__name__
