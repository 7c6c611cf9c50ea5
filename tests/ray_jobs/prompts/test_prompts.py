"""Prompt files: found, checked, rendered in one pass, and never changed once released."""

import sys
from pathlib import Path

import pytest

from ray_jobs import prompts
from ray_jobs.errors import SpecError
from ray_jobs.prompts.__main__ import main

RELEASED = {
    "action_items/v1": "9278015582a71934",
    "condense/v1": "657026a8178c982b",
    "disposition/v1": "ede42599153d101c",
    "judge/v1": "ecef082fef905875",
    "preference/v1": "32584c95899343ee",
    "secrets/v1": "a7ae993a012b2777",
    "summary/v1": "b15453690536cc48",
}
"""Content hashes. A file that has to change becomes vN+1; its hash is added here."""

FILE = """
system: Be brief.
user: "Call: {{transcript}}"
schema: {type: object}
"""


def test_a_released_prompt_never_changes() -> None:
    assert {version: prompts.load(version).content_hash for version in prompts.available()} == RELEASED


@pytest.mark.parametrize("version", prompts.available())
def test_every_prompt_begins_alike_for_the_prefix_cache(version: str) -> None:
    assert prompts.load(version).system == prompts.load("summary/v1").system


@pytest.mark.parametrize("version", ["summary/v99", "nothing/v1", "../prompts/summary/v1", "summary"])
def test_an_unknown_version_is_refused_with_those_there_are(version: str) -> None:
    with pytest.raises(SpecError, match=r"no prompt .*; there are .*condense/v1, disposition/v1, .*summary/v1"):
        prompts.load(version)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (FILE.replace("transcript", "transcrpt"), "unknown variable transcrpt; there are transcript and labels"),
        (FILE.replace("{{transcript}}", ""), "does not use {{transcript}}"),
        (FILE.replace("system:", "sytem:"), "must hold system, user, schema and nothing else"),
        (FILE + "model: big", "must hold system, user, schema and nothing else"),
        (FILE.replace("{type: object}", "object"), "schema is a mapping"),
        (FILE + "kind: poem", "kind poem is none of task, judge, preference"),
        (FILE + "kind: judge", "does not use {{answer}}"),
        (FILE.replace("transcript", "answer"), "unknown variable answer; there are transcript and labels"),
        (FILE + "hints: {model: big}", "hints may hold max_tokens and nothing else"),
        (FILE + "hints: {max_tokens: many}", "hints.max_tokens many is not a number of tokens"),
        ("user: [", "is not YAML"),
        ("", "must hold"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(content: str, message: str) -> None:
    with pytest.raises(SpecError, match=message.replace("{", r"\{")) as raised:
        prompts.parse("mine/v1", content.encode())
    assert str(raised.value).startswith("prompt mine/v1: ")
    assert "\n" not in str(raised.value)


def test_the_hash_changes_with_any_byte() -> None:
    hashes = {prompts.parse("mine/v1", content.encode()).content_hash for content in (FILE, FILE + " ", FILE + "# x")}
    assert len(hashes) == 3


def test_a_prompt_hints_how_long_its_answers_are() -> None:
    assert prompts.parse("mine/v1", (FILE + "hints: {max_tokens: 40}").encode()).max_tokens == 40
    assert prompts.parse("mine/v1", FILE.encode()).max_tokens == prompts.DEFAULT_MAX_TOKENS


def test_a_judge_is_shown_the_call_the_answer_and_the_rubric() -> None:
    rendered = prompts.load("judge/v1").render(
        transcript="agent: Hello.", answer='{"a": 1}', rubric="Is it {{answer}}?"
    )
    assert all(part in rendered.user for part in ("agent: Hello.", '{"a": 1}', "rubric: Is it {{answer}}?"))


def test_labels_fill_the_text_and_the_schema() -> None:
    rendered = prompts.load("disposition/v1").render(transcript="Hello.", labels=("yes", "no"))
    assert "Choose one of: yes, no." in rendered.user
    assert rendered.schema["properties"]["disposition"]["enum"] == ["yes", "no"]


def test_a_transcript_cannot_bring_variables_of_its_own() -> None:
    rendered = prompts.load("disposition/v1").render(
        transcript="say {{labels}} {{transcript}} \\1", labels=("yes", "no")
    )
    assert "say {{labels}} {{transcript}} \\1" in rendered.user


# ----------------------------------------------------------------------------------------------- prompts from elsewhere


def test_a_file_is_read_beside_the_spec(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(FILE)
    assert prompts.read("mine.yaml", tmp_path) == FILE


@pytest.mark.parametrize("reference", ["gone.yaml", "", "Summary/v1"])
def test_a_file_that_cannot_be_read_is_named_with_what_a_prompt_may_be(reference: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"cannot be read \(.*\); a prompt is the path of .* or one of .*summary/v1"):
        prompts.read(reference, tmp_path)


def test_a_registry_without_mlflow_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(
        SpecError, match=r"mlflow:mood/3: MLflow is not installed here; pip install 'callmill\[mlflow\]'"
    ):
        prompts.read("mlflow:mood/3", tmp_path)


@pytest.mark.parametrize("reference", ["mlflow:mood", "mlflow:mood/latest", "mlflow:/1"])
def test_a_registry_entry_without_its_version_is_refused(reference: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="the form is mlflow:NAME/VERSION, VERSION a number"):
        prompts.read(reference, tmp_path)


def test_an_entry_of_a_real_registry_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run by hand against mlflow-skinny 3.17.2, which would hold back other packages of the lock."""
    genai = pytest.importorskip("mlflow.genai", reason="the extra mlflow is not in the lock")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.setenv(name, (tmp_path / "registry").as_uri())
    genai.register_prompt(name="mood", template=FILE)
    assert prompts.read("mlflow:mood/1", tmp_path) == FILE
    with pytest.raises(SpecError, match=r"prompt mlflow:mood/2: .*not found"):
        prompts.read("mlflow:mood/2", tmp_path)


# ------------------------------------------------------------------------------------------ python -m ray_jobs.prompts


@pytest.fixture
def two_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mine/v2 and mine/v10, in a folder of their own."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "v2.yaml").write_text(FILE)
    (tmp_path / "mine" / "v10.yaml").write_text(FILE.replace("Be brief.", "Be kind."))
    monkeypatch.setattr(prompts, "_FOLDER", tmp_path)


@pytest.mark.usefixtures("two_versions")
def test_list_names_every_version_by_number(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list"])
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["mine/v2", "mine/v10"]


@pytest.mark.usefixtures("two_versions")
def test_show_prints_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", "mine/v2"])
    assert capsys.readouterr().out == FILE


@pytest.mark.usefixtures("two_versions")
def test_diff_shows_what_changed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["diff", "mine/v2", "mine/v10"])
    shown = capsys.readouterr().out
    assert "-system: Be brief." in shown
    assert "+system: Be kind." in shown
    main(["diff", "mine/v2", "mine/v2"])
    assert capsys.readouterr().out == "no difference\n"


def test_test_prints_what_the_model_would_be_sent(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "call.txt").write_text("agent: Hello there.")
    main(["test", "disposition/v1", "--labels", "yes, no", "--transcript", str(tmp_path / "call.txt")])
    shown = capsys.readouterr().out
    assert "agent: Hello there." in shown
    assert "Choose one of: yes, no." in shown
    assert '"enum": [\n        "yes",\n        "no"' in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "mood/v1"], "error: no prompt mood/v1; there are"),
        (["test", "disposition/v1"], "error: prompt disposition/v1 chooses among labels; pass --labels"),
        (["test", "summary/v1", "--transcript", "/nowhere"], "error: --transcript /nowhere: cannot be read"),
        (
            ["test", "summary/v1", "--output", "/nowhere"],
            "error: prompt summary/v1: there is no version before it; pass",
        ),
        (["test", "summary/v1", "--output", "/nowhere", "--against", "summary/v1"], "error: /nowhere: holds no"),
    ],
)
def test_mistakes_end_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert str(raised.value.code).startswith(message)
    assert "\n" not in str(raised.value.code)
