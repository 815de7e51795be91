"""Logistic regression on differences, cross-validated by media group: what can be told without the media."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from data_builders.intervals import estimate_of_table
from mmdpo.evals.stats import Metric, Table, divide
from mmdpo.evals.stats import Sums as TotalsOf

FOLDS = 5
FEWEST_GROUPS = 20
"""Media groups below which nothing is learned that could be held against others."""
_WIDER = math.sqrt(1 + FOLDS / (FOLDS - 1))
"""Folds share most of what they learned from, so their errors go together: Nadeau and Bengio's correction of the
standard error (2003, "Inference for the generalization error"), 1 + folds * test / training under the root."""
_PENALTY = 1.0
_STEPS = 60

Floats = NDArray[np.float64]


def fit(rows: Any, signs: Floats, weights: Floats) -> Floats:
    """The coefficients that minimise ``sum_i w_i log(1 + exp(-s_i x_i b)) + |b|^2 / 2``.

    Args:
        rows: [n, features] dense or sparse.
        signs: [n] 1 or -1.
        weights: [n] what each row counts.

    Returns:
        [features] of them; no intercept, so that exchanged answers get the opposite prediction.
    """

    def loss(coefficients: Floats) -> tuple[float, Floats]:
        scores = signs * (rows @ coefficients)
        slope = -weights * signs * expit(-scores)
        value = float(weights @ np.logaddexp(0.0, -scores)) + 0.5 * _PENALTY * float(coefficients @ coefficients)
        return value, np.asarray(rows.T @ slope).ravel() + _PENALTY * coefficients

    start = np.zeros(rows.shape[1])
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _STEPS}).x)


def held_out_accuracy(rows: Any, signs: Floats, groups: Sequence[str]) -> dict[str, Any] | None:
    """Share of held-out rows whose sign is predicted, with its 95% interval over groups; a tie counts one half.

    Every group is held out once, in one of five folds that a hash of its name decides. Where both signs occur their
    rows have the same weight together, and the accuracy is the mean of those of both signs: chance is one half.

    Args:
        rows: [n, features] differences of the features of two answers, or features of one answer.
        signs: [n] 1 or -1.
        groups: [n] media group of each row.

    Returns:
        ``{"value", "low", "high", "n"}``; None for fewer than twenty groups.
    """
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < FEWEST_GROUPS:
        return None
    fold = np.array([zlib.crc32(str(name).encode("utf-8", "surrogatepass")) % FOLDS for name in names])[place]
    weights = np.ones(len(signs))
    if len(set(signs.tolist())) > 1:
        weights = np.where(signs > 0, len(signs) / (2 * (signs > 0).sum()), len(signs) / (2 * (signs < 0).sum()))
    right = np.full(len(signs), 0.5)
    for one in range(FOLDS):
        held = fold == one
        if held.any() and not held.all():
            scores = signs[held] * (rows[held] @ fit(rows[~held], signs[~held], weights[~held]))
            right[held] = 0.5 * (1 + np.sign(scores))
    positive = (signs > 0).astype(float)
    columns = {"n+": positive, "right+": positive * right, "n-": 1 - positive, "right-": (1 - positive) * right}
    sums = [np.bincount(place, weights=column, minlength=len(names)) for column in columns.values()]
    found = estimate_of_table(Table([str(name) for name in names], list(columns), np.stack(sums, axis=1)), _ACCURACY)
    for side, bound in (("low", max), ("high", min)):
        if found[side] is not None:
            found[side] = bound(float(side == "high"), found["value"] + _WIDER * (found[side] - found["value"]))
    return found


def _balanced(sums: TotalsOf) -> Floats:
    both = [divide(sums[f"right{sign}"], sums[f"n{sign}"]) for sign in "+-"]
    counted = [~np.isnan(part) for part in both]
    total = sum(np.where(known, part, 0.0) for known, part in zip(counted, both, strict=True))
    return divide(np.asarray(total), np.asarray(sum(known.astype(float) for known in counted)))


_ACCURACY = Metric("accuracy", _balanced, lambda sums: sums["n+"] + sums["n-"])
