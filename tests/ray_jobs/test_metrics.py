"""Levels of an ASR engine, from what came to its sums."""

import pytest

from ray_jobs.metrics import asr_levels

ADDED = {"num_windows": 30.0, "num_tokens": 900.0, "audio_s": 810.0, "window_s": 900.0, "up_s": 20.0, "busy_s": 15.0}


def test_speed_padding_and_idleness() -> None:
    assert asr_levels(ADDED) == {
        "windows_per_s": 1.5,
        "tokens_per_s": 45.0,
        "padding_share": pytest.approx(0.1),
        "idle_share": 0.25,
    }


def test_of_an_engine_that_did_nothing_are_nothing() -> None:
    assert set(asr_levels(dict.fromkeys(ADDED, 0.0)).values()) == {0.0}


def test_of_another_engine_there_are_none() -> None:
    assert asr_levels({"num_prompts": 4.0, "up_s": 1.0}) == {}
