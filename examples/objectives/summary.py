"""From the rows of all runs to tables, a figure, and the page in docs/ that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from arms import ARMS
from matplotlib.figure import Figure
from measures import METRICS, Rows, Scene, against

from mmdpo.evals.paired import paired_difference
from mmdpo.evals.stats import Metric, Table, interval
from mmdpo.jsonfiles import read_json
from mmdpo.report.drawing import BLUE, GREY, INK, ORANGE, styled

Numbers = Mapping[str, Any]
BEGIN, END = "<!-- results: written by experiment.py -->", "<!-- end of results -->"
COMPARED = "dpo"
IN_NATS = ("chosen", "media")
SHOWN = {
    "usual": "usual object ↓",
    "chair_i": "CHAIR_i ↓",
    "recall": "recall ↑",
    "pope_f1": "POPE adv. F1 ↑",
    "pope_accuracy": "POPE adv. acc. ↑",
    "words": "words",
    "accuracy": "pairs right",
    "blind": "pairs right, blind",
    "displacement": "both fell ↓",
    "chosen": "chosen, nats a token",
    "media": "media margin, nats",
}
"""Headings; arrows where one direction is better."""
BEHAVIOUR = ("usual", "chair_i", "recall", "pope_f1", "pope_accuracy", "words")
MECHANISM = ("accuracy", "blind", "displacement")
DIFFERENCES = ("usual", "recall", "pope_accuracy", "displacement", "chosen", "media")


def summarise(base: Mapping[int, Path], arms: Mapping[str, Mapping[int, Path]]) -> dict[str, Any]:
    """Every number of every arm.

    Args:
        base: Result file of the base model by seed.
        arms: Result file by arm and seed.

    Returns:
        ``base`` and ``arms``: of each metric the value with its interval over the scenes of all seeds; of each arm also
        ``against_base`` and ``against_dpo``, differences paired by scene with the range over seeds.
    """
    untrained = {seed: read_json(path)["rows"] for seed, path in base.items()}
    before = _pooled(untrained, untrained)
    after = {
        name: _pooled(untrained, {seed: read_json(path)["rows"] for seed, path in of_seeds.items()})
        for name, of_seeds in arms.items()
    }
    found: dict[str, Any] = {"base": _values(before), "arms": {}}
    for name, scenes in after.items():
        entry = {"values": _values(scenes), "against_base": _differences(before, scenes)}
        if COMPARED in after and name != COMPARED:
            entry["against_dpo"] = _differences(after[COMPARED], scenes)
        found["arms"][name] = entry
    return found


def _pooled(base: Mapping[int, Rows], rows: Mapping[int, Rows]) -> dict[int, list[Scene]]:
    return {seed: against(base[seed], of_seed, seed) for seed, of_seed in rows.items()}


def _all(scenes: Mapping[int, Sequence[Scene]]) -> list[Scene]:
    return [scene for of_seed in scenes.values() for scene in of_seed]


def _values(scenes: Mapping[int, Sequence[Scene]]) -> dict[str, Any]:
    table = Table.of(_all(scenes))
    return {name: interval(table, metric).to_json() for name, metric in METRICS.items()}


def _differences(first: Mapping[int, Sequence[Scene]], second: Mapping[int, Sequence[Scene]]) -> dict[str, Any]:
    return {name: _difference(first, second, metric) for name, metric in METRICS.items()}


def _difference(
    first: Mapping[int, Sequence[Scene]], second: Mapping[int, Sequence[Scene]], metric: Metric
) -> dict[str, Any]:
    # one permutation: the p-value is not used
    gap = paired_difference(_all(first), _all(second), metric, permutations=1)
    seeds = [_value(second[seed], metric) - _value(first[seed], metric) for seed in first]
    return {"value": gap.value, "low": gap.low, "high": gap.high, "seeds": [min(seeds), max(seeds)]}


def _value(scenes: Iterable[Scene], metric: Metric) -> float:
    return float(metric.value(Table.of(scenes).sums()))


def tables(results: Numbers) -> str:
    """The results as Markdown."""
    arms = results["arms"]
    rates = {name: max(scores, key=scores.__getitem__) for name, scores in results["tuning"].items()}
    headings = ["", "learning rate", *(SHOWN[name] for name in BEHAVIOUR)]
    rows = [["base model", "", *(_cell(results["base"][name], name) for name in BEHAVIOUR)]]
    rows += [[f"`{arm}`", f"{rates[arm]:g}", *(_cell(arms[arm]["values"][n], n) for n in BEHAVIOUR)] for arm in arms]
    parts = [_table(headings, rows)]
    headings = ["", *(SHOWN[name] for name in MECHANISM), *(f"{SHOWN[name]}, change" for name in IN_NATS)]
    parts.append(
        _table(
            headings,
            [
                [f"`{arm}`"]
                + [_cell(arms[arm]["values"][name], name) for name in MECHANISM]
                + [_cell(arms[arm]["against_base"][name], name, sign="+") for name in IN_NATS]
                for arm in arms
            ],
        )
    )
    for against_what in ("against_base", "against_dpo"):
        rows = [
            [f"`{arm}`", *(_cell(entry[against_what][name], name, sign="+") for name in DIFFERENCES)]
            for arm, entry in arms.items()
            if against_what in entry
        ]
        parts.append(_table([against_what.replace("_", " "), *(SHOWN[name] for name in DIFFERENCES)], rows))
    return "\n\n".join(parts)


def _cell(entry: Numbers, name: str, sign: str = "") -> str:
    """A value with its 95% interval, and the range over seeds where it is known."""
    whole = name in (*IN_NATS, "words")
    factor = 1 if whole else 100
    digits = 2 if name == "chosen" else 1
    value, low, high = (f"{factor * entry[key]:{sign}.{digits}f}" for key in ("value", "low", "high"))
    seeds = [f"{factor * value:{sign}.{digits}f}" for value in entry.get("seeds", ())]
    return f"{value} [{low}, {high}]" + (f" ({seeds[0]} to {seeds[1]})" if seeds else "")


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


PANELS = {
    "usual": "Usual object named though absent",
    "recall": "Present objects named",
    "pope_accuracy": "POPE adversarial, accuracy",
    "displacement": "Held-out pairs of which both answers fell",
    "chosen": "Chosen answer: change in nats a token",
    "media": "Media margin: change in nats",
}


def figure(results: Numbers) -> Figure:
    """One panel for each of six numbers, one line for each arm, with 95% intervals; dashed: the base model."""
    arms = list(results["arms"])
    with styled("objectives"):
        drawn = Figure(figsize=(11.0, 1.6 + 0.44 * len(arms)), layout="constrained")
        for place, (axes, (name, title)) in enumerate(
            zip(drawn.subplots(2, 3, sharey=True).flat, PANELS.items(), strict=True)
        ):
            change = name in IN_NATS
            factor = 1 if change else 100
            for row, arm in enumerate(arms):
                entry = results["arms"][arm]["against_base" if change else "values"][name]
                value, low, high = (factor * entry[key] for key in ("value", "low", "high"))
                colour = ORANGE if arm == COMPARED else GREY if ARMS[arm].form == "shuffled" else BLUE
                axes.plot([low, high], [row, row], color=colour, linewidth=2.2, solid_capstyle="butt")
                axes.plot(value, row, color=colour, marker="o", markersize=4.5)
            untrained = 0.0 if change else factor * results["base"][name]["value"]
            axes.axvline(untrained, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.set_title(title + ("" if change else ", %"), fontsize=10)
            axes.set_yticks(range(len(arms)), arms)
            axes.grid(axis="x")
            axes.tick_params(length=0)
            if place == 0:
                axes.invert_yaxis()  # shared: the first arm stands on top of all panels
    return drawn


def write_docs(results: Numbers, page: Path) -> None:
    """Puts the tables between the page's two marks, and the figure beside it into ``figures/objectives.png``."""
    text = page.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    page.write_text(f"{before}\n\n{tables(results)}\n\n{after}", encoding="utf-8")
    picture = page.parent / "figures" / "objectives.png"
    picture.parent.mkdir(exist_ok=True)
    with styled("objectives"):
        figure(results).savefig(picture, format="png", facecolor="white", dpi=110, metadata={"Software": None})
