"""Do probabilities come true? Reliability by bins, calibration error, Brier score, and the temperature that would help.

A prediction is a logit z, its probability sigmoid(z), and an outcome between 0 and 1. Predictions about one image stand
or fall together, so the image is what is drawn at random.

* **Bins** hold equally many predictions (as far as equal probabilities, which stay together, let them), because bins of
  equal width leave most of them empty. There are ten, and fewer where they would hold less than twenty.
* **ECE** is the mean over predictions of |mean probability - mean outcome| of their bin. It is biased upwards: chance
  alone gives a calibrated model more than 0. What chance gives is reported beside it, and the interval allows for it.
* **Temperature** T: the one number for which sigmoid(z / T) makes the outcomes most likely (Guo et al. 2017, "On
  Calibration of Modern Neural Networks", section 4.2). Above 1 the probabilities were too sure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.special
import scipy.stats

from mmdpo.evals.estimates import wilson
from mmdpo.evals.stats import Array, Interval, Metric, Sums, divide, ratio

BINS = 10
"""Bins, where there are enough predictions."""
LEAST_IN_BIN = 20
FOLDS = 5
_STEEPEST = 1e3
"""Largest inverse temperature that is looked for: beyond it all outcomes are told apart by the sign of the logit."""


class Predictions(NamedTuple):
    """Predictions and what came true.

    Args:
        logits: [n]; the probability is the logistic function of it.
        outcomes: [n] between 0 and 1.
        groups: [n] the image of each.
    """

    logits: Array
    outcomes: Array
    groups: Sequence[str]

    @property
    def probabilities(self) -> Array:
        """[n]."""
        return np.asarray(scipy.special.expit(self.logits))


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram.

    Attributes:
        n: Predictions.
        groups: Images.
        probability: Their mean probability.
        outcome: Their mean outcome.
        low: Lower limit of the outcome, Wilson's for so many images.
        high: Upper limit.
    """

    n: int
    groups: int
    probability: float
    outcome: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """How far probabilities can be believed.

    Attributes:
        n: Predictions.
        groups: Images.
        ece: Expected calibration error with its interval.
        chance: The ECE that chance alone would give a calibrated model on as many images.
        brier: Mean squared error of the probabilities.
        temperature: With limits; None where no temperature helps, for then the order of the logits says nothing.
        ece_after: The ECE at that temperature, fitted on other images than it is measured on.
        table: The bins, by ascending probability.
    """

    n: int
    groups: int
    ece: Interval
    chance: float
    brier: float
    temperature: Interval | None
    ece_after: float | None
    table: Sequence[Bin]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        plain = {**vars(self), "ece": self.ece.to_json(), "table": [vars(row) for row in self.table]}
        return {**plain, "temperature": self.temperature and self.temperature.to_json()}


def bins_for(n: int) -> int:
    """How many bins so many predictions fill."""
    return min(BINS, max(1, n // LEAST_IN_BIN))


def places(probabilities: npt.ArrayLike, bins: int) -> npt.NDArray[np.int64]:
    """[n] the bin of each probability: as equally full as equal probabilities, which stay together, let them be."""
    values = np.asarray(probabilities, dtype=np.float64)
    edges = np.quantile(values, np.arange(1, bins) / bins)
    return np.searchsorted(edges, values, side="right")


def squared_error(probability: npt.ArrayLike, outcome: npt.ArrayLike) -> Array:
    """Brier's squared error; an outcome between 0 and 1 is the share of 1 among outcomes of 0 and 1."""
    p, y = np.asarray(probability, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    return y * (1 - p) ** 2 + (1 - y) * p**2


def bin_counts(name: str, place: int, probability: float, outcome: float) -> dict[str, float]:
    """What one prediction adds to each sum, for `metrics`."""
    return {
        f"{name}_predictions": 1.0,
        f"{name}_squares": float(squared_error(probability, outcome)),
        f"{name}_gap{place}": probability - outcome,
    }


def metrics(name: str) -> list[Metric]:
    """Brier score and ECE, from sums that `bin_counts` made; ``name`` is whose probabilities they are."""

    def count(sums: Sums) -> Array:
        return sums[f"{name}_predictions"]

    def ece(sums: Sums) -> Array:
        absent = np.zeros_like(count(sums))
        gaps = [np.abs(sums.get(f"{name}_gap{place}", absent)) for place in range(BINS)]
        return divide(np.sum(gaps, axis=0), count(sums))

    squares = "mean squared error of the probabilities"
    error = "distance between probability and what came true, mean over equally full bins"
    return [
        ratio(f"{name}_brier", f"{name}_squares", f"{name}_predictions", better="lower", meaning=squares),
        Metric(f"{name}_ece", ece, count, better="lower", meaning=error),
    ]


def calibration(
    predictions: Predictions, *, bins: int | None = None, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Calibration:
    """Everything about one set of predictions.

    Args:
        predictions: One or more.
        bins: How many, at most; by default `bins_for` them.
        level: Coverage of the intervals.
        draws: Bootstrap samples.
        seed: Of the draws.
    """
    probabilities, outcomes = predictions.probabilities, predictions.outcomes
    bins = bins or bins_for(len(outcomes))
    names, group = np.unique(np.asarray(predictions.groups), return_inverse=True)
    place = places(probabilities, bins)
    gaps, sizes = np.zeros((len(names), bins)), np.bincount(group, minlength=len(names)).astype(np.float64)
    np.add.at(gaps, (group, place), probabilities - outcomes)
    ece, chance = _ece_interval(gaps, sizes, level, draws, seed)
    temperature = _temperature_interval(predictions, group, level)
    return Calibration(
        n=len(outcomes),
        groups=len(names),
        ece=ece,
        chance=chance,
        brier=float(squared_error(probabilities, outcomes).mean()),
        temperature=temperature,
        ece_after=None if temperature is None else _ece_after(predictions, group, bins),
        table=_table(probabilities, outcomes, group, place, level),
    )


def _table(probabilities: Array, outcomes: Array, group: Any, place: Any, level: float) -> list[Bin]:
    quantile, rows = float(scipy.stats.norm.ppf(0.5 + level / 2)), []
    for number in np.unique(place):
        own = place == number
        groups, outcome = len(np.unique(group[own])), float(outcomes[own].mean())
        # one observation for each image: how much its predictions go together is not known from one bin
        low, high = wilson(outcome, groups, quantile)
        rows.append(Bin(int(own.sum()), groups, float(probabilities[own].mean()), outcome, low, high))
    return rows


def _ece_interval(gaps: Array, sizes: Array, level: float, draws: int, seed: int) -> tuple[Interval, float]:
    """ECE with its limits, and what chance gives a calibrated model.

    Drawing the images again adds the bias a second time: a percentile bootstrap never covers a small ECE. Here the
    bias is taken away: twice from the lower limit (or the quantile is mirrored, if that is lower), once from the upper
    limit, by simulated coverage. And 0 is within the limits unless the ECE is larger than that of all but 1 - level of
    the draws whose bins are centred, as those of a calibrated model are.

    Args:
        gaps: [groups, bins] sums of probability minus outcome.
        sizes: [groups] predictions.
        level: Coverage.
        draws: Bootstrap samples.
        seed: Of the draws.
    """
    groups, total, n = len(gaps), gaps.sum(0), float(sizes.sum())
    value = float(np.abs(total).sum()) / n
    if groups < 2:
        return Interval(value, 0.0, 1.0, int(n)), value
    if not gaps.any():  # as elsewhere where nothing varies: what so many images leave open
        squared = float(scipy.stats.norm.ppf(0.5 + level / 2)) ** 2
        return Interval(value, 0.0, squared / (groups + squared), int(n)), 0.0
    weights = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), draws)
    drawn_sizes = weights @ sizes
    drawn = weights @ gaps
    repeated = np.abs(drawn).sum(1) / drawn_sizes
    by_chance = np.abs(drawn - np.outer(drawn_sizes / n, total)).sum(1) / drawn_sizes
    least, most = np.quantile(repeated, [(1 - level) / 2, (1 + level) / 2])
    bias = float(repeated.mean()) - value
    low = max(0.0, min(2 * value - float(most), float(least) - 2 * bias))
    low = 0.0 if value <= np.quantile(by_chance, level) else min(low, value)
    high = max(value, 2 * value - float(least), float(most) - bias)
    return Interval(value, low, min(1.0, high), int(n)), float(by_chance.mean())


def best_temperature(logits: Array, outcomes: Array) -> float | None:
    """The temperature of largest likelihood.

    Returns:
        None where no temperature makes the outcomes likelier than probabilities of one half do; 0 where every outcome
        is on its logit's side, so that no probability could be too sure.
    """

    def slope(inverse: float) -> float:
        return float((logits * (outcomes - scipy.special.expit(inverse * logits))).sum())

    if slope(0.0) <= 0:
        return None
    if slope(_STEEPEST) >= 0:
        return 0.0
    return 1 / float(scipy.optimize.brentq(slope, 0.0, _STEEPEST, xtol=1e-10))


def _temperature_interval(predictions: Predictions, group: Any, level: float) -> Interval | None:
    """The temperature with limits from the images' scores (the sandwich; Liang and Zeger 1986), on its logarithm."""
    logits, outcomes, _ = predictions
    n = len(outcomes)
    value = best_temperature(logits, outcomes)
    if value is None:
        return None
    groups = int(group.max()) + 1
    if value == 0.0 or groups < 2:
        return Interval(value, 0.0, None, n, percent=False)
    probabilities = scipy.special.expit(logits / value)
    scores = np.bincount(group, logits * (outcomes - probabilities))
    information = float((logits**2 * probabilities * (1 - probabilities)).sum())
    error = math.sqrt(groups / (groups - 1) * float((scores**2).sum())) / information * value
    half = float(scipy.stats.t.ppf(0.5 + level / 2, groups - 1)) * error
    return Interval(value, value * math.exp(-half), value * math.exp(half), n, percent=False)


def _ece_after(predictions: Predictions, group: Any, bins: int) -> float | None:
    """The ECE when each fifth of the images gets the temperature of the others; None where one of these has none."""
    logits, outcomes, _ = predictions
    scaled = np.empty_like(logits)
    for fold in range(FOLDS):
        own = group % FOLDS == fold
        value = best_temperature(logits[~own], outcomes[~own])
        if not value:
            return None
        scaled[own] = logits[own] / value
    probabilities = scipy.special.expit(scaled)
    gaps = np.bincount(places(probabilities, bins), probabilities - outcomes)
    return float(np.abs(gaps).sum()) / len(outcomes)


def told(name: str, found: Calibration) -> str:
    """One sentence about a calibration, for the flags of a result."""
    start = f"{name}_calibration: ECE {found.ece.value:.3f} ({found.ece.low:.3f} to {found.ece.high:.3f}; chance alone "
    start += f"gives {found.chance:.3f}), Brier {found.brier:.3f}; "
    if found.temperature is None:
        return start + "no temperature helps: larger logits are not more often right"
    if found.temperature.value == 0.0:
        return start + "every outcome is on its logit's side, so no temperature can be fitted"
    limits = f"({found.temperature.low:.2f} to {found.temperature.high:.2f})"
    after = "" if found.ece_after is None else f" and leave an ECE of {found.ece_after:.3f}"
    return start + f"a temperature of {found.temperature.value:.2f} {limits} would fit best{after}"


def summaries(found: Mapping[str, Calibration]) -> dict[str, Any]:
    """Calibrations by name as plain values, the form of ``calibration.json``."""
    return {name: one.to_json() for name, one in found.items()}
