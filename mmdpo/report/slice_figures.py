"""Slices of the failures as points with intervals, one row for each slice."""

from __future__ import annotations

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmdpo.report.drawing import GREY, INK, MARKERS, MUTED, RUN_COLOURS, styled
from mmdpo.report.slice_rows import Slice, SliceRow
from mmdpo.report.words import BEFORE

WIDTH = 5.6
"""In inches: two of them stand side by side in a page."""


def slice_figure(found: Slice) -> Figure:
    """Rates of failures with 95% intervals, those of each model below each other; slices of few answers are grey.

    Args:
        found: One slice or more.
    """
    columns = len(found.columns)
    with styled(found.name):
        figure = Figure(figsize=(WIDTH, 1.15 + len(found.rows) * (0.16 + 0.13 * columns)), layout="constrained")
        axes = figure.subplots()
        axes.set_title(f"{found.benchmark}: {found.title[:1].lower()}{found.title[1:]}")
        for place in range(columns):
            _column(axes, found, place)
        axes.set_yticks(range(len(found.rows)), [_label(row) for row in found.rows])
        for text, row in zip(axes.get_yticklabels(), found.rows, strict=True):
            text.set_color(MUTED if row.few else INK)
        axes.set_ylim(len(found.rows) - 0.5, -0.5)
        reach = _reach(found)
        axes.set_xlim(-0.02 * reach, reach)  # room for points at zero
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.grid(axis="x")
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=min(columns, 3))
    return figure


def _column(axes: Axes, found: Slice, place: int) -> None:
    """The points of one model."""
    name, step = found.columns[place], 0.78 / len(found.columns)
    run = place - (found.columns[0] == BEFORE)
    colour, marker = (GREY, "s") if run < 0 else (RUN_COLOURS[run % len(RUN_COLOURS)], MARKERS[run % len(MARKERS)])
    axes.plot([], [], color=colour, marker=marker, linestyle="none", markersize=5, label=name)
    for height, row in enumerate(found.rows):
        rate, y = row.rates[place], height + step * (place + 0.5) - 0.39
        if rate is None or rate.low is None or rate.high is None:
            continue
        faint = 0.45 if row.few else 1.0
        axes.plot([rate.low, rate.high], [y, y], color=colour, linewidth=1.5, alpha=faint, solid_capstyle="butt")
        axes.plot([rate.value], [y], color=colour, marker=marker, markersize=5, alpha=faint, clip_on=False)
        overall = row.overall[place] if row.overall else None
        if overall is not None:
            axes.plot([overall.value] * 2, [y - step * 0.45, y + step * 0.45], color=INK, linewidth=1.2)


def _label(row: SliceRow) -> str:
    """What it is of, and of how many answers."""
    sizes = [rate.n for rate in row.rates if rate is not None]
    n = f"{min(sizes):,}" if len(set(sizes)) == 1 else f"{min(sizes):,} to {max(sizes):,}"
    return f"{textwrap.fill(row.label, 30)}\nn = {n}{', few' if row.few else ''}"


def _reach(found: Slice) -> float:
    highs = [rate.high for row in found.rows for rate in row.rates if rate is not None and rate.high is not None]
    return min(1.02, 1.05 * max(highs, default=1.0))
