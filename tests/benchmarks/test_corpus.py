"""Generated calls: the same every time, as long and as silent as asked, with references that fit."""

import csv
import json
from pathlib import Path

import pytest

from benchmarks.corpus import SILENT_SHARE, lengths_s, make_corpus, write_manifest
from spark_etl.decode import read_wav_header
from spark_etl.recording import Recording


def test_the_same_seed_gives_the_same_calls_and_another_seed_others(tmp_path: Path) -> None:
    first, again, other = (
        make_corpus(hours=0.05, seed=seed, cache=tmp_path / name) for seed, name in ((3, "a"), (3, "b"), (4, "c"))
    )

    def recordings(folder: str) -> list[bytes]:
        return [path.read_bytes() for path in sorted(Path(folder).glob("*.wav"))]

    assert recordings(first.folder) == recordings(again.folder) != recordings(other.folder)
    assert first.audio_s >= 180
    assert sum(lengths_s(first)) == pytest.approx(first.audio_s, rel=0.01)


def test_a_call_is_two_channels_of_g711_with_its_turns_beside_it(tmp_path: Path) -> None:
    corpus = make_corpus(hours=0.05, seed=0, cache=tmp_path)
    path = sorted(Path(corpus.folder).glob("*.wav"))[0]
    with path.open("rb") as file, Recording(file) as recording:
        header = read_wav_header(recording)
    assert (header.num_channels, header.sample_rate_hz) == (2, 8000)
    turns = json.loads(path.with_suffix(".json").read_text())["turns"]
    assert {turn["channel"] for turn in turns} == {0, 1}
    assert all(0 <= turn["start_s"] < turn["end_s"] for turn in turns)
    assert SILENT_SHARE[0] - 0.1 < corpus.silent_share < SILENT_SHARE[1] + 0.1


def test_a_manifest_lists_calls_that_need_not_exist(tmp_path: Path) -> None:
    write_manifest(tmp_path / "calls.csv", 50, seed=0)
    with (tmp_path / "calls.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["uri"] for row in rows}) == 50
    assert all(int(row["size_bytes"]) > 58 for row in rows)
