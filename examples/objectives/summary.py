"""From the rows of all runs to tables, a figure, and the page in docs/ that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from arms import ARMS
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from measures import METRICS, Rows, Scene, against

from mmdpo.evals.comparing.paired import paired_difference
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
        ``base`` and ``arms``: of each metric the value, its interval over the scenes of all seeds, and the value of
        each seed; of each arm also ``against_base`` and ``against_dpo``, the same of differences paired by scene.
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
    return {
        name: interval(table, metric).to_json() | {"seeds": [_value(of_seed, metric) for of_seed in scenes.values()]}
        for name, metric in METRICS.items()
    }


def _differences(first: Mapping[int, Sequence[Scene]], second: Mapping[int, Sequence[Scene]]) -> dict[str, Any]:
    return {name: _difference(first, second, metric) for name, metric in METRICS.items()}


def _difference(
    first: Mapping[int, Sequence[Scene]], second: Mapping[int, Sequence[Scene]], metric: Metric
) -> dict[str, Any]:
    # one permutation: the p-value is not used
    gap = paired_difference(_all(first), _all(second), metric, permutations=1)
    seeds = [_value(second[seed], metric) - _value(first[seed], metric) for seed in first]
    return {"value": gap.value, "low": gap.low, "high": gap.high, "seeds": seeds}


def _value(scenes: Iterable[Scene], metric: Metric) -> float:
    return float(metric.value(Table.of(scenes).sums()))


def tables(results: Numbers) -> str:
    """The results as Markdown."""
    arms: Mapping[str, Any] = results["arms"]
    base = ["before training", *(_cell(results["base"][name], name) for name in BEHAVIOUR)]
    values = [base, *([f"`{arm}`", *_cells(entry["values"], BEHAVIOUR)] for arm, entry in arms.items())]
    mechanism = [
        [f"`{arm}`", *_cells(entry["values"], MECHANISM), *_cells(entry["against_base"], IN_NATS, "+")]
        for arm, entry in arms.items()
    ]
    parts = [
        "### What the models say",
        _table(["", *_headings(BEHAVIOUR)], values),
        "### What became of the held-out pairs",
        _table(["", *_headings(MECHANISM), *_headings(IN_NATS, ", change")], mechanism),
    ]
    for title, key, names in (
        ("### Differences from the model before training", "against_base", BEHAVIOUR),
        (f"### Differences from `{COMPARED}`", "against_dpo", DIFFERENCES),
    ):
        rows = [[f"`{arm}`", *_cells(entry[key], names, "+")] for arm, entry in arms.items() if key in entry]
        parts += [title, _table(["", *_headings(names)], rows)]
    parts += ["### Learning rates", _tuning(results["tuning"])]
    return "\n\n".join(parts)


def _tuning(scores: Mapping[str, Mapping[str, float]]) -> str:
    """The score of every learning rate that was tried, the best in bold."""
    rates = list(next(iter(scores.values()), ()))
    rows = []
    for arm, of_arm in scores.items():
        best = max(of_arm.values())
        marked = (f"**{100 * score:.1f}**" if score == best else f"{100 * score:.1f}" for score in of_arm.values())
        rows.append([f"`{arm}`", *marked])
    return _table(["", *rates], rows)


def _headings(names: Iterable[str], more: str = "") -> list[str]:
    return [SHOWN[name] + more for name in names]


def _cells(entries: Numbers, names: Iterable[str], sign: str = "") -> list[str]:
    return [_cell(entries[name], name, sign) for name in names]


def _cell(entry: Numbers, name: str, sign: str = "") -> str:
    """A value with its 95% interval; of a difference, which has a sign, also the range over seeds."""
    factor = 1 if name in (*IN_NATS, "words") else 100
    digits = 2 if name == "chosen" else 1

    def written(value: float) -> str:
        return f"{factor * value:{sign}.{digits}f}"

    seeds = f" ({written(min(entry['seeds']))} to {written(max(entry['seeds']))})" if sign else ""
    return f"{written(entry['value'])} [{written(entry['low'])}, {written(entry['high'])}]{seeds}"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


PANELS = {
    "usual": "Usual object named though absent, %",
    "recall": "Present objects named, %",
    "pope_accuracy": "POPE adversarial: right answers, %",
    "displacement": "Pairs of which both answers fell, %",
    "chosen": "Chosen answer: change in nats a token",
    "media": "Media margin: change in nats",
}


def figure(results: Numbers) -> Figure:
    """One panel for each of six numbers: dots are seeds, lines 95% intervals, dashed is the model before training."""
    arms = list(results["arms"])
    with styled("objectives"):
        layout = ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.12)
        drawn = Figure(figsize=(11.0, 1.6 + 0.44 * len(arms)), layout=layout)
        all_axes = list(drawn.subplots(2, 3, sharey=True).flat)
        for axes, (name, title) in zip(all_axes, PANELS.items(), strict=True):
            change = name in IN_NATS
            factor = 1 if change else 100
            entries = [results["arms"][arm]["against_base" if change else "values"][name] for arm in arms]
            for row, (arm, entry) in enumerate(zip(arms, entries, strict=True)):
                colour = ORANGE if arm == COMPARED else GREY if ARMS[arm].form == "shuffled" else BLUE
                low, high = factor * entry["low"], factor * entry["high"]
                axes.plot([low, high], [row, row], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
                axes.plot([factor * value for value in entry["seeds"]], [row] * len(entry["seeds"]), ".", color=colour)
            untrained = 0.0 if change else factor * results["base"][name]["value"]
            axes.axvline(untrained, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.set_title(title, fontsize=10)
            axes.set_yticks(range(len(arms)), arms)
            axes.grid(axis="x")
            axes.tick_params(length=0)
        all_axes[0].invert_yaxis()  # shared: the first arm stands on top of all panels
    return drawn


def write_docs(results: Numbers, page: Path) -> None:
    """Puts figure and tables between the page's two marks; the figure lies beside it, ``figures/objectives.png``."""
    text = page.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    picture = page.parent / "figures" / "objectives.png"
    shown = f"![Six numbers of each arm, with 95% intervals](figures/{picture.name})"
    page.write_text(f"{before}\n\n{shown}\n\n{tables(results)}\n\n{after}", encoding="utf-8")
    picture.parent.mkdir(exist_ok=True)
    with styled("objectives"):
        figure(results).savefig(picture, format="png", facecolor="white", dpi=110, metadata={"Software": None})
