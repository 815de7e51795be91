"""The load-balancing loss of mixtures of experts, over the distinct tokens of a batch.

A shared prefix is one computation for all answers of a record, so its tokens are counted once: the loss is that of the
tokens that the experts really saw, padding left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmdpo.errors import ConfigError


@dataclass
class RouterLoss:
    """Collects the load-balancing losses of forward passes (Fedus et al. 2021, arXiv 2101.03961, equations 4 to 6).

    Args:
        function: The model's own ``load_balancing_loss_func``.
        experts: Experts of a layer.
        top_k: Experts that a token is sent to.
        coefficient: Factor of the loss.
    """

    function: Callable[..., Tensor]
    experts: int
    top_k: int
    coefficient: float
    _losses: list[Tensor] = field(default_factory=list)

    def add(self, router_logits: tuple[Tensor, ...], tokens: Tensor) -> None:
        """Adds one forward pass.

        Args:
            router_logits: One [B * T, experts] a layer.
            tokens: [B, T] True where a token is.
        """
        self._losses.append(self.function(router_logits, self.experts, self.top_k, tokens.long()))

    def take(self) -> Tensor | float:
        """The coefficient times the mean over the passes since the last call; 0 without one."""
        losses, self._losses = self._losses, []
        return self.coefficient * torch.stack(losses).mean() if losses else 0.0


def router_loss_of(model: Any, coefficient: float | None = None) -> RouterLoss | None:
    """The load-balancing loss of a model.

    Args:
        model: A Hugging Face model.
        coefficient: Factor of the loss; None for what the model's own configuration says
            (``output_router_logits`` and ``router_aux_loss_coef``), 0 for none.

    Raises:
        ConfigError: A coefficient is given and the model has no experts.
    """
    text = model.config.get_text_config()
    if coefficient is None:
        coefficient = text.router_aux_loss_coef if getattr(text, "output_router_logits", False) else 0.0
    if not coefficient:
        return None
    function = getattr(sys.modules[type(model).__module__], "load_balancing_loss_func", None)
    experts = getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None)
    if function is None or experts is None:
        raise ConfigError(
            f"model.router_aux_loss_coef is {coefficient}, and {type(model).__name__} has no load-balancing loss",
            why="Only a mixture of experts has a router to balance.",
            fix="Remove the setting.",
        )
    return RouterLoss(function, experts, text.num_experts_per_tok, coefficient)
