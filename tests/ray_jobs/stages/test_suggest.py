"""A language model's part in redaction: it adds secrets, and can do nothing else."""

import json

import pytest

from ray_jobs.engines.llm import Prompt
from ray_jobs.engines.pii import Suggestion
from ray_jobs.errors import FatalError, SpecError
from ray_jobs.stages.suggest import suggest
from tests.ray_jobs.engines.fake_llm import FakeLlm
from tests.ray_jobs.stages.test_redact import transcript, utterance

ENTITIES = ("PERSON", "PHONE")


def secrets(*found: tuple[str, str]) -> str:
    return json.dumps({"secrets": [{"kind": kind, "text": text} for kind, text in found]})


def test_what_the_model_names_is_suggested_by_call() -> None:
    def answer(prompt: Prompt) -> str:
        return secrets(("PERSON", "Zorro")) if "Zorro" in prompt.messages[-1].content else secrets()

    engine = FakeLlm(answer)
    calls = [transcript(utterance("it's me, Zorro"), call_id="a"), transcript(utterance("Hello."), call_id="b")]
    assert suggest(calls, engine, ENTITIES) == {"a": [Suggestion(entity="PERSON", text="Zorro")], "b": []}
    assert len(engine.batches) == 1, "all calls in one batch"
    kinds = engine.prompts[0].schema["properties"]["secrets"]["items"]["properties"]["kind"]["enum"]  # type: ignore[index]
    assert kinds == list(ENTITIES)


def test_a_long_call_is_read_in_parts_and_nothing_of_it_is_left_out() -> None:
    lines = [utterance(f"This is sentence number {number} of a long story.") for number in range(400)]
    engine = FakeLlm(lambda prompt: secrets(("PHONE", prompt.messages[-1].content[-1] + "555")), context_tokens=4096)
    found = suggest([transcript(*lines)], engine, ENTITIES)
    assert len(engine.prompts) > 1
    assert all(any(f"number {n} of" in p.messages[-1].content for p in engine.prompts) for n in range(400))
    assert len(found["a"] or []) == len(engine.prompts)


def test_a_call_whose_answer_breaks_its_schema_twice_has_none() -> None:
    def answer(prompt: Prompt) -> str:
        return "I'd rather not" if "Zorro" in prompt.messages[-1].content else secrets()

    calls = [transcript(utterance("Zorro"), call_id="a"), transcript(utterance("Hello."), call_id="b")]
    engine = FakeLlm(answer)
    assert suggest(calls, engine, ENTITIES) == {"a": None, "b": []}
    assert [len(batch) for batch in engine.batches] == [2, 1], "the broken one is asked for once more"


def test_a_refusal_of_every_prompt_ends_the_run_without_a_word_of_the_calls() -> None:
    def refuse(prompt: Prompt) -> str:
        raise ValueError(f"cannot read {prompt.messages[-1].content}")

    calls = [transcript(utterance("it's me, Zorro"), call_id=call_id) for call_id in "ab"]
    with pytest.raises(FatalError, match=r"redact\.llm: fake refused every prompt") as raised:
        suggest(calls, FakeLlm(refuse), ENTITIES)
    assert "Zorro" not in str(raised.value)
    assert suggest(calls[:1], FakeLlm(refuse), ENTITIES) == {"a": None}, "the fault of one call may be its own"


def test_a_silent_call_is_not_asked_about() -> None:
    engine = FakeLlm(lambda _: secrets())
    assert suggest([transcript()], engine, ENTITIES) == {"a": []}
    assert not engine.prompts


def test_a_context_without_room_is_refused() -> None:
    with pytest.raises(SpecError, match="leaves no room for a transcript beside prompt secrets/v1"):
        suggest([transcript(utterance("Hello."))], FakeLlm(lambda _: secrets(), context_tokens=500), ENTITIES)
