"""Log-probabilities of answers: the only code that touches the head.

Scoring is a ``forward`` of the Hugging Face model with the keyword ``score_batch``: it stays inside whatever module
``accelerate`` wrapped around it (past DDP's wrapper the ranks' gradients would differ silently, past FSDP2's it
raises). Logits exist only where an answer token is predicted, and only one tile of the vocabulary at a time.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmdpo.backbone import ScoringState, last_hidden
from mmdpo.collate import Batch
from mmdpo.errors import ModelError
from mmdpo.features import FeatureStore
from mmdpo.models.families import Facts, facts_of
from mmdpo.models.router import router_loss_of

TILE_ELEMENTS = 2**24
"""Logits held at a time by the head: 64 MiB in float32."""


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


class _TiledLogProb(torch.autograd.Function):
    """Log-probability of one target per row, the vocabulary in tiles, nothing of size [n, V] kept.

    ``log p = z_target - logsumexp(z)`` with ``z = cap(scale * (h W^T + b))``; the backward recomputes each tile:
    ``dz = g * (onehot - softmax(z))``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        softcap: float | None,
        tile: int,
    ) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        normaliser = torch.full((len(hidden),), -torch.inf, dtype=exact, device=hidden.device)
        chosen = torch.zeros_like(normaliser)
        for start in range(0, len(weight), tile):
            logits = _tile_logits(hidden, weight, bias, start, tile, scale, softcap)[0]
            normaliser = torch.logaddexp(normaliser, logits.logsumexp(-1))
            inside = (targets >= start) & (targets < start + tile)
            local = (targets - start).clamp(0, logits.shape[1] - 1)
            chosen = torch.where(inside, logits.gather(1, local[:, None])[:, 0], chosen)
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser)
        ctx.scale, ctx.softcap, ctx.tile = scale, softcap, tile
        return chosen - normaliser

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (incoming,) = grads
        hidden, weight, bias, targets, normaliser = ctx.saved_tensors
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.zeros_like(hidden, dtype=normaliser.dtype) if need_hidden else None
        grad_weight = torch.zeros_like(weight) if need_weight else None
        grad_bias = torch.zeros_like(bias) if need_bias and bias is not None else None
        for start in range(0, len(weight), ctx.tile):
            logits, slope = _tile_logits(hidden, weight, bias, start, ctx.tile, ctx.scale, ctx.softcap)
            grad = -(logits - normaliser[:, None]).exp() * incoming[:, None]
            inside = ((targets >= start) & (targets < start + ctx.tile)).nonzero()[:, 0]
            grad[inside, targets[inside] - start] += incoming[inside]
            grad = (grad * slope * ctx.scale).to(hidden.dtype)
            part = slice(start, start + ctx.tile)
            if grad_hidden is not None:
                grad_hidden += grad @ weight[part].to(hidden.dtype)
            if grad_weight is not None:
                grad_weight[part] = (grad.T @ hidden).to(weight.dtype)
            if grad_bias is not None:
                grad_bias[part] = grad.sum(0).to(grad_bias.dtype)
        grad_hidden = grad_hidden.to(hidden.dtype) if grad_hidden is not None else None
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _tile_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, start: int, tile: int, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor | float]:
    """[n, tile] logits in at least float32, and the slope of the cap at each."""
    part = slice(start, start + tile)
    logits = hidden @ weight[part].T.to(hidden.dtype)
    if bias is not None:
        logits = logits + bias[part]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * scale
    if softcap is None:
        return logits, 1.0
    bounded = torch.tanh(logits / softcap)
    return softcap * bounded, 1 - bounded**2


def head_logprobs(hidden: Tensor, head: Head, targets: Tensor, *, tile: int | None = None) -> Tensor:
    """Log-probabilities of target tokens.

    Args:
        hidden: [n, D] hidden states that predict them.
        head: The output head.
        targets: [n] token ids.
        tile: Vocabulary entries at a time; by default as many as keep a tile under :data:`TILE_ELEMENTS`.

    Returns:
        [n] natural-log probabilities, float32 (float64 for float64 input).
    """
    if tile is None:
        tile = min(len(head.weight), max(1024, TILE_ELEMENTS // max(1, len(hidden))))
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype == torch.float32:
        # as autocast would in the model's own head; left to it, forward and backward would differ in precision
        hidden = hidden.to(torch.get_autocast_dtype(device))
    return _TiledLogProb.apply(hidden, head.weight, head.bias, targets, head.scale, head.softcap, tile)


def head_of(model: Any, facts: Facts) -> Head:
    """The head of a Hugging Face model, with what its own ``forward`` does to the logits.

    Raises:
        ModelError: The head is not a plain linear layer (a LoRA adapter on it, for example).
    """
    layer: Any = model.get_output_embeddings()
    if not isinstance(layer, nn.Linear):
        raise ModelError(
            f"the output head is a {type(layer).__name__}, not a linear layer",
            why="Log-probabilities are computed tile by tile from its weight.",
            fix="Leave the head out of lora.targets; train it with lora: null instead.",
        )
    text: Any = model.config.get_text_config()
    softcap = getattr(text, "final_logit_softcapping", None) if facts.family.final_softcap else None
    softcap = getattr(model.config, "logit_softcap", softcap)  # a composed model says what its language model does
    return Head(layer.weight, layer.bias, getattr(model.config, "logit_scale", 1.0), softcap)


def install_scoring(model: Any, features: FeatureStore, router_aux_loss_coef: float | None = None) -> ScoringState:
    """Gives a Hugging Face model's ``forward`` the keyword ``score_batch``.

    Args:
        model: The model itself (inside PEFT's wrapper, if any).
        features: Its feature store.
        router_aux_loss_coef: Factor of the load-balancing loss of a mixture of experts; None for the model's own.

    Returns:
        The state that the keyword uses. A model that is deep-copied afterwards scores with its own weights.
    """
    state = ScoringState(facts_of(model), features, router_loss_of(model, router_aux_loss_coef))
    model.mmdpo_scoring = state
    head = head_of(model, state.facts)
    _add_keyword(model, "score_batch", _score)
    # the head has one too, because FSDP2 shards it alone and gathers its weight around its forward only
    rows = functools.partial(_score_rows, scale=head.scale, softcap=head.softcap)
    _add_keyword(model.get_output_embeddings(), "score_targets", rows)
    return state


def _add_keyword(module: Any, name: str, computation: Callable[..., Any]) -> None:
    """Gives a module's ``forward`` a keyword that selects another computation: ``computation(module, ..., value)``."""
    plain = type(module).forward

    @functools.wraps(plain)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        value = kwargs.pop(name, None)
        return plain(self, *args, **kwargs) if value is None else computation(self, *args, value)

    signature = inspect.signature(plain)
    keyword = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    rest = [p for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    forward.__signature__ = signature.replace(parameters=[*parameters, keyword, *rest])  # type: ignore[attr-defined]
    module.forward = types.MethodType(forward, module)


def score(model: nn.Module, batch: Batch) -> Tensor:
    """Per-token log-probabilities of every answer of a batch, through the wrapped model.

    Args:
        model: The model, or whatever wraps it.
        batch: A batch of :class:`mmdpo.collate.Collator`.

    Returns:
        [N, A] natural-log probabilities, 0 where the batch's ``mask`` is False.
    """
    return model(score_batch=batch)


def _score(model: Any, batch: Batch) -> Tensor:
    state: ScoringState = model.mmdpo_scoring
    hidden = last_hidden(model, batch, state)
    mask = batch["mask"]
    rows = hidden.flatten(0, 1)[batch["hidden_index"][mask]]
    logp = model.get_output_embeddings()(rows, score_targets=batch["targets"][mask])
    return logp.new_zeros(mask.shape).masked_scatter(mask, logp)


def _score_rows(layer: Any, hidden: Tensor, targets: Tensor, scale: float, softcap: float | None) -> Tensor:
    return head_logprobs(hidden, Head(layer.weight, layer.bias, scale, softcap), targets)
