"""Standard errors from the images themselves, and limits of rates in Wilson's form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.stats

Array = npt.NDArray[np.float64]

NO_VARIATION = 1e-12
"""A standard error below this is rounding."""
_LEAST_FREEDOM = 10
"""Below this the fourth moment of so few images says less than it costs; chosen by simulated coverage."""
_FEW_HITS = 3
"""Up to so many hits the nearer limit is Poisson's, as in the modified interval of Brown, Cai and DasGupta (2001)."""
_DOUBT = 0.5
"""Carriers at which half of what the jackknife says of clustering is believed; chosen by simulated coverage."""


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error.

    Attributes:
        value: The statistic.
        error: Its standard error.
        freedom: Degrees of freedom behind the error; infinite where it is not itself estimated.
        carriers: How many images carry the variation, 1 to the number of images.
    """

    value: float
    error: float
    freedom: float
    carriers: float

    def quantile(self, level: float) -> float:
        """The two-sided quantile of Student's t."""
        return float(scipy.stats.t.ppf(0.5 + level / 2, self.freedom))

    def half_width(self, level: float, groups: int, scale: float = 1.0) -> float:
        """Half the width of a t interval, or what ``groups`` equal images leave open where nothing varies.

        Args:
            level: Coverage.
            groups: Number of images.
            scale: Upper minus lower bound of the metric; 1 for a metric without bounds.
        """
        quantile = self.quantile(level)
        return quantile * self.error if self.error >= NO_VARIATION else scale * quantile**2 / (groups + quantile**2)


def influences(values: Array, statistic: Callable[[Array], Array]) -> Array:
    """What leaving out each group does to a statistic, minus the mean of that [groups].

    Args:
        values: Sums per group [groups, columns].
        statistic: From sums [..., columns] to values [...].
    """
    total = values.sum(0)
    without = statistic(total - values)
    without = np.where(np.isnan(without), statistic(total), without)  # the group that held the whole denominator
    return np.asarray(without - without.mean())


def jackknife(values: Array, statistic: Callable[[Array], Array]) -> Estimate:
    """The delete-one-group jackknife.

    The degrees of freedom are those that the deviations' fourth moment gives (Satterthwaite 1946): where a few images
    carry all the variation, as with rare hallucinations, the error is that of a few, not of all. For normal deviations
    it is the number of groups.

    Args:
        values: Sums per group [groups, columns].
        statistic: From sums [..., columns] to values [...].
    """
    groups = len(values)
    value = float(statistic(values.sum(0)))
    squares = influences(values, statistic) ** 2
    error = math.sqrt((groups - 1) / groups * float(squares.sum()))
    if error < NO_VARIATION:
        return Estimate(value, error, groups - 1, groups)
    concentration = float(((squares / squares.sum()) ** 2).sum())
    freedom = 2 / max(concentration - 1 / groups, 1e-12)
    return Estimate(value, error, min(groups - 1, max(_LEAST_FREEDOM, freedom)), 1 / concentration)


def wilson(rate: float, size: float, quantile: float) -> tuple[float, float]:
    """Wilson's limits for a rate (Wilson 1927, JASA 22:209).

    Args:
        rate: Hits / size.
        size: Sample size, or an effective one: ``rate (1 - rate) / error**2``.
        quantile: Of the normal or t distribution.

    Returns:
        Lower and upper limit.
    """
    squared = quantile**2
    centre = (rate + squared / (2 * size)) / (1 + squared / size)
    half = quantile / (1 + squared / size) * math.sqrt(rate * (1 - rate) / size + squared / (4 * size**2))
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))


def rate_limits(
    estimate: Estimate, groups: int, bounds: tuple[float, float], level: float, *, repaired: bool = True
) -> tuple[float, float]:
    """Limits of a bounded statistic: Wilson's, with two repairs where few images carry the variation.

    * The limit on the side of the nearer bound: Wilson's is too high with 1 to 3 hits (coverage down to .84), so there
      it is Poisson's.
    * The other limit: how much the answers about one image go together is hardly known from a few images with hits. At
      none, each image counts as one observation; the more images carry hits, the more the jackknife is believed.

    Args:
        estimate: The statistic; its error is not 0.
        groups: Number of images.
        bounds: Its least and greatest value, both finite.
        level: Coverage.
        repaired: Whether with the repairs.
    """
    least, width = bounds[0], bounds[1] - bounds[0]
    rate = min(1.0, max(0.0, (estimate.value - least) / width))
    mirrored = rate > 0.5
    rate = 1 - rate if mirrored else rate
    # The guard serves a rate of exactly 0 or 1 whose error is not 0, as functions other than a ratio can have.
    size = max(rate * (1 - rate) / (estimate.error / width) ** 2, 1.0)
    quantile, hits = estimate.quantile(level), rate * size
    near, far = wilson(rate, size, quantile)
    if repaired:
        if 0 < hits <= _FEW_HITS + 1e-9:  # 1 - .94 is a little more than .06
            near = min(near, float(scipy.stats.chi2.ppf(1 - level, 2 * hits)) / (2 * size))
        known = estimate.carriers / (estimate.carriers + _DOUBT)
        far = max(far, wilson(rate, min(size, groups + (size - groups) * known), quantile)[1])
    low, high = (1 - far, 1 - near) if mirrored else (near, far)
    return least + width * low, least + width * high
