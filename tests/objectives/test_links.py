"""Links and transforms on their own: slopes, far arguments, and where exponentials go on as straight lines."""

from __future__ import annotations

import math
from typing import Any, get_args

import mpmath
import pytest
import torch
from torch import Tensor

from mmdpo.objectives.links import (
    Bounded,
    Disco,
    Exo,
    Hinge,
    Link,
    Robust,
    Sigmoid,
    Square,
    Transform,
    log1mexp,
    safe_exp,
)

FAR = [-1e5, -1e4, -300.0, -50.0, -1.0, 0.0, 1.0, 50.0, 300.0, 1e4, 1e5]


def value_and_slope(function: Any, at: float, dtype: torch.dtype = torch.float64) -> tuple[float, float]:
    x = torch.tensor([at], dtype=dtype, requires_grad=True)
    y: Tensor = function(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    return y.item(), slope.item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [*get_args(Link), *get_args(Transform)])
def test_finite_everywhere(kind: Any, dtype: torch.dtype) -> None:
    for at in FAR:
        if abs(at) <= 1e4:
            assert all(map(math.isfinite, value_and_slope(kind(), at, dtype))), at


SLOPES: list[tuple[Any, float, float]] = [
    (Sigmoid(), 0.0, -0.5),
    (Sigmoid(), -1e4, -1.0),
    (Sigmoid(label_smoothing=0.25), 1e4, 0.25),
    (Robust(noise=0.25), -1e4, -1.5),
    (Robust(noise=0.25), 1e4, -0.5),
    (Hinge(target=2.0), 1.5, -1.0),
    (Hinge(target=2.0), 2.0, 0.0),
    (Square(tau=0.5), 3.0, 4.0),
    (Bounded(), 0.0, -0.25),
    (Bounded(), 1e4, 0.0),
    (Exo(noise=0.25), math.log(3), 0.0),  # at its smallest, where sigmoid(z) = 1 - e
    (Disco(tau=0.05), 1e4, 0.0),
    (Disco(tau=0.05), -1e4, -1.0),
]


@pytest.mark.parametrize(("link", "at", "slope"), SLOPES)
def test_slopes(link: Any, at: float, slope: float) -> None:
    assert value_and_slope(link, at)[1] == pytest.approx(slope, abs=1e-12)


def test_the_smallest_loss_of_exo_is_zero() -> None:
    assert value_and_slope(Exo(noise=0.25), math.log(3))[0] == pytest.approx(0.0, abs=1e-15)


def test_disco_at_the_largest_temperature_is_bounded_on_one_side() -> None:
    """tau = 1: m exp(-z) = sigmoid(-z)."""
    for z in (-1e4, -3.0, 0.0, 3.0):
        expected = -float(mpmath.log1p(-1 / (1 + mpmath.exp(z)))) if z >= 0 else -z + math.log1p(math.exp(z))
        expected = expected / (1 + mpmath.exp(z)) + 1 / (1 + mpmath.exp(z))
        assert value_and_slope(Disco(tau=1.0), z)[0] == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exponentials_go_on_as_straight_lines(dtype: torch.dtype) -> None:
    limit = math.log(torch.finfo(dtype).max) / 3
    precision = 100 * torch.finfo(dtype).eps
    for x in (-1e4, -5.0, 0.0, limit / 2, limit - 1e-2):
        assert value_and_slope(safe_exp, x, dtype) == pytest.approx((math.exp(x), math.exp(x)), rel=precision)
    top = math.exp(limit)
    for x in (limit + 1, 2 * limit, 1e4):
        value, slope = value_and_slope(safe_exp, x, dtype)
        assert value == pytest.approx(top * (1 + x - limit), rel=precision) and slope == pytest.approx(
            top, rel=precision
        )
    assert all(map(math.isfinite, value_and_slope(lambda x: (100 * safe_exp(x) - 5) ** 2, 1e4, dtype)))


@pytest.mark.parametrize("x", [-1e4, -50.0, -1.0, -math.log(2), -0.5, -1e-3, -1e-12])
def test_log_of_one_minus_exp(x: float) -> None:
    with mpmath.workdps(60):
        expected, slope = mpmath.log(1 - mpmath.exp(x)), -mpmath.exp(x) / (1 - mpmath.exp(x))
    found = value_and_slope(log1mexp, x)
    assert found == pytest.approx((float(expected), float(slope)), rel=1e-12, abs=1e-300)
