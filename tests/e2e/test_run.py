"""The main job as a newcomer meets it: samples in, everything out; and what a later change makes it do again."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tests.e2e.runs import SAMPLES, call_ids, read_table, report, run_job

pytestmark = pytest.mark.integration

FIRST = ("06_voicemail.wav", "02_card_payment.wav")
SECRETS = ("helen", "abernathy", "juniper", "4111", "1-1-1", "one one one", "four one", "217-555", "555-01", "marcus")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "in").mkdir()
    for name in FIRST:
        shutil.copy(SAMPLES / name, folder / "in")
    write_spec(folder, labels=["resolved", "voicemail"])
    return folder


def write_spec(work: Path, labels: list[str]) -> None:
    tasks: list[dict[str, Any]] = [
        {"name": "summary", "prompt": "summary/v1", "max_tokens": 60},
        {"name": "disposition", "prompt": "disposition/v1", "labels": labels, "max_tokens": 20},
    ]
    (work / "in" / "06_voicemail.json").write_text(json.dumps({"queue": "sales"}))
    recordings = {"uri": str(work / "in"), "sidecars": True}
    document = {"input": recordings, "output": {"uri": str(work / "out")}, "llm": {"tasks": tasks}}
    (work / "spec.yaml").write_text(yaml.safe_dump(document))


@pytest.fixture(scope="module")
def output(work: Path) -> Path:
    code, text = run_job("--spec", work / "spec.yaml")
    assert code == 0, text
    assert "Traceback" not in text
    return work / "out"


def stages_of(output: Path) -> dict[str, set[str]]:
    """Partition to the stages it went through in the last run."""
    return {p["partition_id"]: {s["stage"] for s in p["stages"]} for p in report(output)["partitions"]}


def test_every_call_has_a_transcript_analyses_and_files_of_its_own(output: Path) -> None:
    names = ["02_card_payment", "06_voicemail"]
    assert call_ids(output, "transcripts") == names
    assert call_ids(output, "insights") == sorted(names * 2)
    files = {path.name for path in (output / "calls").iterdir()}
    assert files == {f"{name}.{extension}" for name in names for extension in ("json", "vtt", "srt", "txt")}


def test_the_report_accounts_for_every_call(output: Path) -> None:
    found = report(output)
    assert found["accounted"]
    assert [found[key] for key in ("num_calls", "num_ok", "num_failed", "num_skipped")] == [2, 2, 0, 0]
    assert set(found["startup_s"]) == {"ray", "spark", "asr", "redact", "analyse"}
    assert all(stages == {"etl", "asr", "redact", "analyse"} for stages in stages_of(output).values())
    assert "<svg" in (output / "report.html").read_text()


def test_an_answer_obeys_its_schema(output: Path) -> None:
    document = json.loads((output / "calls" / "02_card_payment.json").read_text())
    assert document["insights"]["disposition"]["value"]["disposition"] in ("resolved", "voicemail")
    assert document["insights"]["summary"]["value"]["summary"]


def test_what_is_known_of_a_call_is_in_every_output(output: Path) -> None:
    for folder in ("transcripts", "insights"):
        rows = read_table(output, folder).to_pylist()
        assert {(row["call_id"], *row["metadata"]) for row in rows} == {
            ("06_voicemail", ("queue", "sales")),
            ("02_card_payment",),
        }
    assert json.loads((output / "calls" / "06_voicemail.json").read_text())["metadata"] == {"queue": "sales"}


def test_what_the_caller_said_in_confidence_is_in_no_output(output: Path) -> None:
    texts = {
        path: path.read_text()
        for path in output.rglob("*")
        if path.suffix in (".json", ".txt", ".vtt", ".srt", ".html")
    }
    for path in output.rglob("*.parquet"):
        texts[path] = json.dumps(pq.read_table(path).to_pylist(), ensure_ascii=False)
    assert len(texts) > 10
    # probabilities and times have many digits, and four of them in a row by chance
    texts = {path: re.sub(r"\d\.\d+(e-\d+)?", "0", text) for path, text in texts.items()}
    found = {(path.name, secret) for path, text in texts.items() for secret in SECRETS if secret in text.lower()}
    assert not found


def test_a_new_file_is_transcribed_and_a_new_prompt_only_analysed(output: Path, work: Path) -> None:
    """Both in one run: the engines take longest to start."""
    before = {path.name: path.stat().st_mtime_ns for path in (output / "transcripts").iterdir()}
    shutil.copy(SAMPLES / "07_delivery_mono.wav", work / "in")
    write_spec(work, labels=["resolved", "voicemail", "follow_up"])
    code, text = run_job("--spec", work / "spec.yaml")
    assert code == 0, text
    found = report(output)
    assert (found["num_calls"], found["num_ok"], found["num_skipped"]) == (3, 3, 2)
    assert sorted(map(len, stages_of(output).values())) == [1, 1, 4], "two partitions were analysed only"
    after = {path.name: path.stat().st_mtime_ns for path in (output / "transcripts").iterdir()}
    assert before.items() <= after.items()
    assert call_ids(output, "transcripts") == ["02_card_payment", "06_voicemail", "07_delivery_mono"]
    assert len(call_ids(output, "insights")) == 6, "the old prompt's answers are gone"
