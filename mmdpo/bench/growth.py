"""``mmdpo bench growth``: how time and memory of a step grow with pairs, image tokens, answers and their length."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmdpo.bench.arms import Arm
from mmdpo.bench.machine import machine
from mmdpo.bench.plans import Plan, arms_of, check, check_length
from mmdpo.bench.train import by_turns
from mmdpo.progress import Progress

AXES: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "pairs": ("batch", (1, 2, 4)),
    "image tokens": ("pixels", (112, 224, 336, 448)),
    "answers to a record (K)": ("candidates", (2, 4, 8)),
    "tokens of an answer": ("answer", (40, 90, 150, 400)),
}
"""What grows: the field of a side, and the values that are tried while all others stay at their defaults."""


@dataclass(frozen=True)
class Point:
    """One measurement.

    Args:
        axis: What grows.
        value: Its value.
        side: Who was measured.
        seconds: Median of a step.
        peak_bytes: Beyond weights and the optimizer's state.
    """

    axis: str
    value: int
    side: str
    seconds: float
    peak_bytes: int


def run(plan: Plan, progress: Progress = iter) -> dict[str, Any]:
    """Measures every axis, our side and the one that it is compared with.

    Args:
        plan: One shape, one length, one K: the point at which the axes meet.
        progress: Wraps long loops for a progress bar.

    Returns:
        ``machine``, ``at`` (the point where the axes meet) and ``points``: each a :class:`Point` as a dictionary.

    Raises:
        ConfigError: As for `mmdpo.bench.train.run`, or the shape's images do not come in several sizes.
        ParityError: The sides' first gradients differ.
    """
    for field, values in AXES.values():
        for arm in (arm for value in values for arm in sides_of(plan, field, value)):
            check_length(arm.shape, arm.model, arm.answer)
    check(plan)
    points = [
        entry
        for axis, field, value in progress([(name, f, v) for name, (f, values) in AXES.items() for v in values])
        for entry in _measure(plan, axis, field, value)
    ]
    at = {"shape": plan.shapes[0], "batch": plan.batch, "answer": plan.answers[0], "repeats": plan.repeats}
    return {"kind": "growth", "machine": machine(plan.device), "at": at, "points": [vars(point) for point in points]}


def _measure(plan: Plan, axis: str, field: str, value: int) -> list[Point]:
    arms = sides_of(plan, field, value)
    taken = by_turns(arms, plan.repeats)
    at = arms[0].model.image_tokens if field == "pixels" else value
    return [
        Point(
            axis,
            at,
            arm.name,
            statistics.median(turn[arm.name] for turn in taken.turns),
            taken.memory[arm.name]["peak_bytes"],
        )
        for arm in arms
    ]


def sides_of(plan: Plan, field: str, value: int) -> list[Arm]:
    """The sides at one value: ours and TRL's; where the number of answers grows, ours and our plain rows."""
    arms = arms_of(plan, plan.shapes[0], 2, plan.answers[0])
    if field == "candidates":
        ours = [arm for arm in arms if arm.kind == "shared"]
        arms = [*ours, replace(ours[0], kind="plain", reference="fresh")]
    return [_at(arm, field, value) for arm in arms]


def _at(arm: Arm, field: str, value: int) -> Arm:
    if field == "batch":
        return replace(arm, batch=value)
    if field == "pixels":
        return replace(arm, pixels=value)
    return replace(arm, candidates=value) if field == "candidates" else replace(arm, answer=value)


def exponent(points: Sequence[Mapping[str, Any]], axis: str, side: str, what: str) -> float | None:
    """The power with which something grows between the axis's two largest values; 1 is in proportion.

    Args:
        points: Of :func:`run`.
        axis: What grows.
        side: Who.
        what: ``"seconds"`` or ``"peak_bytes"``.
    """
    own = sorted((p for p in points if p["axis"] == axis and p["side"] == side), key=lambda point: point["value"])
    if len(own) < 2:
        return None
    low, high = own[-2:]
    return math.log(high[what] / low[what]) / math.log(high["value"] / low["value"])


def draw(found: Mapping[str, Any], folder: Path, name: str) -> list[Path]:
    """Writes the figure, SVG and PNG: seconds above, memory below, a column for each axis.

    Args:
        found: What :func:`run` gave.
        folder: Where to write.
        name: Of the files, without their endings.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    from mmdpo.report.drawing import BLUE, GREEN, MARKERS, ORANGE, PINK, save_figure, styled

    sides = list(dict.fromkeys(point["side"] for point in found["points"]))
    colours = dict(zip(sides, (BLUE, GREEN, ORANGE, PINK), strict=False))
    with styled(name):
        figure = Figure(figsize=(13, 6), layout="constrained")
        grid = figure.subplots(2, len(AXES), sharey="row")
        for (above, below), axis in zip(grid.T, AXES, strict=True):
            for side, colour in colours.items():
                own = [p for p in found["points"] if p["axis"] == axis and p["side"] == side]
                style = {"color": colour, "marker": MARKERS[sides.index(side)], "label": side}
                if own:
                    above.plot([p["value"] for p in own], [p["seconds"] for p in own], **style)
                    below.plot([p["value"] for p in own], [p["peak_bytes"] / 2**20 for p in own], **style)
            for panel in (above, below):
                panel.set(xscale="log", yscale="log")
                values = sorted({p["value"] for p in found["points"] if p["axis"] == axis})
                panel.set_xticks(values, [str(value) for value in values])
                panel.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")
                panel.minorticks_off()
                panel.grid(visible=True)
            below.set_xlabel(axis)
        grid[0, 0].set_ylabel("seconds a step")
        grid[1, 0].set_ylabel("peak MiB beyond weights")
        handles = {label: h for panel in grid[0] for h, label in zip(*panel.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=len(handles))
        return save_figure(figure, folder, name)
