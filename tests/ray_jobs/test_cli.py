"""The command line of a job: what reaches the spec, and what a mistake or a failure says."""

from pathlib import Path

import pytest

from ray_jobs.cli import run_job
from ray_jobs.errors import FatalError
from ray_jobs.spec import RunSpec


def spec_of(*arguments: str) -> RunSpec:
    seen: list[RunSpec] = []

    def job(spec: RunSpec, *, dry_run: bool, retry_failed: bool) -> int:
        seen.append(spec)
        return 0

    assert run_job(job, "ray_jobs.job", "", arguments) == 0
    return seen[0]


def test_options_are_laid_over_the_spec_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("input: {uri: calls}\noutput: {uri: results}\nasr: {model: whisper-base, beam_size: 2}\n")
    spec = spec_of("--spec", str(path), "--output", "elsewhere", "--set", "asr.model=whisper-small")
    assert (spec.input.uri, spec.output.uri) == ("calls", "elsewhere")
    assert (spec.asr.model, spec.asr.beam_size) == ("whisper-small", 2)


def test_values_are_yaml() -> None:
    spec = spec_of(
        *("--input", "calls", "--set", "asr.language=null", "--set", "llm.engine=none"),
        *("--set", "asr.actors={max_actors: 3}", "--set", "redact.min_score=0.7"),
    )
    assert (spec.asr.language, spec.llm.engine, spec.asr.actors.max_actors) == (None, "none", 3)
    assert spec.redact.min_score == 0.7


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("asr.model", "--set asr.model: write KEY=VALUE, as in --set asr.model=whisper-small"),
        ("asr.modle=x", "command line: unknown key asr.modle; did you mean model?"),
        ("asr.model.name={", "--set asr.model.name: '{' is not YAML; put it in quotes of its own"),
        ("input.uri.path=x", "input.uri.path: uri holds 'calls', not a mapping with keys of its own"),
        ("asr.beam_size=many", "command line: asr.beam_size: Input should be a valid integer, unable to parse string"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    setting: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def job(spec: RunSpec, *, dry_run: bool, retry_failed: bool) -> int:
        raise AssertionError("must not start")

    assert run_job(job, "ray_jobs.job", "", ["--input", "calls", "--set", setting]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(message)
    assert printed.count("\n") == 1


def test_a_job_that_dies_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    def job(spec: RunSpec, *, dry_run: bool, retry_failed: bool) -> int:
        raise FatalError(f"dry_run {dry_run}, retry_failed {retry_failed}")

    assert run_job(job, "ray_jobs.job", "", ["--input", "calls", "--retry-failed"]) == 1
    assert capsys.readouterr().err == "error: dry_run False, retry_failed True\n"
