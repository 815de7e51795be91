"""Raters who use a scale differently, brought onto one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from data_builders.rating.pairing import Rating

MIN_RATINGS = 5
"""With fewer, a rater's own mean and spread say more of the captions that came by chance than of the rater."""


@dataclass(frozen=True)
class Scale:
    """How one rater, or all together, use the scale.

    Args:
        n: Ratings.
        mean: Their mean.
        deviation: Their standard deviation.
    """

    n: int
    mean: float
    deviation: float


@dataclass(frozen=True)
class RaterScales:
    """The scale of each rater and of all together, for each aspect.

    Args:
        raters: By aspect and rater.
        everybody: By aspect.
    """

    raters: Mapping[tuple[str | None, str], Scale]
    everybody: Mapping[str | None, Scale]

    @classmethod
    def of(cls, ratings: Iterable[Rating]) -> RaterScales:
        """The scales of some ratings, read once."""
        raters: dict[tuple[str | None, str], list[float]] = {}
        everybody: dict[str | None, list[float]] = {}
        for rating in ratings:
            for running in (
                raters.setdefault((rating.aspect, rating.rater), [0, 0.0, 0.0]) if rating.rater_is_named else None,
                everybody.setdefault(rating.aspect, [0, 0.0, 0.0]),
            ):
                if running is not None:
                    _add(running, rating.value)
        return cls({key: _scale(r) for key, r in raters.items()}, {key: _scale(r) for key, r in everybody.items()})

    def standardised(self, rating: Rating) -> float:
        """The rating as if its rater had the mean and spread of all raters, in units of the scale.

        A rater with fewer than five ratings, or with equal ones alone, has no scale that could be told: such ratings
        stay as they are.
        """
        own = self.raters.get((rating.aspect, rating.rater)) if rating.rater_is_named else None
        if own is None or not _has_scale(own):
            return rating.value
        all_raters = self.everybody[rating.aspect]
        return all_raters.mean + (rating.value - own.mean) / own.deviation * all_raters.deviation

    def notes(self) -> list[str]:
        """Whose ratings stay as they are."""
        without = sum(not _has_scale(scale) for scale in self.raters.values())
        if not without:
            return []
        return [
            f"{without} of {len(self.raters)} raters gave fewer than {MIN_RATINGS} ratings or always the same one: "
            "theirs are not standardised"
        ]


def _has_scale(scale: Scale) -> bool:
    return scale.n >= MIN_RATINGS and scale.deviation > 0


def _add(running: list[float], value: float) -> None:
    """Count, mean and sum of squared deviations, updated without cancellation (Welford 1962)."""
    running[0] += 1
    before = value - running[1]
    running[1] += before / running[0]
    running[2] += before * (value - running[1])


def _scale(running: list[float]) -> Scale:
    n, mean, squares = running
    return Scale(int(n), mean, math.sqrt(squares / n))
