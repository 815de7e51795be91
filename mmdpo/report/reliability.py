"""The reliability diagram: what probabilities said against what came true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmdpo.jsonfiles import read_json
from mmdpo.report.drawing import BLUE, GREY, INK, save_figure, styled

STAGES = {"base_eval": ("before training", GREY, "s"), "eval": ("after training", BLUE, "o")}
TITLES = {
    "preferences/reward": "Preferred answer, by the implicit reward",
    "preferences/reward_mean": "Preferred answer, by the reward per token",
    "yes_no/yes": "Yes, among yes and no",
}


def read_calibrations(run: Path) -> dict[str, dict[str, Mapping[str, Any]]]:
    """The calibrations of a run or evaluation folder: ``BENCHMARK/WHOSE`` -> stage -> what was measured."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for stage in STAGES:
        for file in sorted(run.glob(f"{stage}/*/calibration.json")):
            for name, one in read_json(file)["calibration"].items():
                found.setdefault(f"{file.parent.name}/{name}", {})[stage] = one
    return found


def write_reliability(run: Path) -> list[Path]:
    """Writes ``figures/reliability.svg`` and ``.png`` of a run or evaluation folder; nothing without calibrations."""
    figure = reliability_figure(read_calibrations(run))
    return [] if figure is None else save_figure(figure, run / "figures", "reliability")


def reliability_figure(calibrations: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure | None:
    """One panel for each kind of probability: share that came true over probability, with 95% intervals.

    Args:
        calibrations: As `read_calibrations` gives them.

    Returns:
        The figure, or None where nothing was measured.
    """
    if not calibrations:
        return None
    with styled("reliability"):
        figure = Figure(figsize=(5.2 * len(calibrations), 5.0), layout="constrained")
        panels: Sequence[Axes] = figure.subplots(1, len(calibrations), squeeze=False)[0]
        for axes, (name, stages) in zip(panels, calibrations.items(), strict=True):
            _panel(axes, TITLES.get(name, name), stages, start=0.0 if name.endswith("/yes") else 0.5)
    return figure


def _panel(axes: Axes, title: str, stages: Mapping[str, Mapping[str, Any]], start: float) -> None:
    axes.set_title(title)
    axes.plot([start, 1], [start, 1], color=INK, linewidth=1, linestyle=(0, (2, 2)))
    for stage, found in stages.items():
        label, colour, marker = STAGES[stage]
        table, ece = found["table"], found["ece"]
        spread = [[row["outcome"] - row["low"] for row in table], [row["high"] - row["outcome"] for row in table]]
        axes.errorbar(
            [row["probability"] for row in table],
            [row["outcome"] for row in table],
            yerr=spread,
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.2,
            capsize=3,
            label=f"{label}: ECE {ece['value']:.3f} ({ece['low']:.3f} to {ece['high']:.3f})",
        )
    axes.set_xlabel("probability")
    axes.set_ylabel("share that came true")
    axes.set_xlim(start - 0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(axis="y")
    axes.tick_params(length=0)
    axes.legend(loc="upper left")
