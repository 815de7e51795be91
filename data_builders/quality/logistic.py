"""Logistic regression on differences, held out by media and by answers: what can be told without the media."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from data_builders.quality.crossed import Floats, Places, crossed_estimate, units_of
from mmdpo.evals.stats import Metric, divide
from mmdpo.evals.stats import Sums as TotalsOf

FOLDS = 5
FINER_FOLDS = 20
"""Where answers recur: the smaller a held-out part, the fewer rows have an answer in common with it."""
FEWEST_GROUPS = 20
"""Media groups below which nothing is learned that could be held against others."""
MOST_ROWS = 20_000
"""Rows that are read, whole media groups in the order of their hashes: lists have many comparisons each."""
_PENALTY = 1.0
_STEPS = 60


class HeldOut(NamedTuple):
    """How often held-out rows are predicted.

    Args:
        unseen: Accuracy where neither the media nor an answer of a held-out row was learned from, as ``{"value",
            "low", "high", "n"}``; None where too little is left to learn from.
        seen: The same where its answers may have been learned from, with other media; None where no answer recurs.
        left_out: Rows that could not be predicted, because too little is left without their answers.
        trained_on: Share of the rows that was learned from, on average.
    """

    unseen: dict[str, Any] | None
    seen: dict[str, Any] | None
    left_out: int
    trained_on: float


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


def first_rows(groups: Sequence[str], most: int = MOST_ROWS) -> list[int]:
    """The places of so many rows at least, whole groups in the order of their hashes, or of all."""
    if len(groups) <= most:
        return list(range(len(groups)))
    names, place, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    order = np.argsort([_hash(str(name)) for name in names], kind="stable")
    enough = int(np.searchsorted(np.cumsum(sizes[order]), most)) + 1
    return np.flatnonzero(np.isin(place, order[:enough])).tolist()


def held_out_accuracy(rows: Any, signs: Floats, groups: Sequence[str], texts: Places) -> HeldOut | None:
    """Share of held-out rows whose sign is predicted, with its 95% interval; a tie counts one half.

    Every media group is held out once, in one of five folds that a hash of its name decides. Where answers recur, that
    alone would count an answer that is learned by heart as one that is told by its words. So there are twenty folds,
    and no row is learned from that has an answer in common with the fold. Where both signs occur their rows have the
    same weight together, and the accuracy is the mean of those of both signs: chance is one half.

    Args:
        rows: [n, features] differences of the features of two answers, or features of one answer.
        signs: [n] 1 or -1.
        groups: [n] media group of each row.
        texts: [n, answers] number of each answer's text, -1 for one that recurs by nature ("yes").

    Returns:
        The accuracies; None for fewer than twenty groups.
    """
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < FEWEST_GROUPS:
        return None
    hashes = np.array([_hash(str(name)) for name in names])[place]
    units = units_of(groups, texts)
    folds = hashes % FOLDS
    right, trained = _predicted(rows, signs, place, [(folds == fold, folds != fold) for fold in range(FOLDS)])
    by_media = _estimate(signs, right, units, trained)
    folds = hashes % FINER_FOLDS
    held = [folds == fold for fold in range(FINER_FOLDS)]
    parts = [(one, ~one & ~_shares(texts, one)) for one in held]
    if not any(_shares(texts, one)[~one].any() for one in held):
        return HeldOut(by_media, None, 0, trained)
    right, trained = _predicted(rows, signs, place, parts)
    left_out = int(np.isnan(right).sum())
    unseen = _estimate(signs, right, units, trained) if left_out <= len(right) / 2 else None
    return HeldOut(unseen, by_media, left_out, trained)


def _hash(name: str) -> int:
    return zlib.crc32(name.encode("utf-8", "surrogatepass"))


def _shares(texts: Places, held: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[n] whether a row has an answer of the held-out rows."""
    among = np.zeros(int(texts.max(initial=-1)) + 2, bool)  # the last place is that of -1
    among[texts[held]] = True
    among[-1] = False
    return np.asarray(among[texts].any(axis=1))


def _predicted(
    rows: Any, signs: Floats, place: Places, parts: Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_]]]
) -> tuple[Floats, float]:
    """[n] 1 where the sign of a held-out row is predicted, and the share of the rows that is learned from.

    A row is NaN where fewer than twenty media groups are left to learn from, or only one of two signs.
    """
    right, used = np.full(len(signs), math.nan), []
    for held, train in parts:
        if not held.any() or len(np.unique(place[train])) < FEWEST_GROUPS * (1 - 1 / FOLDS):
            continue
        if len(np.unique(signs[train])) < len(np.unique(signs)):
            continue
        scores = signs[held] * (rows[held] @ fit(rows[train], signs[train], balanced_weights(signs[train])))
        right[held] = 0.5 * (1 + np.sign(scores))
        used.append(train.mean())
    return right, float(np.mean(used)) if used else 0.0


def balanced_weights(signs: Floats) -> Floats:
    """[n] weights with which both signs count the same, of one sign all 1."""
    positive = signs > 0
    if positive.all() or not positive.any():
        return np.ones(len(signs))
    return np.where(positive, len(signs) / (2 * positive.sum()), len(signs) / (2 * (~positive).sum()))


def _estimate(signs: Floats, right: Floats, units: Sequence[Places], trained_on: float) -> dict[str, Any] | None:
    """The accuracy with its interval.

    Folds share most of what they learned from, so their errors go together: Nadeau and Bengio's correction (2003,
    "Inference for the generalization error"), 1 + folds * test / training under the root, which is 1 + 1 / (share that
    is learned from).
    """
    known = ~np.isnan(right)
    if not known.any():
        return None
    positive, hits = (signs[known] > 0).astype(float), right[known]
    columns = {"n+": positive, "right+": positive * hits, "n-": 1 - positive, "right-": (1 - positive) * hits}
    return crossed_estimate(columns, [rows[known] for rows in units], _ACCURACY, wider=math.sqrt(1 + 1 / trained_on))


def _balanced(sums: TotalsOf) -> Floats:
    both = [divide(sums[f"right{sign}"], sums[f"n{sign}"]) for sign in "+-"]
    counted = [~np.isnan(part) for part in both]
    total = sum(np.where(known, part, 0.0) for known, part in zip(counted, both, strict=True))
    return divide(np.asarray(total), np.asarray(sum(known.astype(float) for known in counted)))


_ACCURACY = Metric("accuracy", _balanced, lambda sums: sums["n+"] + sums["n-"])
