"""What an optimizer step costs, in floating-point operations of matrix products, attention and convolutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def flops(function: Callable[..., Any], *args: Any) -> float:
    """Operations of one call without gradient, as torch counts them: 2 for each multiplication with its addition."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function(*args)
    return float(counter.get_total_flops())


def language_passes(*, whole: bool, checkpointing: bool, reference: bool, two_pass: bool) -> float:
    """How often a step goes through the language model, in forward passes of all rows.

    Args:
        whole: The weights themselves train; with an adapter the backward pass computes next to no gradients of weights.
        checkpointing: The forward pass is computed again in the backward pass.
        reference: The reference is computed in every step.
        two_pass: The policy is scored once without gradient before.
    """
    return 1.0 + (2.0 if whole else 1.0) + float(checkpointing) + float(reference) + float(two_pass)


@dataclass(frozen=True)
class StepCost:
    """Operations of some records in a step.

    Args:
        encoder: Of one pass through the frozen encoders: an item is encoded once a step.
        language: Of one pass through the language model and what trains before it.
        passes: :func:`language_passes`.
    """

    encoder: float
    language: float
    passes: float

    @property
    def encoder_share(self) -> float:
        """Share of the step that the frozen encoders have: what a warm cache saves."""
        whole = self.encoder + self.passes * self.language
        return self.encoder / whole if whole else 0.0
