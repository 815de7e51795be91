"""Weights that change over a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Le
from pydantic import Field

from mmdpo.objectives.links import Choice, NotNegative

Share = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True, kw_only=True)
class Linear(Choice):
    """From one weight to another in a straight line, and constant from then on.

    Args:
        start: Weight at the first step.
        end: Weight from ``share`` of the run on.
        share: Share of the run's optimizer steps over which it changes.
    """

    name: Literal["linear"] = "linear"
    start: NotNegative = 0.0
    end: NotNegative = 1.0
    share: Share = 1.0

    def at(self, progress: float) -> float:
        """The weight when ``progress`` (0..1) of the run is done."""
        return self.start + (self.end - self.start) * min(1.0, progress / self.share)


@dataclass(frozen=True, kw_only=True)
class Warmup(Choice):
    """From 0 to a weight in a straight line, and constant from then on.

    Args:
        weight: Weight from ``share`` of the run on.
        share: Share of the run's optimizer steps that the warm-up takes.
    """

    name: Literal["warmup"] = "warmup"
    weight: NotNegative = 1.0
    share: Share = 0.1

    def at(self, progress: float) -> float:
        """The weight when ``progress`` (0..1) of the run is done."""
        return self.weight * min(1.0, progress / self.share)


Schedule = Annotated[Linear | Warmup, Field(discriminator="name")]


def weight_at(weight: float | Schedule, progress: float) -> float:
    """A weight, fixed or scheduled, when ``progress`` (0..1) of the run is done."""
    return weight.at(progress) if isinstance(weight, Linear | Warmup) else weight


def always_zero(weight: float | Schedule) -> bool:
    """Whether a weight, fixed or scheduled, is 0 over the whole run."""
    return weight_at(weight, 0.0) == 0 and weight_at(weight, 1.0) == 0
