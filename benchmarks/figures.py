"""Results as text and pictures.

A result is a suite's JSON document. `contestants` in it maps a name to measures, each a number or a spread {min,
median, max}; `curves` maps a title to {x, y, lines: {name: [[x, y], ...]}}. Both are optional; what is there is shown.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]

LEFT_OUT = ("circumstances", "spec", "command", "curves")
"""Parts of a result that are not figures to be compared."""

PLOTTED = ("call_s_per_s", "mb_per_s", "speech_s_per_s", "wall_s")
"""The measure that bars are drawn of: the first of these that every contestant has."""


def comparison(one: Result, other: Result, *, names: tuple[str, str]) -> str:
    """Every figure that both results have, side by side, and the second over the first.

    Raises ValueError where they are of different suites.
    """
    if one.get("suite") != other.get("suite"):
        raise ValueError(f"{names[0]} is of suite {one.get('suite')}, {names[1]} of {other.get('suite')}")
    left, right = dict(_figures(one)), dict(_figures(other))
    rows = [("", *names, "ratio")]
    for name in [name for name in left if name in right]:
        ratio = f"{right[name] / left[name]:.3f}" if left[name] else "-"
        rows.append((name, f"{left[name]:.4g}", f"{right[name]:.4g}", ratio))
    return _aligned(rows)


def table(result: Result) -> str:
    """The contestants as a Markdown table, medians with their range where there is one."""
    contestants = result.get("contestants", {})
    measures = list(dict.fromkeys(measure for measured in contestants.values() for measure in measured))
    lines = [f"| | {' | '.join(measures)} |", f"|---|{'---|' * len(measures)}"]
    for name, measured in contestants.items():
        lines.append(f"| {name} | {' | '.join(_cell(measured.get(measure)) for measure in measures)} |")
    return "\n".join(lines)


def plot(result: Result, path: Path) -> Path:
    """Draw a result: bars of the contestants, then its curves, into one PNG.

    Raises ValueError where it holds neither.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    curves = result.get("curves", {})
    num_panels = bool(result.get("contestants")) + len(curves)
    if not num_panels:
        raise ValueError(f"{result.get('suite')}: no contestants and no curves to draw")
    figure, axes = pyplot.subplots(1, num_panels, figsize=(6.5 * num_panels, 4.5), squeeze=False)
    panels = iter(axes[0])
    if result.get("contestants"):
        _bars(next(panels), result["contestants"])
    for title, curve in curves.items():
        _lines(next(panels), title, curve)
    figure.suptitle(f"{result.get('suite', '')}  {_origin(result)}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


def _bars(axes: Any, contestants: Mapping[str, Any]) -> None:
    measure = next(m for m in PLOTTED if all(m in measured for measured in contestants.values()))
    middle = [_median(measured[measure]) for measured in contestants.values()]
    low, high = ([_bound(measured[measure], key) for measured in contestants.values()] for key in ("min", "max"))
    errors = [
        [mid - lowest for mid, lowest in zip(middle, low, strict=True)],
        [highest - mid for mid, highest in zip(middle, high, strict=True)],
    ]
    positions = range(len(contestants))
    axes.barh(positions, middle, xerr=errors, capsize=4, color="#4878a8")
    axes.set_yticks(positions, list(contestants))
    axes.invert_yaxis()
    axes.set_xlim(right=1.15 * max(high))  # the longest bar's figure stands behind it
    for position, value in zip(positions, middle, strict=True):
        axes.text(value, position, f" {value:.3g}", va="bottom")
    axes.set_xlabel(f"{measure}, median and range")


def _lines(axes: Any, title: str, curve: Mapping[str, Any]) -> None:
    for name, points in curve["lines"].items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3, label=name)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(curve["x"])
    axes.set_ylabel(curve["y"])
    axes.set_xscale(curve.get("x_scale", "linear"))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _figures(result: Result, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number in a result with its dotted name; of a spread, the median."""
    for name, value in result.items():
        if not prefix and name in LEFT_OUT:
            continue
        if isinstance(value, Mapping):
            if set(value) == {"min", "median", "max"}:
                yield f"{prefix}{name}", float(value["median"])
            else:
                yield from _figures(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)


def _origin(result: Result) -> str:
    circumstances = result.get("circumstances", {})
    machine, git = circumstances.get("machine", {}), circumstances.get("git", {})
    return f"{machine.get('cpu', '')}, {machine.get('num_cpus', '?')} CPUs, {git.get('commit', '')[:8]}"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return f"{value['median']:.4g} ({value['min']:.4g}-{value['max']:.4g})"
    return f"{value:.4g}"


def _median(value: Any) -> float:
    return float(value["median"]) if isinstance(value, Mapping) else float(value)


def _bound(value: Any, key: str) -> float:
    return float(value[key]) if isinstance(value, Mapping) else float(value)


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
