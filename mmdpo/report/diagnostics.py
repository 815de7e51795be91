"""What the report shows of a run's diagnostics: warnings, curves, and the held-out values at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from mmdpo.report.curves import curve, legend, points
from mmdpo.report.drawing import BLUE, GREEN, GREY, INK, ORANGE, styled
from mmdpo.report.evaluated import number
from mmdpo.report.reading import Run

Events = Sequence[Mapping[str, Any]]
WARNING = ("rule", "metric", "split", "zone", "meaning", "attempt")
"""What is told of a warning, beside its numbers."""


@dataclass(frozen=True)
class Quantity:
    """A diagnostic as people read it.

    Args:
        key: Its name in the log, without the prefix of held-out pairs.
        label: Its name in words.
        meaning: What it says.
        unit: Written after the value; ``%`` turns a share into percent.
    """

    key: str
    label: str
    meaning: str
    unit: str = ""

    def written(self, value: float, signed: bool = False) -> str:
        """A value with its unit."""
        if self.unit == "%":
            return f"{100 * value:.1f}%"
        form = f"{value:+.3g}" if signed else f"{value:.3g}"
        return f"{form} {self.unit}".strip().replace("-", "−")


QUANTITIES = (
    Quantity("rewards/accuracies", "In the right order", "the chosen answer has the larger reward", "%"),
    Quantity("rewards/blind_accuracies", "The same, media hidden", "what needs no media to be right", "%"),
    Quantity("diagnostics/media_accuracy", "Media raise the reward", "of the chosen answer, 50% is chance", "%"),
    Quantity("diagnostics/media_gain", "Media gain", "how much likelier the media make the chosen answer", "nats"),
    Quantity("diagnostics/chosen_change", "Change of the chosen", "against the reference", "nats a token"),
    Quantity("diagnostics/chosen_drop", "Chosen answers that fell", "less likely than under the reference", "%"),
    Quantity("diagnostics/displacement", "Pairs that fell", "both answers less likely than under the reference", "%"),
    Quantity("diagnostics/length_gap", "Length gap", "chosen minus rejected answer", "tokens"),
    Quantity("diagnostics/length_correlation", "Length and margin", "correlation of length gap and reward margin"),
    Quantity("diagnostics/kl_k1", "KL, k1", "mean log-ratio of the chosen tokens", "nats a token"),
    Quantity("diagnostics/kl_k2", "KL, k2", "half its square", "nats a token"),
    Quantity("diagnostics/kl_k3", "KL, k3", "never negative", "nats a token"),
    Quantity("diagnostics/off_policy_gap", "Off-policy gap", "surprise beyond the reference's own", "nats a token"),
    Quantity("diagnostics/surprising_chosen", "Surprising answers", "chosen, above 2 nats a token", "%"),
)
"""What is shown of the held-out pairs, in this order."""


def warnings(run: Run) -> list[dict[str, str]]:
    """What was said while training, as the manifest keeps it, numbers written out."""
    said = run.manifest.get("advice")
    rows = []
    for entry in said if isinstance(said, list) else ():
        numbers = [number(entry.get(name)) for name in ("value", "pairs", "step")]
        value, pairs, step = (math.nan if read is None else read for read in numbers)
        written = {"value": f"{value:.3g}".replace("-", "−"), "pairs": f"{pairs:,.0f}", "step": f"{step:,.0f}"}
        rows.append({name: str(entry.get(name, "")) for name in WARNING} | written)
    return rows


def held_out(run: Run) -> list[dict[str, str]]:
    """The diagnostics of the last validation, in words."""
    if not run.validation:
        return []
    last = run.validation[-1]
    rows = []
    for quantity in QUANTITIES:
        value = number(last.get(quantity.key))
        if value is None:
            continue
        low, high = (number(last.get(f"{quantity.key}_{end}")) for end in ("low", "high"))
        bounds = "" if low is None or high is None else f"{quantity.written(low)} to {quantity.written(high)}"
        signed = quantity.key.endswith(("_change", "_gap", "_gain", "_correlation", "_k1"))
        written = quantity.written(value, signed)
        rows.append({"label": quantity.label, "meaning": quantity.meaning, "value": written, "bounds": bounds})
    return rows


def held_out_pairs(run: Run) -> int | None:
    """How many held-out pairs the last validation scored."""
    pairs = number(run.validation[-1].get("pairs")) if run.validation else None
    return None if pairs is None else int(pairs)


def diagnostics_figure(training: Events, validation: Events) -> Figure | None:
    """Four panels over steps: change of the chosen answers, distance, shares of pairs, use of the media and of length.

    Args:
        training: Events with ``step`` and ``diagnostics/...``.
        validation: The same of held-out pairs.

    Returns:
        The figure, or None where no event has a diagnostic.
    """
    if not any(key.startswith("diagnostics/") for event in (*training, *validation) for key in event):
        return None
    with styled("diagnostics"):
        figure = Figure(figsize=(10.5, 7.0), layout=ConstrainedLayoutEngine(h_pad=0.16, w_pad=0.12))
        (change, distance), (shares, correlation) = figure.subplots(2, 2)
        _change_panel(change, training, validation)
        _distance_panel(distance, training, validation)
        _shares_panel(shares, training, validation)
        _correlation_panel(correlation, training, validation)
        for axes in figure.axes:
            axes.grid(axis="y")
            axes.tick_params(length=0)
            legend(axes)
            if not axes.has_data():
                axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", color=GREY)
        for axes in (shares, correlation):
            axes.set_xlabel("optimizer step")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _change_panel(axes: Axes, training: Events, validation: Events) -> None:
    axes.set_title("Change of the chosen answers, nats a token")
    curve(axes, training, "diagnostics/chosen_change", colour=BLUE, label="training")
    points(axes, validation, "diagnostics/chosen_change", colour=GREEN, label="held-out")
    if axes.has_data():
        axes.axhline(0, color=INK, linewidth=1)


def _distance_panel(axes: Axes, training: Events, validation: Events) -> None:
    axes.set_title("Distance from the reference (KL), nats a token")
    curve(axes, training, "diagnostics/kl_k2", colour=BLUE, label="training, k2", line=(0, (5, 1.5)))
    curve(axes, training, "diagnostics/kl_k3", colour=BLUE, label="training, k3")
    points(axes, validation, "diagnostics/kl_k3", colour=GREEN, label="held-out, k3")


def _shares_panel(axes: Axes, training: Events, validation: Events) -> None:
    axes.set_title("Shares of the pairs")
    curve(axes, training, "diagnostics/displacement", colour=ORANGE, label="both answers fell")
    curve(axes, training, "diagnostics/saturated", colour=INK, label="no gradient left", line=(0, (1, 1)))
    curve(axes, training, "diagnostics/media_accuracy", colour=BLUE, label="media raise the reward", line=(0, (5, 1.5)))
    points(axes, validation, "diagnostics/displacement", colour=ORANGE, label="both fell, held-out", marker="s")
    points(axes, validation, "diagnostics/media_accuracy", colour=GREEN, label="media raise the reward, held-out")
    axes.set_ylim(-0.04, 1.04)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")


def _correlation_panel(axes: Axes, training: Events, validation: Events) -> None:
    axes.set_title("Correlation of length gap and margin")
    curve(axes, training, "diagnostics/length_correlation", colour=BLUE, label="training")
    points(axes, validation, "diagnostics/length_correlation", colour=GREEN, label="held-out")
    if axes.has_data():
        axes.axhline(0, color=INK, linewidth=1)
    axes.set_ylim(-1.04, 1.04)
