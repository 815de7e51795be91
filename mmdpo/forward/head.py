"""The output head: log-probabilities of target tokens and statistics of their distributions, tile by tile.

Logits exist for one tile of the vocabulary at a time, in the forward and again in the backward; nothing of size [n, V]
is kept. The tiles' exponentials are summed below a running maximum (Milakov and Gimelshein 2018, arXiv 1805.02867,
algorithm 3), and so is everything else, so one pass over the vocabulary gives all that is asked for.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmdpo.errors import ConfigError, ModelError, did_you_mean

TILE_ELEMENTS = 2**24
"""Logits held at a time by the head: 64 MiB in float32."""

STATISTICS: tuple[str, ...] = ("logit", "entropy", "sum_squared_probability", "token_kl")
"""What the head can give of an answer token beside its log-probability; see :func:`token_statistics`."""


@dataclass(frozen=True)
class Head:
    """What the model does between its last hidden state and its logits.

    Args:
        weight: [V, D].
        bias: [V] or None.
        scale: Factor on the logits.
        softcap: ``softcap * tanh(logits / softcap)``, or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor, part: slice) -> Tensor:
        """[n, tile] logits of a part of the vocabulary, in float32 at least."""
        logits = hidden @ self.weight[part].T.to(hidden.dtype)
        if self.bias is not None:
            logits = logits + self.bias[part]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def slope(self, logits: Tensor) -> Tensor | float:
        """Derivative of the final logits with respect to ``h W^T + b``, from the final logits."""
        return self.scale if self.softcap is None else self.scale * (1 - (logits / self.softcap) ** 2)


class _Tile(NamedTuple):
    """One tile of logits below the running maximum of its rows.

    Args:
        below: [n, tile] logits minus the maximum so far, this tile included.
        mass: [n, tile] their exponentials.
        drop: [n] what the earlier tiles' logits lost when the maximum rose, 0 or less.
        earlier: [n] sum of the earlier tiles' exponentials below their own maximum.
    """

    below: Tensor
    mass: Tensor
    drop: Tensor
    earlier: Tensor


class _Softmax:
    """Maximum and sum of exponentials of rows whose logits come in tiles."""

    def __init__(self, hidden: Tensor) -> None:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        # the lowest number, not -inf: its distance to any logit is finite, and 0 times it is 0
        self.peak = torch.full((len(hidden),), torch.finfo(exact).min, dtype=exact, device=hidden.device)
        self.total = torch.zeros_like(self.peak)

    def add(self, logits: Tensor) -> _Tile:
        """Takes in the next tile, whose tensor is overwritten."""
        earlier, peak = self.total, torch.maximum(self.peak, logits.amax(-1))
        drop = self.peak - peak
        below = logits.sub_(peak[:, None])
        mass = below.exp()
        self.peak, self.total = peak, earlier * drop.exp() + mass.sum(-1)
        return _Tile(below, mass, drop, earlier)

    def log_total(self) -> Tensor:
        """[n] logarithm of the sum below the maximum; add the maximum for ``logsumexp`` of the logits."""
        return self.total.log()


class _Plan(NamedTuple):
    """What is the same for all rows: the head's rule for its logits, the tile, and the statistics that are wanted."""

    scale: float
    softcap: float | None
    tile: int
    wanted: frozenset[str]


class _TokenStatistics(torch.autograd.Function):
    """All numbers of :func:`token_statistics` in one pass over the tiles, and their gradient in another.

    With ``z = cap(scale * (h W^T + b))``, ``p = softmax(z)``, the reference's ``r``, and the incoming gradients ``g``::

        dz =  g_logp    * (onehot - p)
            + g_logit   * onehot
            - g_entropy * p * (log p + H)         H = -sum p log p
            + g_square  * 2 p * (p - S)           S = sum p^2
            + g_kl      * (p - r)                 the reference has no gradient
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        ref_hidden: Tensor | None,
        ref_weight: Tensor | None,
        ref_bias: Tensor | None,
        plan: _Plan,
    ) -> tuple[Tensor | None, ...]:
        head = Head(weight, bias, plan.scale, plan.softcap)
        policy = _Softmax(hidden)
        chosen, weighted, squares, gap = (torch.zeros_like(policy.peak) for _ in range(4))
        reference = None if ref_hidden is None else _Softmax(ref_hidden)
        for start in range(0, len(weight), plan.tile):
            part = slice(start, start + plan.tile)
            logits = head.logits(hidden, part)
            local = (targets - start).clamp(0, logits.shape[1] - 1)
            inside = (targets >= start) & (targets < start + plan.tile)
            chosen = torch.where(inside, logits.gather(1, local[:, None])[:, 0], chosen)
            tile = policy.add(logits)
            if "entropy" in plan.wanted:  # sum of mass * below
                weighted = (weighted + tile.drop * tile.earlier) * tile.drop.exp() + (tile.mass * tile.below).sum(-1)
            if "sum_squared_probability" in plan.wanted:
                squares = squares * (2 * tile.drop).exp() + tile.mass.square().sum(-1)
            if reference is not None:  # sum of the reference's mass * (its below - the policy's below)
                assert ref_hidden is not None and ref_weight is not None
                theirs = reference.add(Head(ref_weight, ref_bias, plan.scale, plan.softcap).logits(ref_hidden, part))
                gap = (gap + (theirs.drop - tile.drop) * theirs.earlier) * theirs.drop.exp()
                gap = gap + (theirs.mass * (theirs.below - tile.below)).sum(-1)
        log_total = policy.log_total()
        entropy = log_total - weighted / policy.total if "entropy" in plan.wanted else None
        square = squares / policy.total**2 if "sum_squared_probability" in plan.wanted else None
        divergence, ref_normaliser = None, None
        if reference is not None:
            divergence = gap / reference.total + log_total - reference.log_total()
            ref_normaliser = reference.peak + reference.log_total()
        normaliser = policy.peak + log_total
        ctx.save_for_backward(
            *(hidden, weight, bias, targets, normaliser, entropy, square),
            *(ref_hidden, ref_weight, ref_bias, ref_normaliser),
        )
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        logit = chosen.clone() if "logit" in plan.wanted else None
        return chosen - policy.peak - log_total, logit, entropy, square, divergence

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normaliser, entropy, square, *reference = ctx.saved_tensors
        ref_hidden, ref_weight, ref_bias, ref_normaliser = reference
        plan: _Plan = ctx.plan
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.zeros_like(hidden, dtype=normaliser.dtype) if need_hidden else None
        grad_weight = torch.zeros_like(weight) if need_weight else None
        grad_bias = torch.zeros_like(bias) if need_bias and bias is not None else None
        head = Head(weight, bias, plan.scale, plan.softcap)
        g_logp, g_logit, g_entropy, g_square, g_kl = grads
        zero = torch.zeros_like(normaliser)
        onehot = (zero if g_logp is None else g_logp) + (zero if g_logit is None else g_logit)
        common = ((zero if g_kl is None else g_kl) - (zero if g_logp is None else g_logp))[:, None]
        for start in range(0, len(weight), plan.tile):
            part = slice(start, start + plan.tile)
            logits = head.logits(hidden, part)
            log_p = logits - normaliser[:, None]
            p = log_p.exp()
            factor = common
            if g_entropy is not None:
                factor = factor - g_entropy[:, None] * (log_p + entropy[:, None])
            if g_square is not None:
                factor = factor + 2 * g_square[:, None] * (p - square[:, None])
            grad = p * factor
            if g_kl is not None:
                theirs = Head(ref_weight, ref_bias, plan.scale, plan.softcap).logits(ref_hidden, part)
                grad -= g_kl[:, None] * (theirs - ref_normaliser[:, None]).exp()
            inside = ((targets >= start) & (targets < start + plan.tile)).nonzero()[:, 0]
            grad[inside, targets[inside] - start] += onehot[inside]
            grad = (grad * head.slope(logits)).to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden += grad @ weight[part].to(hidden.dtype)
            if grad_weight is not None:
                grad_weight[part] = (grad.T @ hidden).to(weight.dtype)
            if grad_bias is not None:
                grad_bias[part] = grad.sum(0).to(grad_bias.dtype)
        grad_hidden = grad_hidden.to(hidden.dtype) if grad_hidden is not None else None
        return grad_hidden, grad_weight, grad_bias, None, None, None, None, None


def check_statistics(statistics: Collection[str]) -> None:
    """Refuses what the head cannot give.

    Raises:
        ConfigError: A name is not in :data:`STATISTICS`.
    """
    for name in statistics:
        if name not in STATISTICS:
            raise ConfigError(
                f"{name!r} is no statistic of an answer token",
                why="A loss term that reads it would have nothing to read.",
                fix=did_you_mean(name, STATISTICS),
            )


def token_statistics(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    statistics: Collection[str] = (),
    *,
    ref_hidden: Tensor | None = None,
    ref_head: Head | None = None,
    tile: int | None = None,
) -> dict[str, Tensor]:
    """Log-probabilities of target tokens, and statistics of the distributions that they are drawn from.

    Args:
        hidden: [n, D] hidden states that predict the tokens.
        head: The output head.
        targets: [n] token ids.
        statistics: Names of :data:`STATISTICS`; only these are computed, beside ``logp``:

            * ``logit``: the target's logit as the model gives it, after scale and soft-cap.
            * ``entropy``: ``-sum p log p`` in nats.
            * ``sum_squared_probability``: ``sum p^2``.
            * ``token_kl``: ``KL(reference || policy)`` in nats; the reference gets no gradient.
        ref_hidden: [n, D] the reference's hidden states of the same tokens, for ``token_kl``.
        ref_head: Weight and bias of the reference's head; None for those of ``head``, which must then not be trained.
        tile: Vocabulary entries at a time; by default as many as keep a tile under :data:`TILE_ELEMENTS`.

    Returns:
        ``logp`` and each statistic, [n] each, float32 (float64 for float64 input).

    Raises:
        ConfigError: A name is not in :data:`STATISTICS`.
        ModelError: ``token_kl`` is wanted and the reference's hidden states are not those of these tokens.
    """
    check_statistics(statistics)
    if tile is None:
        tile = min(len(head.weight), max(1024, TILE_ELEMENTS // max(1, len(hidden))))
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype == torch.float32:
        # as autocast would in the model's own head; left to it, forward and backward would differ in precision
        hidden = hidden.to(torch.get_autocast_dtype(device))
    reference: tuple[Tensor | None, ...] = (None, None, None)
    if "token_kl" in statistics:
        if ref_hidden is None or len(ref_hidden) != len(hidden):
            raise ModelError(
                f"token_kl of {len(hidden)} tokens with "
                + ("no reference" if ref_hidden is None else f"a reference of {len(ref_hidden)}"),
                why="It compares the two models' distributions of the same tokens.",
                fix="Give what the reference's scoring of this very batch has kept.",
            )
        ref_head = ref_head or head
        reference = (ref_hidden.to(hidden.dtype), ref_head.weight.detach(), ref_head.bias)
    plan = _Plan(head.scale, head.softcap, tile, frozenset(statistics))
    values = _TokenStatistics.apply(hidden, head.weight, head.bias, targets, *reference, plan)
    found = dict(zip(("logp", *STATISTICS), values, strict=True))
    return {name: found[name] for name in ("logp", *dict.fromkeys(statistics))}
