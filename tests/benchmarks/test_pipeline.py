"""What the pipeline benchmark makes of its readings: which peer the ratio is to, and what else is set beside it."""

from pathlib import Path

import pytest

from benchmarks.corpus import Corpus
from benchmarks.harness import Reading
from benchmarks.pipeline import Race, summarise


@pytest.fixture
def race(tmp_path: Path) -> Race:
    corpus = Corpus(folder=str(tmp_path), num_calls=1, audio_s=3600.0, silent_share=0.5, seed=0)
    return Race(corpus, tmp_path, num_cpus=2)


def took(*walls_s: float, **facts: float) -> list[Reading]:
    return [Reading(wall_s=wall_s, cpu_s=2 * wall_s, peak_bytes=2**30, facts=facts) for wall_s in walls_s]


def test_the_ratio_is_to_the_fastest_peer_and_each_round_is_a_pair_of_its_own(race: Race) -> None:
    readings = {"pods": took(300, 310), "batched": took(100, 120), "fused": took(80, 80)}
    result = summarise(race, readings)
    assert result["best_peer"] == "batched"
    assert result["ratio_range"] == [100 / 80, 120 / 80]


def test_a_peer_made_to_find_words_times_stands_beside_that_ratio_and_never_makes_it(race: Race) -> None:
    readings = {"batched": took(100), "batched_words": took(90), "fused": took(80)}
    result = summarise(race, readings)
    assert (result["best_peer"], result["ratio"], result["ratio_words"]) == ("batched", 100 / 80, 90 / 80)
    assert "ratio" not in summarise(race, {"batched_words": took(90), "fused": took(80)})


def test_the_engines_share_is_the_rate_after_the_start_beside_the_engine_alone(race: Race) -> None:
    readings = {"fused": took(100, steady_call_s_per_s=45.0), "bare_engine": took(80, bare_call_s_per_s=50.0)}
    assert summarise(race, readings)["engine_share"] == pytest.approx(0.9)


def test_only_the_peer_that_finds_words_is_told_to(race: Race) -> None:
    commands = {one.name: one.command(0) for one in race.contestants(["batched", "batched_words"])}
    assert "--words" in commands["batched_words"]
    assert "--words" not in commands["batched"]
