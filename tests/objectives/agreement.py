"""How a loss is compared with the oracle's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmdpo.objectives import Objective
from objectives.oracle import Loss, mp
from objectives.samples import MOVED, Step, moved


def agrees(objective: Objective, loss: Loss, step: Step, parameters: dict[str, Any], kink: bool = False) -> None:
    """Value and gradient of a step along a random direction, against the oracle's."""
    c = SimpleNamespace(**parameters)
    value, _ = objective(step.table, objective.counts(step.table))
    assert value.item() == pytest.approx(float(loss(step.records, c)), rel=1e-9, abs=1e-12)
    if kink:
        return
    direction, (forth, back) = moved(step, seed=1)
    slope = (loss(forth, c) - loss(back, c)) / (2 * mp.mpf(10) ** -20)
    columns = {"logp": step.table.logp, **step.table.statistics}
    names = list(MOVED.values())
    gradients = torch.autograd.grad(value, [columns[name] for name in names], materialize_grads=True)
    along = sum((gradient * direction[name]).sum() for name, gradient in zip(names, gradients, strict=True))
    size = sum((gradient * direction[name]).abs().sum() for name, gradient in zip(names, gradients, strict=True))
    assert abs(float(along) - float(slope)) <= 1e-9 * (1e-3 + float(size))
