"""Hallucination at fixed coverage: what captions would score if they all stopped at the same number of named objects.

A model that says less hallucinates less, so rates of two models can only be compared where both cover as much. Each
caption is read up to its k-th mention of an object, with one k for all captions (shorter ones are read whole). As k
grows, recall and mentions per caption grow, and the rates with them. k is set so that recall, or mentions per caption,
is exactly the target; between two whole numbers, a share of the captions is read one mention further, which is what
linear interpolation of all sums means. The rates are those of CHAIR at that k.

The sums of every reading depth are kept for each image (`depth_counts`), so that the jackknife over images finds k anew
each time: the interval holds the uncertainty of k too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmdpo.errors import ConfigError
from mmdpo.evals.stats import Array, Metric, Sums, divide

Kind = Literal["recall", "objects"]
KINDS: tuple[Kind, ...] = ("recall", "objects")

_DEPTH = re.compile(r"mention_(\d+)")
_TARGET = re.compile(r"at_(recall|objects)=(.+)")
_EXACT = 1e-12


@dataclass(frozen=True)
class Target:
    """A level of coverage.

    Attributes:
        kind: ``recall``, the share of present objects that are named, or ``objects``, mentions per caption.
        level: Above 0; a recall at most 1.
    """

    kind: Kind
    level: float

    @classmethod
    def read(cls, kind: Kind, level: float | str) -> Target:
        """A target from an option.

        Raises:
            ConfigError: The level is no number that can be reached.
        """
        try:
            number = float(level)
        except ValueError:
            number = 0.0
        if not 0 < number <= (1 if kind == "recall" else 1e6):
            raise ConfigError(
                f"at_{kind} {level!r} is no coverage",
                why="Rates are given where captions cover that much.",
                fix="Give a recall above 0 and up to 1, such as 0.7, or mentions per caption, such as 4.",
            )
        return cls(kind, number)

    def __str__(self) -> str:
        return f"at {self.kind} {self.level:g}"

    @property
    def column(self) -> str:
        """A sum that is always 0, by whose name the target is known from saved items."""
        return f"at_{self.kind}={self.level!r}"


def targets(columns: Collection[str]) -> list[Target]:
    """The targets that some columns name, recall first."""
    levels = {match[1]: match[2] for column in columns if (match := _TARGET.fullmatch(column))}
    return [Target.read(kind, levels[kind]) for kind in KINDS if kind in levels]


def depth_counts(named: Sequence[str], present: Collection[str]) -> dict[str, float]:
    """What each mention of a caption adds, by its place in the caption, from 1.

    Args:
        named: Categories that the caption names, in order, repeats included.
        present: Categories that are in the image.

    Returns:
        ``mention_K``; ``wrong_K`` for an absent object, ``first_wrong_K`` for the caption's first; ``new_K`` for a
        present object that is named for the first time.
    """
    counts: dict[str, float] = {}
    seen: set[str] = set()
    wrong_before = False
    for place, category in enumerate(named, 1):
        wrong = category not in present
        counts[f"mention_{place}"] = 1.0
        counts[f"wrong_{place}"] = float(wrong)
        counts[f"first_wrong_{place}"] = float(wrong and not wrong_before)
        counts[f"new_{place}"] = float(not wrong and category not in seen)
        wrong_before |= wrong
        seen.add(category)
    return counts


def fixed_metrics(target: Target) -> list[Metric]:
    """CHAIR's rates at a target, and the other coverage there."""
    end = f"_at_{target.kind}"

    def count(sums: Sums) -> Array:
        return np.asarray(sums["captions"], dtype=np.float64)

    def mentions(sums: Sums) -> Array:
        depth = _curves(sums)["mention"]
        return np.where(np.isnan(reading := _reading(sums, target)["mention"]), depth[-1], reading)

    def chair_i(sums: Sums) -> Array:
        reading = _reading(sums, target)
        return divide(reading["wrong"], reading["mention"])

    def chair_s(sums: Sums) -> Array:
        return divide(_reading(sums, target)["first_wrong"], count(sums))

    def recall(sums: Sums) -> Array:
        return divide(_reading(sums, target)["new"], sums["present"])

    def objects(sums: Sums) -> Array:
        return divide(_reading(sums, target)["mention"], count(sums))

    rates = [
        Metric(f"chair_s{end}", chair_s, count, better="lower", role="hallucination"),
        Metric(f"chair_i{end}", chair_i, mentions, better="lower", role="hallucination"),
    ]
    if target.kind == "objects":
        return [*rates, Metric(f"recall{end}", recall, count, role="coverage")]
    return [*rates, Metric(f"objects_per_caption{end}", objects, count, (0.0, np.inf), "neither")]


def _curves(sums: Sums) -> Mapping[str, Array]:
    """Sums over the first k mentions, by name [K + 1, ...], k from 0."""
    deepest = max((int(match[1]) for column in sums if (match := _DEPTH.fullmatch(column))), default=0)
    none = np.zeros_like(np.asarray(sums["captions"], dtype=np.float64))
    curves = {}
    for name in ("mention", "wrong", "first_wrong", "new"):
        steps = [np.asarray(sums.get(f"{name}_{place}", none)) for place in range(1, deepest + 1)]
        curves[name] = np.cumsum(np.stack([none, *steps]), axis=0)
    return curves


def _reading(sums: Sums, target: Target) -> Mapping[str, Array]:
    """The sums at the depth where the coverage is that of the target; NaN where it is never reached."""
    curves = _curves(sums)
    covered, whole = ("new", "present") if target.kind == "recall" else ("mention", "captions")
    coverage = np.nan_to_num(divide(curves[covered], np.broadcast_to(sums[whole], curves[covered].shape)))
    enough = coverage >= target.level - _EXACT
    above = enough.argmax(axis=0)[None]
    below = np.maximum(above - 1, 0)
    low, high = (np.take_along_axis(coverage, depth, 0) for depth in (below, above))
    share = np.clip(np.nan_to_num(divide(target.level - low, high - low)), 0.0, 1.0)
    reached = enough.any(axis=0)
    reading = {}
    for name, curve in curves.items():
        first, last = (np.take_along_axis(curve, depth, 0) for depth in (below, above))
        reading[name] = np.where(reached, (first + share * (last - first))[0], np.nan)
    return reading
