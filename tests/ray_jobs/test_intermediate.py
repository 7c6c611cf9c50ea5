"""Audio between the jobs: its owner's alone, there until its transcripts are committed or its lifetime is over."""

import os
import stat
import time
from pathlib import Path

import pyarrow as pa
import pytest

from ray_jobs.errors import SpecError
from ray_jobs.intermediate import Intermediate
from ray_jobs.ledger import Partition, make_partition
from ray_jobs.sinks import read_parquet
from ray_jobs.spec import RunSpec
from tests.ray_jobs.outputs import a_call, a_transcript, commit, spec_for

AUDIO = pa.table({"call_id": ["a"], "pcm": [b"\0\1"]})


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    return spec_for(tmp_path / "out")


def put(spec: RunSpec, call_id: str = "a", run_id: str = "run1") -> Partition:
    partition = make_partition([a_call(call_id)], spec.fingerprints()["redact"], {call_id: ""})
    Intermediate(spec).put(partition, AUDIO, {}, run_id)
    return partition


def files(spec: RunSpec) -> list[Path]:
    return [path for path in (Path(spec.output.uri) / "_callmill" / "partitions").iterdir() if path.is_file()]


def age(path: Path, days: float) -> None:
    os.utime(path, (time.time() - days * 86_400,) * 2)


def test_what_is_stored_is_found_and_read_back(spec: RunSpec) -> None:
    partition = put(spec)
    (location,) = Intermediate(spec).prepared().values()
    assert list(Intermediate(spec).prepared()) == [partition.partition_id]
    assert read_parquet(location).equals(AUDIO)


def test_only_its_owner_may_read_it(spec: RunSpec) -> None:
    put(spec)
    assert [stat.S_IMODE(path.stat().st_mode) for path in files(spec)] == [0o600]


def test_of_two_runs_the_first_stands_and_the_others_file_goes(spec: RunSpec) -> None:
    put(spec, run_id="run1")
    put(spec, run_id="run2")
    assert [path.name.endswith("-run1.parquet") for path in files(spec)] == [True]


def test_it_goes_when_its_transcripts_are_committed(spec: RunSpec) -> None:
    put(spec, "a")
    kept = put(spec, "b")
    commit(spec, [a_transcript("a")])
    Intermediate(spec).sweep()
    assert list(Intermediate(spec).prepared()) == [kept.partition_id]
    assert len(files(spec)) == 1
    Intermediate(spec).discard([kept.partition_id, "p-unknown"])
    assert not files(spec)
    assert not Intermediate(spec).prepared()


def test_it_goes_when_its_lifetime_is_over_and_so_does_what_a_killed_run_left(spec: RunSpec) -> None:
    put(spec)
    (named,) = files(spec)
    left, fresh = named.with_name(".tmp-left"), named.with_name("p-other-run9.parquet")
    left.write_bytes(b"audio")
    age(left, days=8)
    fresh.write_bytes(b"audio of a run whose marker is about to come")
    Intermediate(spec).sweep()
    assert sorted(files(spec)) == sorted([named, fresh])
    short = spec_for(Path(spec.output.uri), intermediate={"lifetime_days": 1e-9})
    assert not Intermediate(short).prepared()
    Intermediate(short).sweep()
    assert not files(spec)


def test_a_marker_whose_audio_was_deleted_from_outside_is_no_prepared_partition(spec: RunSpec) -> None:
    put(spec)
    files(spec)[0].unlink()
    assert not Intermediate(spec).prepared()
    Intermediate(spec).sweep()
    put(spec, run_id="run2")
    assert len(Intermediate(spec).prepared()) == 1


def test_it_may_lie_elsewhere_and_a_key_is_for_s3(tmp_path: Path) -> None:
    spec = spec_for(tmp_path / "out", intermediate={"uri": str(tmp_path / "scratch")})
    put(spec)
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    with pytest.raises(SpecError, match=r"intermediate.kms_key_id: only S3 encrypts"):
        spec_for(tmp_path / "out", intermediate={"kms_key_id": "alias/calls"})
