"""Links: from an argument ``z``, in units of reward, to a loss. Read alone: nothing but torch.

A link is a small frozen dataclass. In a configuration it is its name (``link: hinge``) or its name with its fields
(``link: {name: hinge, target: 2.0}``). Every link is finite, with finite gradients, for gaps of 10,000 nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Noise = Annotated[float, Ge(0), Lt(0.5)]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of several ways, told by its name; unknown fields are errors in a configuration."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


def safe_exp(x: Tensor) -> Tensor:
    """``exp(x)``, going on as a straight line where it passes the cube root of the type's largest number.

    Up to there it is exact; beyond, for x up to 10,000, value and gradient stay finite when a beta multiplies them and
    when they are squared.
    """
    limit = log(torch.finfo(x.dtype).max) / 3
    inside = x.clamp(max=limit).exp()
    return inside + F.relu(x - limit) * inside.detach()


@dataclass(frozen=True, kw_only=True)
class Sigmoid(Choice):
    """``-(1 - e) log sigmoid(z) - e log sigmoid(-z)``: logistic loss; cDPO with e > 0 (Mitchell 2023).

    Args:
        label_smoothing: Share e of pairs whose labels are thought to be swapped.
    """

    name: Literal["sigmoid"] = "sigmoid"
    label_smoothing: Noise = 0.0

    def __call__(self, z: Tensor) -> Tensor:
        """Loss [M] of arguments [M]."""
        return -(1 - self.label_smoothing) * F.logsigmoid(z) - self.label_smoothing * F.logsigmoid(-z)


@dataclass(frozen=True, kw_only=True)
class Robust(Choice):
    """``[-(1 - e) log sigmoid(z) + e log sigmoid(-z)] / (1 - 2e)``: unbiased under swapped labels (arXiv 2403.00409).

    Args:
        noise: Share e of pairs whose labels are swapped.
    """

    name: Literal["robust"] = "robust"
    noise: Noise = 0.1

    def __call__(self, z: Tensor) -> Tensor:
        """Loss [M] of arguments [M]."""
        clean = -(1 - self.noise) * F.logsigmoid(z) + self.noise * F.logsigmoid(-z)
        return clean / (1 - 2 * self.noise)


@dataclass(frozen=True, kw_only=True)
class Hinge(Choice):
    """``max(0, target - z)`` (SLiC, arXiv 2305.10425; RSO, arXiv 2309.06657).

    Args:
        target: Margin from which on a pair costs nothing.
    """

    name: Literal["hinge"] = "hinge"
    target: float = 1.0

    def __call__(self, z: Tensor) -> Tensor:
        """Loss [M] of arguments [M]."""
        return F.relu(self.target - z)


@dataclass(frozen=True, kw_only=True)
class Square(Choice):
    """``(z - 1 / (2 tau))^2``: regression to a fixed gap (IPO, arXiv 2310.12036, equation 17).

    Args:
        tau: Strength of the pull to the reference; the gap aimed at is 1 / (2 tau) nats.
    """

    name: Literal["square"] = "square"
    tau: Positive = 0.1

    def __call__(self, z: Tensor) -> Tensor:
        """Loss [M] of arguments [M]."""
        return (z - 1 / (2 * self.tau)) ** 2


@dataclass(frozen=True, kw_only=True)
class Bounded(Choice):
    """``1 - sigmoid(z)``: between 0 and 1, so that outliers have next to no gradient (KTO, APO)."""

    name: Literal["bounded"] = "bounded"

    def __call__(self, z: Tensor) -> Tensor:
        """Loss [M] of arguments [M]."""
        return torch.sigmoid(-z)


@dataclass(frozen=True, kw_only=True)
class Exo(Choice):
    """Reverse KL from ``sigmoid(z)`` to labels that are right with 1 - e (EXO, arXiv 2402.00856, equation 16).

    Args:
        noise: Label noise e; must be above 0.
    """

    name: Literal["exo"] = "exo"
    noise: Annotated[float, Gt(0), Lt(0.5)] = 1e-3

    def __call__(self, z: Tensor) -> Tensor:
        """Loss [M] of arguments [M]."""
        right = torch.sigmoid(z) * (F.logsigmoid(z) - log(1 - self.noise))
        return right + torch.sigmoid(-z) * (F.logsigmoid(-z) - log(self.noise))


@dataclass(frozen=True, kw_only=True)
class Disco(Choice):
    """``-(1 - m) log sigmoid(z) + m exp(-z)`` with ``m = sigmoid(z / tau)`` (DiscoPOP, arXiv 2406.08414, equation 5).

    Args:
        tau: Temperature of the mix; at most 1, above which the exponential side has no bound.
    """

    name: Literal["disco"] = "disco"
    tau: Annotated[float, Gt(0), Le(1)] = 0.05

    def __call__(self, z: Tensor) -> Tensor:
        """Loss [M] of arguments [M]."""
        mixed = torch.exp(-z + F.logsigmoid(z / self.tau))  # one exponent: exp(-z) alone overflows
        return -F.logsigmoid(z) * torch.sigmoid(-z / self.tau) + mixed


Link = Sigmoid | Robust | Hinge | Square | Bounded | Exo | Disco
FLAT = 1e-6
"""Slopes below this are no gradient to speak of."""


def saturated(link: Link, z: Tensor) -> Tensor:
    """[M] 1 where a link is flat at its argument, so that there is no gradient left, else 0; without gradient."""
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(link(at).sum(), at)
    return (slope.abs() < FLAT).to(z.dtype)


@dataclass(frozen=True, kw_only=True)
class ReverseKl(Choice):
    """The log-ratio itself, as in DPO."""

    name: Literal["reverse_kl"] = "reverse_kl"

    def __call__(self, ratio: Tensor) -> Tensor:
        """Transformed log-ratios [M]."""
        return ratio


@dataclass(frozen=True, kw_only=True)
class JensenShannon(Choice):
    """``log sigmoid(R)`` (f-DPO, arXiv 2309.16240; Emo-DPO)."""

    name: Literal["jensen_shannon"] = "jensen_shannon"

    def __call__(self, ratio: Tensor) -> Tensor:
        """Transformed log-ratios [M]."""
        return F.logsigmoid(ratio)


@dataclass(frozen=True, kw_only=True)
class ForwardKl(Choice):
    """``-exp(-R)`` (f-DPO, arXiv 2309.16240); see :func:`safe_exp` for ratios beyond the type's range."""

    name: Literal["forward_kl"] = "forward_kl"

    def __call__(self, ratio: Tensor) -> Tensor:
        """Transformed log-ratios [M]."""
        return -safe_exp(-ratio)


@dataclass(frozen=True, kw_only=True)
class Alpha(Choice):
    """``(exp((a - 1) R) - 1) / (a - 1)`` (f-DPO, arXiv 2309.16240).

    Args:
        alpha: Order a of the divergence, between 0 (forward KL, up to a constant) and 1 (reverse KL in the limit).
    """

    name: Literal["alpha"] = "alpha"
    alpha: Annotated[float, Ge(0), Lt(1)] = 0.5

    def __call__(self, ratio: Tensor) -> Tensor:
        """Transformed log-ratios [M]."""
        return (safe_exp((self.alpha - 1) * ratio) - 1) / (self.alpha - 1)


@dataclass(frozen=True, kw_only=True)
class LogOdds(Choice):
    """``p - log(1 - exp(p))`` of a mean log-probability below 0 (ORPO, arXiv 2403.07691, equations 6 and 7)."""

    name: Literal["log_odds"] = "log_odds"

    def __call__(self, ratio: Tensor) -> Tensor:
        """Transformed log-ratios [M]."""
        below = ratio.clamp(max=-torch.finfo(ratio.dtype).eps)  # a token of probability 1 has infinite odds
        return below - log1mexp(below)


def log1mexp(x: Tensor) -> Tensor:
    """``log(1 - exp(x))`` for x < 0, without loss of precision at either end."""
    near = x > -log(2)
    small = torch.where(near, x, -torch.ones_like(x))
    large = torch.where(near, -torch.ones_like(x), x)
    return torch.where(near, (-torch.expm1(small)).log(), torch.log1p(-large.exp()))


Transform = ReverseKl | JensenShannon | ForwardKl | Alpha | LogOdds
