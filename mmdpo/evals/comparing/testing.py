"""p-values of two models on the same images, and what many comparisons at once do to them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import scipy.stats

from mmdpo.errors import ConfigError, did_you_mean
from mmdpo.evals.estimates import Array

Correction = Literal["holm", "bh", "by", "none"]
CORRECTIONS: dict[str, str] = {
    "holm": "Holm's correction",
    "bh": "Benjamini and Hochberg's correction",
    "by": "Benjamini and Yekutieli's correction",
    "none": "no correction",
}
assert set(CORRECTIONS) == set(get_args(Correction))

_CELLS_AT_ONCE = 20_000_000


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact test, two-sided (McNemar 1947, Psychometrika 12:153).

    Args:
        gained: Images on which only the second model is right.
        lost: Images on which only the first is.
    """
    return float(scipy.stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def swap_test(
    a: Array, b: Array, value: Callable[[Array], Array], *, permutations: int = 9999, seed: int = 0
) -> tuple[float, bool]:
    """Two-sided p-value of no difference: if there is none, either model could have given either's answers.

    Every image's answers are swapped between the models or not. With so few differing images that there are no more
    ways than ``permutations + 1``, all are tried, otherwise some at random.

    Args:
        a: Sums per image of the first model [images, columns].
        b: The same of the second.
        value: The metric: from sums [..., columns] to values [...].
        permutations: Random swaps; the smallest possible p-value is then ``1 / (permutations + 1)``.
        seed: Of the swaps.

    Returns:
        The p-value, and whether it is exact.
    """
    total_a, total_b = a.sum(0), b.sum(0)
    # The tolerance counts differences that are equal but for rounding as at least as large.
    observed = abs(float(value(total_b) - value(total_a)))
    observed -= 1e-12 * max(1.0, observed)
    change = (b - a)[np.any(a != b, axis=1)]

    def as_large(swaps: Array) -> int:
        moved = swaps @ change
        return int((np.abs(value(total_b - moved) - value(total_a + moved)) >= observed).sum())

    if 2 ** len(change) <= permutations + 1:
        ways = np.array(list(itertools.product((0.0, 1.0), repeat=len(change)))).reshape(2 ** len(change), len(change))
        return as_large(ways) / len(ways), True
    generator = np.random.default_rng(seed)
    found, left = 0, permutations
    while left:
        draws = min(left, max(1, _CELLS_AT_ONCE // len(change)))
        found += as_large(generator.integers(0, 2, (draws, len(change))).astype(np.float64))
        left -= draws
    return (1 + found) / (permutations + 1), False


def adjusted(p_values: Sequence[float], method: str = "holm") -> list[float]:
    """p-values corrected for their number, in the same order; below .05 means the same as for a single one.

    Args:
        p_values: One of each comparison.
        method: ``holm`` bounds the chance of any false finding, whatever the comparisons have in common (Holm 1979,
            Scand. J. Statist. 6:65); ``bh`` bounds the share of false findings among all, for comparisons that do not
            oppose each other (Benjamini and Hochberg 1995, JRSS B 57:289); ``by`` the same for any comparisons
            (Benjamini and Yekutieli 2001, Ann. Statist. 29:1165); ``none`` leaves them.

    Raises:
        ConfigError: There is no such method.
    """
    if method not in CORRECTIONS:
        raise ConfigError(
            f"unknown correction {method!r}",
            why=did_you_mean(method, list(CORRECTIONS)),
            fix=f"Choose one of {', '.join(CORRECTIONS)}.",
        )
    if method == "none" or not p_values:
        return list(p_values)
    if method != "holm":
        return [float(p) for p in scipy.stats.false_discovery_control(p_values, method=method)]
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
