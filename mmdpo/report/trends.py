"""What became of hallucination and recall while the model trained: benchmarks at several steps."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from mmdpo.report.bars import PANELS
from mmdpo.report.curves import legend, points
from mmdpo.report.drawing import MARKERS, RUN_COLOURS, styled
from mmdpo.report.measures import Measure, foremost, measure
from mmdpo.report.reading import Run, series

_ABOUT = ("_low", "_high", "_change")
"""Ends of keys that tell more about a metric: its limits, its difference to the model before training."""
LINES = 5
"""Metrics of one panel; those without a role are left out first."""


def trends_figure(run: Run) -> Figure | None:
    """Metrics with 95% intervals over steps, one panel for each better direction.

    Args:
        run: Its `evaluations` have ``step``, and for each metric ``NAME``, ``NAME_low`` and ``NAME_high``.

    Returns:
        The figure, or None where no fraction with a better direction was measured while it trained.
    """
    known = {change.measure.name: change.measure for change in run.changes}
    keys = dict.fromkeys(key for event in run.evaluations for key in event if not key.endswith(_ABOUT))
    names = [key for key in keys if key != "step" and series(run.evaluations, key)[0]]
    measured = [known.get(name) or measure(name) for name in names]
    drawn = [found for found in measured if found.better and found.percent]
    panels = {
        title: chosen
        for better, title in PANELS.items()
        if (chosen := [found for found in drawn if found.better == better])
    }
    if not panels:
        return None
    with styled("trends"):
        layout = ConstrainedLayoutEngine(h_pad=0.16, w_pad=0.12)
        figure = Figure(figsize=(5.25 * len(panels), 4.2), layout=layout)
        for axes, (title, found) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            _panel(axes, title, found, run)
    return figure


def _panel(axes: Axes, title: str, found: list[Measure], run: Run) -> None:
    chosen = foremost(found, lambda one: one, LINES)
    left_out = len(found) - len(chosen)
    axes.set_title(title + (f" ({left_out} more in log.jsonl)" if left_out else ""))
    for one, colour, marker in zip(chosen, RUN_COLOURS, MARKERS, strict=False):
        points(axes, run.evaluations, one.name, colour=colour, label=one.label, marker=marker)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("optimizer step")
    axes.grid(axis="y")
    axes.tick_params(length=0)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.01), min(high, 1.01))
    legend(axes, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=3)
