"""Logged values over steps, as lines and as points with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from mmdpo.report.evaluated import number
from mmdpo.report.reading import series

SMOOTH_FROM = 40
"""Curves with at least this many points get a running mean over the faint raw values."""


def curve(
    axes: Axes, events: Sequence[Mapping[str, Any]], key: str, *, colour: str, label: str, line: Any = "-"
) -> None:
    """Draws a logged value over steps, with a running mean where there are many; nothing where it was not logged."""
    steps, values = series(events, key)
    if not steps:
        return
    if len(values) < SMOOTH_FROM:
        axes.plot(steps, values, color=colour, linestyle=line, label=label)
        return
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.9)
    axes.plot(steps, _running_mean(values, len(values) // 20), color=colour, linestyle=line, label=label)


def points(
    axes: Axes, events: Sequence[Mapping[str, Any]], key: str, *, colour: str, label: str, marker: str = "o"
) -> None:
    """Draws a value of held-out pairs over steps, with its interval where it has one."""
    steps, values = series(events, key)
    if not steps:
        return
    rows = [event for event in events if number(event.get(key)) is not None]
    spread = [
        [max(0.0, value - (or_else(row.get(f"{key}_low"), value))) for row, value in zip(rows, values, strict=True)],
        [max(0.0, or_else(row.get(f"{key}_high"), value) - value) for row, value in zip(rows, values, strict=True)],
    ]
    axes.errorbar(
        steps, values, yerr=spread, color=colour, marker=marker, markersize=5, linewidth=1.2, capsize=3, label=label
    )


def or_else(value: Any, default: float) -> float:
    """A number from JSON, or a default where there is none."""
    read = number(value)
    return default if read is None else read


def _running_mean(values: Sequence[float], half: int) -> list[float]:
    """Centred mean over up to ``2 half + 1`` values, narrower at the ends so that nothing is invented there."""
    means = []
    for index in range(len(values)):
        reach = min(half, index, len(values) - 1 - index)
        window = values[index - reach : index + reach + 1]
        means.append(sum(window) / len(window))
    return means


def legend(axes: Axes, **where: Any) -> None:
    """A legend, where anything was drawn."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(**where)
