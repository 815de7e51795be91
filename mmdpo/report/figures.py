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

from mmdpo.report.bars import comparison_figure
from mmdpo.report.curves import curve, legend, points
from mmdpo.report.diagnostics import diagnostics_figure
from mmdpo.report.drawing import BLUE, GREEN, INK, ORANGE, PAGE, PINK, save_figure, styled
from mmdpo.report.reading import read_run
from mmdpo.report.reliability import reliability_figure, side_by_side
from mmdpo.report.slice_figures import slice_figure
from mmdpo.report.slices import slices
from mmdpo.report.trends import trends_figure
from mmdpo.report.verdict import displacement


def write_figures(run: Path) -> list[Path]:
    """Writes the figures of a run folder as SVG and PNG into its ``figures/``.

    Returns:
        The files written; figures that have no data are left out.
    """
    read = read_run(run)
    found, _ = slices([read], [read.name])
    figures = {
        "training": training_figure(read.training, read.validation),
        "diagnostics": diagnostics_figure(read.training, read.validation),
        "comparison": comparison_figure([(read.name, read.changes)]),
        "trends": trends_figure(read),
        "reliability": reliability_figure(side_by_side([run], [read.name])),
        **{f"slices_{one.name}": slice_figure(one) for one in found},
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
