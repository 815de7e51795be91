"""Win rates at equal length, and the strengths of several models, from judged pairs of answers.

* **Length-controlled win rate** (Dubois, Galambosi, Liang and Hashimoto 2024, arXiv:2404.04475, equation 2 without the
  term of the instruction's difficulty, which takes many models to estimate): logistic regression
  ``logit P(first wins) = strength + slope * tanh(difference of lengths / its standard deviation)``; the value is
  ``sigmoid(strength)``, the rate at equal length. Lengths are characters. A tie counts half. The estimate is Firth's
  (1993, Biometrika 80:27), which stays finite where one model always wins or length tells all.
* **Bradley-Terry strengths** (Bradley and Terry 1952): ``P(i beats j) = sigmoid(s_i - s_j)``, ties as half a win each,
  strengths with mean 0. Every model also wins half a game and loses half a game against an opponent of strength 0, so
  that a model that never lost has a finite strength; intervals are made as that of the win rate at equal length.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse.linalg
import scipy.special
import scipy.stats

from mmdpo.evals.stats import Array, Interval

IMAGINARY_GAMES = 1.0
"""Games against an opponent of strength 0, half of them won; little beside hundreds of judged pairs."""
_STEPS = 200
_LONGEST_STEP = 1.0
_CONVERGED = 1e-10


def length_controlled(
    outcomes: Array, lengths: Array, groups: npt.NDArray[np.intp], *, level: float = 0.95
) -> Interval:
    """The first model's win rate at equal length.

    The error is the larger of the model's own and of one that lets answers about an image go together (sandwich), with
    the quantile of t for the number of images; limits are made for the strength and carried over to the rate.

    Args:
        outcomes: 1 where the first model won, 0 where the second did, between for ties [pairs].
        lengths: Characters of the two answers [pairs, 2].
        groups: Number of the image that each pair is about [pairs].
        level: Coverage.
    """
    difference = lengths[:, 0] - lengths[:, 1]
    spread = float(difference.std())
    columns = [np.ones(len(outcomes)), np.tanh(difference / spread)] if spread > 0 else [np.ones(len(outcomes))]
    design = np.stack(columns, axis=1)
    weights, information = _firth(design, outcomes)
    inverse = np.linalg.inv(information)
    residual = outcomes - scipy.special.expit(design @ weights)
    sums = np.zeros((int(groups.max()) + 1, design.shape[1]))
    np.add.at(sums, groups, residual[:, None] * design)
    images = len(np.unique(groups))
    moved = sums @ inverse[0]
    clustered = images / max(images - 1, 1) * float((moved**2).sum())
    error = float(np.sqrt(max(inverse[0, 0], clustered)))
    half = float(scipy.stats.t.ppf(0.5 + level / 2, max(images - 1, 1))) * error
    value, low, high = scipy.special.expit(weights[0] + np.array([0.0, -half, half]))
    return Interval(float(value), float(low), float(high), len(outcomes))


def _firth(design: Array, outcomes: Array) -> tuple[Array, Array]:
    """Weights [columns] and information [columns, columns] of a logistic regression with Firth's correction."""
    weights = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        rates = scipy.special.expit(design @ weights)
        information = design.T @ (design * (rates * (1 - rates))[:, None])
        leverage = rates * (1 - rates) * np.einsum("ij,jk,ik->i", design, np.linalg.inv(information), design)
        # The corrected slope is that of each answer weighted 1 + leverage; steps by the plain information are too long.
        curvature = design.T @ (design * ((1 + leverage) * rates * (1 - rates))[:, None])
        step = np.linalg.solve(curvature, design.T @ (outcomes - rates + leverage * (0.5 - rates)))
        weights = weights + step * min(1.0, _LONGEST_STEP / max(float(np.abs(step).max()), 1e-300))
        if float(np.abs(step).max()) < _CONVERGED:
            break
    return weights, information


def strengths(wins: Array | scipy.sparse.csr_array) -> Array:
    """Bradley-Terry strengths with mean 0 [models].

    Args:
        wins: ``wins[i, j]``: games that i won against j, ties as a half each [models, models]. A sparse array takes
            memory for the pairs that met alone.
    """
    found = _fitted(wins)[0] if isinstance(wins, np.ndarray) else _fitted_sparse(wins)
    return np.asarray(found - found.mean())


def _fitted(wins: Array) -> tuple[Array, Array]:
    """Strengths [models] by Newton's method, on the scale of the imaginary opponent, and their information matrix."""
    games, won = wins + wins.T, wins.sum(1) + IMAGINARY_GAMES / 2
    found = np.zeros(len(wins))
    for _ in range(_STEPS):
        rates, own = scipy.special.expit(found[:, None] - found), scipy.special.expit(found)
        between = games * rates * (1 - rates)
        information = np.diag(between.sum(1) + IMAGINARY_GAMES * own * (1 - own)) - between
        step = np.linalg.solve(information, won - (games * rates).sum(1) - IMAGINARY_GAMES * own)
        longest = float(np.abs(step).max())
        found = found + step * min(1.0, _LONGEST_STEP / max(longest, 1e-300))
        if longest < _CONVERGED:
            break
    return found, information


def _fitted_sparse(wins: scipy.sparse.csr_array) -> Array:
    """The same strengths; each step of Newton's method is solved by conjugate gradients."""
    games, won = (wins + wins.T).tocoo(), np.asarray(wins.sum(1)) + IMAGINARY_GAMES / 2
    (first, second), models = games.coords, games.shape[0]
    found = np.zeros(models)
    for _ in range(_STEPS):
        rates, own = scipy.special.expit(found[first] - found[second]), scipy.special.expit(found)
        between = games.data * rates * (1 - rates)
        diagonal = np.bincount(first, between, models) + IMAGINARY_GAMES * own * (1 - own)
        gradient = won - np.bincount(first, games.data * rates, models) - IMAGINARY_GAMES * own
        off = scipy.sparse.csr_array((between, (first, second)), shape=games.shape)
        information = scipy.sparse.diags_array(diagonal) - off
        inverse = scipy.sparse.diags_array(1 / diagonal)
        step, _ = scipy.sparse.linalg.cg(information, gradient, rtol=1e-10, M=inverse)
        longest = float(np.abs(step).max())
        found = found + step * min(1.0, _LONGEST_STEP / max(longest, 1e-300))
        if longest < _CONVERGED:
            break
    return found


def strength_intervals(wins: Array, *, level: float = 0.95) -> list[Interval]:
    """Strengths with their intervals, in the order of the models.

    The error is made as in `length_controlled`. A percentile bootstrap covers .90 to .94 at 50 images (simulated).

    Args:
        wins: Wins in the pairs about each image [images, models, models].
        level: Coverage.
    """
    wins = wins[wins.any(axis=(1, 2))]
    images, models = wins.shape[:2]
    found, information = _fitted(wins.sum(0))
    games = wins + wins.transpose(0, 2, 1)
    residual = (wins - games * scipy.special.expit(found[:, None] - found)).sum(2)
    centred = np.linalg.inv(information) @ (np.eye(models) - 1 / models)
    clustered = images / max(images - 1, 1) * ((residual @ centred) ** 2).sum(0)
    own = np.diag(centred.T @ information @ centred)
    half = scipy.stats.t.ppf(0.5 + level / 2, max(images - 1, 1)) * np.sqrt(np.maximum(own, clustered))
    played = games.sum((0, 2))
    return [
        Interval(float(value), float(value - reach), float(value + reach), round(float(count)), percent=False)
        for value, reach, count in zip(found - found.mean(), half, played, strict=True)
    ]


def connected(wins: Array) -> bool:
    """Whether every model was compared with every other, by way of others where not directly.

    Args:
        wins: Wins over all images [models, models].
    """
    games = wins + wins.T
    reached, before = {0}, 0
    while len(reached) > before:
        before = len(reached)
        reached |= {int(other) for model in reached for other in np.flatnonzero(games[model])}
    return len(reached) == len(wins)
