"""Preferences: shown in both orders, and counted only where the order did not decide."""

import json
from collections.abc import Callable

import pytest

from ray_jobs import prompts
from ray_jobs.engines.llm import Prompt
from ray_jobs.errors import SpecError
from ray_jobs.stages.prefer import Preference, prefer
from tests.ray_jobs.engines.fake_llm import FakeLlm

FILE = prompts.load("preference/v1")


def first_and_second(prompt: Prompt) -> tuple[str, str]:
    text = prompt.messages[-1].content
    return text.split("The first:\n\n")[1].split("\n")[0], text.split("The second:\n\n")[1].split("\n")[0]


def says(better: str) -> str:
    return json.dumps({"reason": f"{better} is better", "better": better})


def likes(answer: str) -> Callable[[Prompt], str]:
    return lambda prompt: says("first" if first_and_second(prompt)[0] == answer else "second")


def compare(engine: FakeLlm, a: str = "good", b: str = "poor") -> Preference:
    (preference,) = prefer({"call": "agent: Hello."}, {"call": (a, b)}, engine, FILE, "Is it good?").values()
    return preference


def test_both_orders_are_shown_with_transcript_and_rubric() -> None:
    engine = FakeLlm(likes("good"))
    compare(engine)
    assert [first_and_second(prompt) for prompt in engine.prompts] == [("good", "poor"), ("poor", "good")]
    assert all(
        "agent: Hello." in p.messages[-1].content and "Is it good?" in p.messages[-1].content for p in engine.prompts
    )


@pytest.mark.parametrize(("liked", "verdict"), [("good", "a"), ("poor", "b")])
def test_a_preference_that_survives_the_swap_counts(liked: str, verdict: str) -> None:
    preference = compare(FakeLlm(likes(liked)))
    assert (preference.verdict, preference.settled) == (verdict, True)
    assert len(preference.reasons) == 2


@pytest.mark.parametrize("place", ["first", "second"])
def test_a_model_that_goes_by_the_place_gives_a_tie(place: str) -> None:
    preference = compare(FakeLlm(lambda prompt: says(place)))
    assert (preference.verdict, preference.settled) == ("tie", False)


def test_equal_in_both_orders_is_a_settled_tie() -> None:
    preference = compare(FakeLlm(lambda prompt: says("equal")))
    assert (preference.verdict, preference.settled) == ("tie", True)


def test_a_referee_that_breaks_its_schema_prefers_nothing_and_says_why() -> None:
    assert "not JSON" in compare(FakeLlm(lambda prompt: "A!")).error


def test_no_pairs_ask_nothing() -> None:
    engine = FakeLlm(likes("good"))
    assert prefer({"call": "agent: Hello."}, {}, engine, FILE, "") == {}
    assert engine.batches == []


def test_answers_too_long_for_the_referee_are_said() -> None:
    with pytest.raises(SpecError, match="no room for a transcript beside prompt preference/v1"):
        compare(FakeLlm(likes("good"), context_tokens=800), a="x" * 4000)
