"""The reliability diagram: what probabilities said against what came true."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmdpo.evals.calibration import Predictions, calibration, summaries
from mmdpo.evals.yes_no import CERTAIN
from mmdpo.jsonfiles import read_json, read_json_lines
from mmdpo.report.drawing import GREY, INK, MARKERS, RUN_COLOURS, save_figure, styled
from mmdpo.report.items import group_of
from mmdpo.report.measures import in_words
from mmdpo.report.words import AFTER, BEFORE

Found = Mapping[str, Any]
"""A calibration as `mmdpo.evals.calibration.summaries` writes it."""
STAGES = ("base_eval", "eval")
TITLES = {
    "reward": "preferred answer, by the implicit reward",
    "reward_mean": "preferred answer, by the reward per token",
    "yes": "yes, among yes and no",
}
"""Whose probabilities they are."""


def read_calibrations(run: Path) -> dict[str, dict[str, Found]]:
    """The calibrations of a run or evaluation folder: ``BENCHMARK/WHOSE`` -> stage -> what was measured.

    They stand in ``calibration.json``. Of a benchmark without it they are made here, if its items have the probability
    of yes (``p_yes``) and a label of yes or no.
    """
    found: dict[str, dict[str, Found]] = {}
    for stage in STAGES:
        for folder in sorted(path for path in run.glob(f"{stage}/*") if path.is_dir()):
            written = folder / "calibration.json"
            made = read_json(written)["calibration"] if written.is_file() else _of_items(folder / "items.jsonl")
            for name, one in made.items():
                found.setdefault(f"{folder.name}/{name}", {})[stage] = one
    return found


def side_by_side(runs: Sequence[Path], labels: Sequence[str]) -> dict[str, dict[str, Found]]:
    """The calibrations of several runs: ``BENCHMARK/WHOSE`` -> model -> what was measured.

    Args:
        runs: The model before training is that of the first.
        labels: Their names, which one run alone goes without.
    """
    read = [read_calibrations(run) for run in runs]
    names = [AFTER] if len(runs) == 1 else labels
    found: dict[str, dict[str, Found]] = {}
    for name in dict.fromkeys(name for one in read for name in one):
        before = {BEFORE: read[0][name]["base_eval"]} if "base_eval" in read[0].get(name, {}) else {}
        after = {
            label: one[name]["eval"] for label, one in zip(names, read, strict=True) if "eval" in one.get(name, {})
        }
        found[name] = {**before, **after}
    return {name: models for name, models in found.items() if models}


def write_reliability(run: Path) -> list[Path]:
    """Writes ``figures/reliability.svg`` and ``.png`` of a run or evaluation folder; nothing without calibrations."""
    figure = reliability_figure(side_by_side([run], [""]))
    return [] if figure is None else save_figure(figure, run / "figures", "reliability")


def reliability_figure(calibrations: Mapping[str, Mapping[str, Found]]) -> Figure | None:
    """One panel for each kind of probability: share that came true over probability, with 95% intervals.

    Args:
        calibrations: As `side_by_side` gives them.

    Returns:
        The figure, or None where nothing was measured.
    """
    if not calibrations:
        return None
    across = min(2, len(calibrations))
    down = -(-len(calibrations) // across)
    most = max(len(models) for models in calibrations.values())
    with styled("reliability"):
        figure = Figure(figsize=(5.25 * across, (4.6 + 0.22 * most) * down), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).flat
        for (name, models), axes in zip(calibrations.items(), panels, strict=False):
            _panel(axes, title(name), models, start=0.0 if name.endswith("/yes") else 0.5)
        for axes in panels:  # those that are left over
            axes.set_visible(False)
    return figure


def title(name: str) -> str:
    """``pope/yes`` in words."""
    benchmark, _, whose = name.rpartition("/")
    return f"{in_words(benchmark)}: {TITLES.get(whose, whose)}"


def _of_items(path: Path) -> dict[str, Found]:
    rows = read_json_lines(path).rows
    return summaries({"yes": calibration(made)} if (made := _predictions(rows)) else {})


def _predictions(items: Iterable[Mapping[str, Any]]) -> Predictions | None:
    asked = [
        item for item in items if isinstance(item.get("p_yes"), float | int) and item.get("label") in ("yes", "no")
    ]
    if not asked:
        return None
    probabilities = np.array([item["p_yes"] for item in asked], dtype=np.float64)
    return Predictions(
        scipy.special.logit(np.clip(probabilities, CERTAIN, 1 - CERTAIN)),
        np.array([float(item["label"] == "yes") for item in asked]),
        [group_of(item) for item in asked],
    )


def _panel(axes: Axes, title: str, models: Mapping[str, Found], start: float) -> None:
    axes.set_title(title)
    axes.plot([start, 1], [start, 1], color=INK, linewidth=1, linestyle=(0, (2, 2)))
    looks = zip(RUN_COLOURS * len(models), MARKERS * len(models), strict=False)
    for label, found in models.items():
        colour, marker = (GREY, "s") if label == BEFORE else next(looks)
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
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.13))
