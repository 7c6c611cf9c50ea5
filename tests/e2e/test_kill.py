"""Killed at any moment, the next run finishes the rest: nothing lost, nothing twice. One output, four runs on it."""

from pathlib import Path

import pytest

from tests.e2e.runs import SAMPLES, below, call_ids, kill, report, run_job, start_job, wait_for, write_spec

pytestmark = pytest.mark.integration

CALLS = sorted(path.stem for path in SAMPLES.glob("*.json"))


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill")
    return write_spec(folder, input={"uri": str(SAMPLES)}, output={"uri": str(folder / "out")}, llm={"engine": "none"})


@pytest.fixture(scope="module")
def output(spec: Path) -> Path:
    return spec.parent / "out"


def markers(output: Path) -> list[Path]:
    return sorted((output / "_callmill" / "markers" / "transcripts").glob("*/*.json"))


def test_killed_in_the_middle_of_a_spark_wave(spec: Path, output: Path) -> None:
    job = start_job("--spec", spec)
    wait_for(lambda: below(job, "pyspark.daemon"), job)
    kill(job)
    assert not call_ids(output, "transcripts")
    assert list((output / "_callmill" / "plans").glob("*/*.json"))


def test_killed_in_the_middle_of_asr(spec: Path, output: Path) -> None:
    job = start_job("--spec", spec)
    wait_for(lambda: markers(output), job)
    kill(job)
    assert 0 < len(markers(output)) < 4, "partitions are committed one by one"


def test_the_next_run_finishes_the_rest_though_an_executor_and_an_actor_are_killed(spec: Path, output: Path) -> None:
    before = markers(output)
    times = [path.stat().st_mtime_ns for path in before]
    job = start_job("--spec", spec, "--set", "etl.spark.num_executors=2")
    [worker, *_] = wait_for(lambda: below(job, "pyspark.daemon"), job)  # by then the actors are up
    executor = next(process for process in worker.parents() if process.name() == "java")
    executor.kill()  # the other has its partition to do
    wait_for(lambda: below(job, "MapBatches(Transcribe)"), job)[0].kill()
    text, _ = job.communicate(timeout=300)
    assert job.returncode == 0, text
    assert call_ids(output, "transcripts") == CALLS
    assert report(output)["accounted"]
    assert [path.stat().st_mtime_ns for path in before] == times, "what was committed is left alone"


def test_killed_between_the_data_and_the_marker(spec: Path, output: Path) -> None:
    """The state such a kill leaves: a data file without its marker, and the plan not finished."""
    victim = markers(output)[0]
    victim.unlink()
    code, text = run_job("--spec", spec)
    assert code == 0, text
    assert call_ids(output, "transcripts") == CALLS, "the orphan is gone and its calls are there once"
    assert report(output)["num_skipped"] == len(CALLS) - 2


def test_a_run_with_nothing_to_do_says_so_and_changes_nothing(spec: Path, output: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet")}
    code, text = run_job("--spec", spec, timeout_s=180)
    assert code == 0
    assert "nothing to do: all 8 calls are done" in text
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet")} == before
