"""Bars with intervals: every metric before and after training."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmdpo.report.curves import or_else
from mmdpo.report.drawing import GREY, INK, RUN_COLOURS, styled
from mmdpo.report.evaluated import Estimate
from mmdpo.report.measures import foremost, format_value
from mmdpo.report.reading import Change
from mmdpo.report.words import AFTER, BEFORE

BARS = 48
"""Most bars of a figure: more cannot be read. Those without a role are left out first."""
PANELS = {"lower": "Lower is better ↓", "higher": "Higher is better ↑"}


def comparison_figure(runs: Sequence[tuple[str, Sequence[Change]]]) -> Figure | None:
    """Bars with 95% intervals before and after training, one panel for each better direction.

    Args:
        runs: Name and changes of each run; the bars before training are those of the first.

    Returns:
        The figure, or None where no metric is a fraction with a better direction.
    """
    drawn = [change for change in runs[0][1] if change.measure.better and change.measure.percent and change.after]
    shown = foremost(drawn, lambda change: change.measure, BARS // (len(runs) + 1))
    panels = {
        title: chosen
        for better, title in PANELS.items()
        if (chosen := [change for change in shown if change.measure.better == better])
    }
    if not panels:
        return None
    row = 0.14 + 0.17 * (len(runs) + 1)
    heights = [0.75 + row * len(changes) for changes in panels.values()]
    with styled("comparison"):
        figure = Figure(figsize=(10.5, sum(heights) + 0.4), layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (title, changes) in zip(grid, panels.items(), strict=True):
            _panel(axes, title, changes, runs)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
        if len(shown) < len(drawn):
            note = f"{len(shown)} of {len(drawn)} measures; all are in the table"
            figure.text(0.995, 0.005, note, ha="right", fontsize=8.5)
    return figure


def _panel(axes: Axes, title: str, changes: Sequence[Change], runs: Sequence[tuple[str, Sequence[Change]]]) -> None:
    axes.set_title(title)
    height = 0.82 / (len(runs) + 1)
    tops = []
    for place, (label, colour, estimates) in enumerate(_columns(changes, runs)):
        for row, (change, estimate) in enumerate(zip(changes, estimates, strict=True)):
            if estimate is None or estimate.value is None:
                continue
            y = row - 0.41 + height * (place + 0.5)
            axes.barh(y, estimate.value, height * 0.86, color=colour, label=label if row == 0 else None)
            low, high = or_else(estimate.low, estimate.value), or_else(estimate.high, estimate.value)
            axes.plot([low, high], [y, y], color=INK, linewidth=1.3, solid_capstyle="butt")
            written = format_value(change.measure, estimate.value)
            axes.annotate(written, (high, y), (5, 0), textcoords="offset points", va="center", fontsize=8.5)
            tops.append(high)
    axes.set_yticks(range(len(changes)), [_row_label(change) for change in changes])
    axes.set_ylim(len(changes) - 0.5, -0.5)
    axes.set_xlim(0, 1.1 * max(tops, default=1.0) or 1.0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%" if value <= 1.0001 else "")
    axes.grid(axis="x")
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(length=0)
    axes.tick_params(axis="y", labelcolor=INK)


def _columns(
    changes: Sequence[Change], runs: Sequence[tuple[str, Sequence[Change]]]
) -> list[tuple[str, str, list[Estimate | None]]]:
    """Label, colour and values of each model, the one before training first."""
    columns = [(BEFORE, GREY, [change.before for change in changes])]
    for (name, own), colour in zip(runs, RUN_COLOURS * len(runs), strict=False):
        after: Mapping[str, Estimate | None] = {change.measure.name: change.after for change in own}
        label = AFTER if len(runs) == 1 else name
        columns.append((label, colour, [after.get(change.measure.name) for change in changes]))
    return columns


def _row_label(change: Change) -> str:
    n = change.after.n if change.after else None
    label = textwrap.fill(change.measure.label, 32)
    return f"{label}  (n = {n:,})" if n is not None else label
