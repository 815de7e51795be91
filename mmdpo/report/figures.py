"""The figures of a run and of a data set."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from mmdpo.report.curves import curve, legend, or_else, points
from mmdpo.report.diagnostics import diagnostics_figure
from mmdpo.report.drawing import BLUE, GREEN, GREY, INK, ORANGE, PAGE, PINK, SKY, YELLOW, save_figure, styled
from mmdpo.report.measures import format_value
from mmdpo.report.reading import Change, read_run
from mmdpo.report.verdict import displacement


def write_figures(run: Path) -> list[Path]:
    """Writes the figures of a run folder as SVG and PNG into its ``figures/``.

    Returns:
        The files written; figures that have no data are left out.
    """
    read = read_run(run)
    figures = {
        "training": training_figure(read.training, read.validation),
        "diagnostics": diagnostics_figure(read.training, read.validation),
        "comparison": comparison_figure([(read.name, read.changes)]),
    }
    written = []
    for name, figure in figures.items():
        if figure is not None:
            written += save_figure(figure, run / "figures", name)
    return written


def training_figure(training: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Loss, implicit rewards, margin and accuracy over steps; validation as points with 95% intervals.

    Args:
        training: Events with ``step``, ``loss``, ``rewards/...``.
        validation: Events with the same keys and ``rewards/accuracies_low`` and ``_high``.

    Returns:
        The figure, or None where nothing was logged.
    """
    if not training and not validation:
        return None
    with styled("training"):
        figure = Figure(figsize=(10.5, 7.0), layout=ConstrainedLayoutEngine(h_pad=0.16, w_pad=0.12))
        (rewards, margin), (accuracy, loss) = figure.subplots(2, 2)
        _rewards_panel(rewards, training)
        _zero_panel(margin, "Margin (chosen − rejected)", "rewards/margins", training, validation)
        _accuracy_panel(accuracy, training, validation)
        _loss_panel(loss, training, validation)
        for axes in (rewards, margin, accuracy, loss):
            axes.grid(axis="y")
            axes.tick_params(length=0)
        for axes in (accuracy, loss):
            axes.set_xlabel("optimizer step")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _rewards_panel(axes: Axes, training: Sequence[Mapping[str, Any]]) -> None:
    axes.set_title("Implicit rewards: β · (policy − reference log-prob)")
    axes.axhline(0, color=INK, linewidth=1)
    curve(axes, training, "rewards/chosen", colour=BLUE, label="chosen")
    curve(axes, training, "rewards/rejected", colour=ORANGE, label="rejected", line=(0, (5, 1.5)))
    legend(axes)
    fallen = displacement(training)
    if fallen is not None:
        note = (
            f"Both end below zero ({fallen.chosen:.2f} and {fallen.rejected:.2f}): the chosen answers became less "
            "likely too (likelihood displacement)."
        ).replace("-", "−")
        axes.text(0.02, 0.04, textwrap.fill(note, 48), transform=axes.transAxes, color=ORANGE, fontsize=9)
        axes.margins(y=0.22)


def _zero_panel(
    axes: Axes, title: str, key: str, training: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]]
) -> None:
    axes.set_title(title)
    axes.axhline(0, color=INK, linewidth=1)
    curve(axes, training, key, colour=BLUE, label="training")
    points(axes, validation, key, colour=GREEN, label="validation")
    legend(axes)


def _accuracy_panel(axes: Axes, training: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]]) -> None:
    axes.set_title("Pairs in the right order")
    axes.axhline(0.5, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    curve(axes, training, "rewards/accuracies", colour=BLUE, label="training")
    points(axes, validation, "rewards/accuracies", colour=GREEN, label="validation (95% interval)")
    points(axes, validation, "rewards/blind_accuracies", colour=ORANGE, label="validation, media hidden", marker="s")
    axes.set_ylim(0, 1.04)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    legend(axes, loc="lower right")


def _loss_panel(axes: Axes, training: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]]) -> None:
    axes.set_title("Loss")
    terms = sorted({key for event in training for key in event if key.startswith("loss/")})
    curve(axes, training, "loss", colour=INK, label="total")
    if len(terms) > 1:
        styles = ((PINK, (0, (5, 1.5))), (GREEN, (0, (3, 1, 1, 1))), (ORANGE, (0, (1, 1))), (BLUE, "-."))
        for term, (colour, line) in zip(terms, styles, strict=False):
            curve(axes, training, term, colour=colour, label=term.removeprefix("loss/"), line=line)
    points(axes, validation, "loss", colour=GREEN, label="validation")
    legend(axes)


def comparison_figure(runs: Sequence[tuple[str, Sequence[Change]]]) -> Figure | None:
    """Bars with 95% intervals before and after training, one panel for each better direction.

    Args:
        runs: Name and changes of each run; the bars before training are those of the first.

    Returns:
        The figure, or None where no metric is a fraction with a better direction.
    """
    shown = [change for change in runs[0][1] if change.measure.better and change.measure.percent and change.after]
    panels = [
        (title, [change for change in shown if change.measure.better == better])
        for better, title in (("lower", "Lower is better ↓"), ("higher", "Higher is better ↑"))
    ]
    panels = [(title, changes) for title, changes in panels if changes]
    if not panels:
        return None
    bars = len(runs) + 1
    rows = max(len(changes) for _, changes in panels)
    with styled("comparison"):
        figure = Figure(figsize=(10.5, 1.1 + rows * (0.16 + 0.24 * bars)), layout="constrained")
        for axes, (title, changes) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _bars_panel(axes, title, changes, runs)
            axes.set_ylim(rows - 0.5, -0.5)  # the same rows in both panels, so that bars are equally thick
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


_RUN_COLOURS = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY)


def _bars_panel(
    axes: Axes, title: str, changes: Sequence[Change], runs: Sequence[tuple[str, Sequence[Change]]]
) -> None:
    axes.set_title(title)
    height = 0.8 / (len(runs) + 1)
    by_name = [{change.measure.name: change for change in run} for _, run in runs]
    tops = []
    for place in range(len(runs) + 1):
        colour = GREY if place == 0 else _RUN_COLOURS[(place - 1) % len(_RUN_COLOURS)]
        label = "before training" if place == 0 else "after training" if len(runs) == 1 else runs[place - 1][0]
        for row, change in enumerate(changes):
            found = change if place == 0 else by_name[place - 1].get(change.measure.name)
            estimate = None if found is None else found.before if place == 0 else found.after
            if estimate is None or estimate.value is None:
                continue
            y = row - 0.4 + height * (place + 0.5)
            axes.barh(y, estimate.value, height * 0.86, color=colour, label=label if row == 0 else None)
            low, high = or_else(estimate.low, estimate.value), or_else(estimate.high, estimate.value)
            axes.plot([low, high], [y, y], color=INK, linewidth=1.3, solid_capstyle="butt")
            written = format_value(change.measure, estimate.value)
            axes.annotate(written, (high, y), (5, 0), textcoords="offset points", va="center", fontsize=8.5)
            tops.append(high)
    axes.set_yticks(range(len(changes)), [_row_label(change) for change in changes])
    axes.set_xlim(0, 1.18 * max(tops, default=1.0) or 1.0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    axes.grid(axis="x")
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(length=0)
    axes.tick_params(axis="y", labelcolor=INK)


def _row_label(change: Change) -> str:
    n = change.after.n if change.after else None
    label = textwrap.fill(change.measure.label, 24)
    return f"{label}\nn = {n:,}" if n is not None else label


def histogram_figure(edges: Sequence[float], counts: Sequence[int], xlabel: str) -> Figure:
    """Counts between edges, for example the rating margins of the pairs that were made.

    Args:
        edges: ``len(counts) + 1`` ascending edges.
        counts: Items between neighbouring edges.
        xlabel: What is on the axis, with its unit.
    """
    with styled("histogram"):
        figure = Figure(figsize=(6.2, 3.0), layout="constrained")
        axes = figure.subplots()
        axes.bar(
            edges[:-1],
            counts,
            [right - left for left, right in itertools.pairwise(edges)],
            align="edge",
            color=BLUE,
            edgecolor=PAGE,
            linewidth=0.8,
        )
        axes.set_xlabel(xlabel)
        axes.set_ylabel("pairs")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.grid(axis="y")
        axes.tick_params(length=0)
    return figure
