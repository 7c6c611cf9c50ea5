"""Fused and staged are two arrangements of the same stages: same partitions, same transcripts, one ledger."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_jobs.ledger import Ledger
from tests.e2e.runs import SAMPLES, call_ids, kill, read_table, report, run_job, start_job, wait_for, write_spec
from tests.ray_jobs.endpoint_server import endpoint

pytestmark = pytest.mark.integration

CALLS = ["02_card_payment", "06_voicemail", "07_delivery_mono"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("staged")
    (folder / "in").mkdir()
    for name in CALLS:
        shutil.copy(SAMPLES / f"{name}.wav", folder / "in")
    return folder


def spec_with(folder: Path, output: str) -> Path:
    (folder / output).mkdir(exist_ok=True)
    places = {"input": {"uri": str(folder / "in")}, "output": {"uri": str(folder / output)}}
    return write_spec(folder / output, **places, llm={"engine": "none"})


@pytest.fixture(scope="module")
def fused(folder: Path) -> Path:
    spec = spec_with(folder, "fused")
    code, text = run_job("--spec", spec)
    assert code == 0, text
    return folder / "fused"


@pytest.fixture(scope="module")
def done_by_killed() -> dict[str, set[str]]:
    """Ids of the partitions that a job did before it was killed; what it measured of them went with it."""
    return {}


@pytest.fixture(scope="module")
def staged(folder: Path, done_by_killed: dict[str, set[str]]) -> Path:
    """An output whose partitions are prepared, by a job that was killed in between and its successor."""
    spec = spec_with(folder, "staged")
    output = folder / "staged"
    job = start_job("--spec", spec, module="ray_jobs.preprocess")
    wait_for(lambda: prepared(output), job)
    kill(job)
    before = {path: path.stat().st_mtime_ns for path in prepared(output)}
    done_by_killed["preprocess"] = {path.name.rsplit("-", 1)[0] for path in before}
    code, text = run_job("--spec", spec, module="ray_jobs.preprocess")
    assert code == 0, text
    assert len(prepared(output)) == len(CALLS)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was prepared is left alone"
    return output


def prepared(output: Path) -> list[Path]:
    """The audio that a marker names: a job killed between the two leaves a file that nobody reads."""
    folder = output / "_callmill" / "partitions"
    named = [folder / name for marker in Ledger(str(output)).load_markers("partitions") for name in marker.files]
    return sorted(path for path in named if path.exists())


def markers(output: Path) -> list[Path]:
    return sorted((output / "_callmill" / "markers" / "transcripts").glob("*/*.json"))


def transcripts(output: Path) -> list[dict[str, Any]]:
    return sorted(read_table(output, "transcripts").to_pylist(), key=lambda row: row["call_id"])


def test_a_killed_transcription_goes_on_after_its_last_commit(
    staged: Path, done_by_killed: dict[str, set[str]]
) -> None:
    job = start_job("--spec", staged / "spec.yaml", module="ray_jobs.transcribe")
    wait_for(lambda: markers(staged), job)
    kill(job)
    before = {path: path.stat().st_mtime_ns for path in markers(staged)}
    done_by_killed["transcribe"] = {path.stem for path in before}
    assert 0 < len(before) < len(CALLS)
    code, text = run_job("--spec", staged / "spec.yaml", module="ray_jobs.postprocess")
    assert code == 1
    assert "planned partitions are not transcribed: run ray_jobs.transcribe first" in text
    code, text = run_job("--spec", staged / "spec.yaml", module="ray_jobs.transcribe")
    assert code == 0, text
    assert len(markers(staged)) == len(CALLS)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was committed is left alone"
    assert not prepared(staged), "the audio went with the commits"


def test_staged_and_fused_give_the_same_transcripts_of_the_same_partitions(
    staged: Path, fused: Path, done_by_killed: dict[str, set[str]]
) -> None:
    code, text = run_job("--spec", staged / "spec.yaml", module="ray_jobs.postprocess")
    assert code == 0, text
    assert [row["call_id"] for row in transcripts(staged)] == CALLS
    assert transcripts(staged) == transcripts(fused)
    assert [path.name for path in markers(staged)] == [path.name for path in markers(fused)]
    found = report(staged)
    assert found["accounted"]
    unmeasured = done_by_killed["preprocess"] & done_by_killed["transcribe"]  # else one of them that ended told it
    assert found["rates"]["stages"]["etl"]["num_calls"] == len(CALLS) - len(unmeasured)


def test_each_arrangement_finds_the_others_work_done(staged: Path, fused: Path) -> None:
    code, text = run_job("--spec", staged / "spec.yaml", timeout_s=180)
    assert code == 0
    assert "nothing to do: all 3 calls are done" in text
    for module in ("ray_jobs.preprocess", "ray_jobs.transcribe"):
        code, text = run_job("--spec", fused / "spec.yaml", module=module, timeout_s=180)
        assert code == 0
        assert "nothing to do" in text


def test_a_killed_postprocess_goes_on_after_its_last_commit(staged: Path) -> None:
    with endpoint(thinks_s=2.0) as url:
        llm = {"engine": "openai_endpoint", "model": "big", "endpoint": {"url": url, "max_concurrency": 1}}
        document = yaml.safe_load((staged / "spec.yaml").read_text())
        spec = write_spec(
            staged, **{**document, "llm": {**llm, "tasks": [{"name": "summary", "prompt": "summary/v1"}]}}
        )
        job = start_job("--spec", spec, module="ray_jobs.postprocess")
        wait_for(lambda: list((staged / "_callmill" / "markers" / "insights").glob("*/*.json")), job)
        kill(job)
        before = {path: path.stat().st_mtime_ns for path in (staged / "insights").glob("*.parquet")}
        assert 0 < len(before) < len(CALLS)
        code, text = run_job("--spec", spec, module="ray_jobs.postprocess")
    assert code == 0, text
    assert call_ids(staged, "insights") == CALLS
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was committed is left alone"
