"""Shows a language model what was said, before it is redacted, and asks it which secrets it sees.

What comes of it is added to what the recognisers find: a model that is wrong, or obeys a caller, hides too much at
worst. A call about which it gives no valid answer has none, and is not to be stored as if it had been read.
"""

from collections.abc import Sequence
from itertools import groupby

from ray_jobs import prompts
from ray_jobs.engines.llm import LlmEngine
from ray_jobs.engines.pii import Suggestion
from ray_jobs.errors import FatalError
from ray_jobs.records import Transcript
from ray_jobs.stages.analyse import dialogue
from ray_jobs.stages.asking import Answer, Question, ask, room, split_text


def suggest(
    transcripts: Sequence[Transcript], engine: LlmEngine, entities: Sequence[str]
) -> dict[str, list[Suggestion] | None]:
    """Call id to what the model takes for secrets; None where an answer was missing or broke its schema twice.

    A long call is read in parts. Raises what the engine raises where it answers for no call, FatalError where it
    refuses every prompt, in words of our own, for a server's may quote the call, and SpecError where its context has no
    room for a transcript.
    """
    file = prompts.load(prompts.SECRETS)
    part_tokens = room(engine, file.version, file.render(labels=entities), file.max_tokens)
    questions = {
        (transcript.call_id, number): Question(
            call_id=transcript.call_id,
            rendered=file.render(transcript=part, labels=entities),
            max_tokens=file.max_tokens,
        )
        for transcript in transcripts
        for number, part in enumerate(split_text(dialogue(transcript), part_tokens, engine.count_tokens))
        if part
    }
    suggestions: dict[str, list[Suggestion] | None] = {transcript.call_id: [] for transcript in transcripts}
    try:
        answers = ask(questions, engine)
    except ValueError:
        raise FatalError(f"redact.llm: {engine.model_name} refused every prompt, whatever the call") from None
    for call_id, asked in groupby(answers.items(), key=lambda item: item[0][0]):
        suggestions[call_id] = _suggestions([answer for _, answer in asked])
    return suggestions


def _suggestions(answers: Sequence[Answer]) -> list[Suggestion] | None:
    if any(answer.error for answer in answers):
        return None
    return [
        Suggestion(entity=secret["kind"], text=secret["text"])
        for answer in answers
        for secret in answer.value["secrets"]
    ]
