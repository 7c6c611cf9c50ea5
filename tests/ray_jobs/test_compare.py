"""Two ways of asking, side by side: over committed calls, on one page that escapes what it shows."""

import json
from pathlib import Path

import pytest

from ray_jobs import compare as module
from ray_jobs import vibe
from ray_jobs.compare import Comparison, Referee, Side, compare, describe, render_html, sample
from ray_jobs.engines.llm import Prompt
from ray_jobs.errors import SpecError
from ray_jobs.prompts.__main__ import main as prompts_main
from ray_jobs.spec import JudgeSpec, LlmSpec, PriceSpec, TaskSpec
from tests.ray_jobs.engines.fake_llm import FakeLlm
from tests.ray_jobs.outputs import a_failure, a_transcript, commit, spec_for

LABELS = ("yes", "no")
ASKS_KINDLY = "{system: Be kind., user: '{{transcript}} {{labels}}', schema: {properties: {v: {enum: '{{labels}}'}}}}"


def answer(prompt: Prompt) -> str:
    """Kind prompts get "yes" whatever the call, others "no" for the call of a Bob; judges and referees are polite."""
    asked, properties = prompt.messages[-1].content, prompt.schema["properties"]
    if "score" in properties:
        return json.dumps({"reason": "Fine.", "score": 5 if "yes" in asked else 2})
    if "better" in properties:
        return json.dumps(
            {"reason": "Yes is better.", "better": "first" if "yes" in asked.split("second:")[0] else "second"}
        )
    kind = prompt.messages[0].content == "Be kind."
    (name,) = properties
    return json.dumps({name: "yes" if kind or "Bob" not in asked else "no"})


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[LlmSpec]:
    """Every engine is a fake; the list says which were loaded."""
    loaded: list[LlmSpec] = []

    def load_fake(llm: LlmSpec) -> FakeLlm:
        loaded.append(llm)
        return FakeLlm(answer)

    monkeypatch.setattr(module, "load_llm", load_fake)
    return loaded


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Three committed calls, one of which says "Bob", and a failed one."""
    spec = spec_for(tmp_path / "out")
    commit(spec, [a_transcript("a", "<b>Alice</b>"), a_transcript("b", "Bob"), a_failure("c")], run_id="run1")
    commit(spec, [a_transcript("d", "Dora")], run_id="run2")
    return tmp_path / "out"


def side(label: str, text: str | None = None, **changes: object) -> Side:
    task = TaskSpec(name="end", prompt=f"{label}.yaml" if text else "disposition/v1", prompt_text=text, labels=LABELS)
    return Side(label=label, llm=LlmSpec(tasks=(task,)).model_copy(update=changes))


def compared(output: Path, referee: Referee | None = None, **changes: object) -> Comparison:
    return compare(sample(str(output), 10), side("plain", **changes), side("kind", ASKS_KINDLY, **changes), referee)


def test_a_sample_is_of_committed_transcripts_and_the_same_each_time(output: Path) -> None:
    assert [t.call_id for t in sample(str(output), 10)] == ["a", "b", "d"]
    assert len(sample(str(output), 2)) == 2
    assert sample(str(output), 2) == sample(str(output), 2)
    with pytest.raises(SpecError, match="--calls 0: at least 1"):
        sample(str(output), 0)


def test_an_output_without_transcripts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no transcripts; a run's output is asked for"):
        sample(str(tmp_path), 10)


def test_a_call_that_failed_since_is_not_asked_about(output: Path) -> None:
    commit(spec_for(output), [a_failure("b")], run_id="run3", replaces="p-1")
    assert [t.call_id for t in sample(str(output), 10)] == ["a", "d"]


def test_labels_that_changed_are_counted(output: Path, engines: list[LlmSpec]) -> None:
    found = compared(output)
    assert (found.num_both_answered, found.num_agreed) == (3, 0), "the two prompts name their answer differently"
    same = compare(sample(str(output), 10), side("one"), side("two"))
    assert (same.num_both_answered, same.num_agreed, same.changes) == (3, 3, {})
    assert found.changes == {'{"disposition": "yes"} -> {"v": "yes"}': 2, '{"disposition": "no"} -> {"v": "yes"}': 1}


def test_totals_say_what_each_side_took(output: Path, engines: list[LlmSpec]) -> None:
    price = PriceSpec(prompt_usd=0.0, completion_usd=1e6)
    found = compared(output, prices={LlmSpec().model: price})
    assert (found.a.num_ok, found.a.num_failed, found.a.num_broken) == (3, 0, 0)
    assert found.b.mean_chars == len('{"v": "yes"}')
    assert found.b.prompt_tokens < found.a.prompt_tokens
    assert found.b.cost_usd == pytest.approx(found.b.completion_tokens)


def test_a_judge_scores_both_sides(output: Path, engines: list[LlmSpec]) -> None:
    found = compared(output, judges=(JudgeSpec(name="judge", task="end"),))
    assert (found.a.mean_score, found.b.mean_score) == (pytest.approx(4.0), 5.0)
    assert found.pairs[1].a.score == 2


def test_a_referee_prefers_by_call(output: Path, engines: list[LlmSpec]) -> None:
    found = compared(output, Referee(llm=LlmSpec(), rubric="Is it kind?"))
    assert found.verdicts == {"tie": 2, "b": 1}
    assert found.pairs[1].preference.verdict == "b"


def test_an_engine_is_loaded_once_for_all_who_share_it(output: Path, engines: list[LlmSpec]) -> None:
    compared(output, Referee(llm=LlmSpec(), rubric=""))
    assert len(engines) == 1
    compare(sample(str(output), 10), side("a"), side("b", model="other"))
    assert [llm.model for llm in engines[1:]] == [LlmSpec().model, "other"]


def test_the_page_shows_every_call_and_escapes_it(output: Path, engines: list[LlmSpec]) -> None:
    page = render_html(compared(output, Referee(llm=LlmSpec(), rubric="")))
    assert "agent: \u2039b\u203aAlice" in page, "the page shows what the model read"
    assert all(text in page for text in ("agent: Bob", "{&#34;v&#34;: &#34;yes&#34;}", "B preferred"))


def test_a_label_is_escaped(output: Path, engines: list[LlmSpec]) -> None:
    page = render_html(compare(sample(str(output), 1), side("<script>"), side("b")))
    assert "<script>" not in page


def test_a_broken_side_fails_beside_the_other(output: Path, engines: list[LlmSpec]) -> None:
    never = (
        "{system: Be kind., user: '{{transcript}} {{labels}}', schema: {properties: {v: {enum: ['{{labels}}', 0]}}}}"
    )
    found = compare(sample(str(output), 10), side("plain"), side("never", never))
    assert (found.a.num_ok, found.b.num_ok, found.b.num_failed, found.b.num_broken) == (3, 0, 3, 6)
    assert (found.num_both_answered, found.num_agreed) == (0, 0)
    assert "failed: it does not obey the schema" in render_html(found)
    assert "num_broken" in describe(found)


# ------------------------------------------------------------------------------------------------------ command lines


def test_prompts_test_asks_a_new_version_and_the_old_one_about_past_calls(
    output: Path, engines: list[LlmSpec], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new.yaml").write_text(ASKS_KINDLY)
    arguments = ["--against", "disposition/v1", "--output", str(output), "--labels", "yes,no", "--judge", "judge/v1"]
    prompts_main(["test", str(tmp_path / "new.yaml"), *arguments, "--to", str(tmp_path / "to")])
    printed = capsys.readouterr().out
    assert "same answer on 0 of 3 calls that both answered" in printed
    document = json.loads((tmp_path / "to" / "comparison.json").read_text())
    assert [document[key]["prompt"] for key in ("a", "b")] == ["disposition/v1", str(tmp_path / "new.yaml")]
    assert document["b"]["mean_score"] == 5.0
    assert len(document["pairs"]) == 3
    assert (tmp_path / "to" / "comparison.html").read_text().startswith("<!doctype html>")


@pytest.fixture
def specs(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "kind.yaml").write_text(ASKS_KINDLY)
    for name, prompt in (("a", "disposition/v1"), ("b", "kind.yaml")):
        task = {"name": "end", "prompt": prompt, "labels": list(LABELS)}
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"llm": {"tasks": [task]}}))
    return str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")


def test_vibe_puts_two_specs_side_by_side(
    output: Path, engines: list[LlmSpec], specs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = specs
    arguments = [a, b, "--task", "end", "--output", str(output), "--referee", a, "--to", str(tmp_path / "to")]
    assert vibe.main(arguments) == 0
    assert "preferred: a 0, b 1, tie 2" in capsys.readouterr().out
    assert (tmp_path / "to" / "comparison.html").exists()


def test_a_task_that_a_spec_does_not_have_is_named(
    output: Path, specs: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert vibe.main([*specs, "--task", "mood", "--output", str(output)]) == 2
    assert "a.yaml: has no task mood; there are end" in capsys.readouterr().err
