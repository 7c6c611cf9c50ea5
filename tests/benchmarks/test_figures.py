"""Results side by side, as a table and as a picture."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import figures


def a_result(rate: float, suite: str = "pipeline") -> dict[str, Any]:
    spread = {"min": rate - 1, "median": rate, "max": rate + 1}
    return {
        "suite": suite,
        "contestants": {"ours": {"call_s_per_s": spread}},
        "circumstances": {"git": {"commit": "c"}},
    }


def test_two_results_are_compared_figure_by_figure() -> None:
    lines = figures.comparison(a_result(10.0), a_result(15.0), names=("before", "after")).splitlines()
    assert lines[0].split() == ["before", "after", "ratio"]
    assert lines[1].split() == ["contestants.ours.call_s_per_s", "10", "15", "1.500"]


def test_results_of_two_suites_are_not_compared() -> None:
    with pytest.raises(ValueError, match="a is of suite pipeline, b of asr"):
        figures.comparison(a_result(1.0), a_result(1.0, suite="asr"), names=("a", "b"))


def test_a_table_shows_the_range_beside_the_median() -> None:
    assert figures.table(a_result(10.0)).splitlines()[-1] == "| ours | 10 (9-11) |"


def test_a_plot_is_a_png_and_nothing_to_draw_is_said(tmp_path: Path) -> None:
    assert figures.plot(a_result(10.0), tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no contestants and no curves"):
        figures.plot({"suite": "x"}, tmp_path / "b.png")
