"""The main job on the engines that are not the default one, over one short call."""

import shutil
from pathlib import Path

import pytest

from tests.e2e.runs import SAMPLES, read_table, report, run_job, write_spec
from tests.ray_jobs.engines import tones

pytestmark = pytest.mark.integration

NAME = "06_voicemail"


def transcripts(tmp_path: Path, **asr: str) -> list[dict[str, object]]:
    """The rows of a run without analyses, accounted for by its report."""
    (tmp_path / "in").mkdir()
    shutil.copy(SAMPLES / f"{NAME}.wav", tmp_path / "in")
    spec = write_spec(
        tmp_path,
        input={"uri": str(tmp_path / "in")},
        output={"uri": str(tmp_path / "out")},
        asr=asr,
        llm={"engine": "none"},
    )
    code, text = run_job("--spec", spec)
    assert code == 0, text
    assert "Traceback" not in text
    assert report(tmp_path / "out")["accounted"]
    rows: list[dict[str, object]] = read_table(tmp_path / "out", "transcripts").to_pylist()
    return rows


def test_whisper_in_vllm_reads_the_call(tmp_path: Path) -> None:
    (row,) = transcripts(tmp_path, engine="whisper_vllm")
    assert (row["call_id"], row["asr_model"], row["language"]) == (NAME, "whisper-base", "en")
    said = " ".join(utterance["text"] for utterance in row["utterances"])  # type: ignore[attr-defined]
    assert len(said.split()) > 20


def test_a_ctc_model_of_one_s_own_gives_rows(tmp_path: Path) -> None:
    """Its weights are random: rows, not sense."""
    (tmp_path / "model").mkdir()
    folder = tones.random_folder(tmp_path / "model")
    (row,) = transcripts(tmp_path, engine="ctc_torch", model=str(folder))
    assert (row["call_id"], row["asr_model"]) == (NAME, str(folder))
    assert row["utterances"]
