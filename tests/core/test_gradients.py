"""Gradients of every trainable parameter equal those of the oracle's log-probabilities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.oracle import Layout, Setup, Side, oracle_logprobs, setup, varied_records
from mmdpo.collate import Batch
from mmdpo.models.families import facts_of
from mmdpo.models.load import TRAINS, Trainable, part_of
from mmdpo.scoring import score
from tiny import CORE, FAMILIES, exact_float64

RECORDS = varied_records()
FAST = ("llava", "qwen2_5_vl", "gemma3")
CASES = [
    pytest.param(name, trainable, marks=() if name in FAST and trainable != "llm+projector" else pytest.mark.slow)
    for name in CORE
    for trainable in TRAINS
]
every_case = pytest.mark.parametrize(("name", "trainable"), CASES)


def build(name: str, trainable: Trainable, **options: Any) -> Setup:
    """A float64 model of which exactly these parts train."""
    tiny = FAMILIES[name](dtype=torch.float64)
    facts = facts_of(tiny.model)
    for parameter_name, parameter in tiny.model.named_parameters():
        parameter.requires_grad_(part_of(parameter_name, facts) in TRAINS[trainable])
    layout: Layout = "shared" if facts.plain_reason is None else "plain"
    return setup(tiny, layout=layout, **options)


def weights_of(batch: Batch) -> Tensor:
    """[N, A] one random number for each answer token: no cancellation, no symmetry."""
    return torch.randn(batch["mask"].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def taken_gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradients of all parameters that have one; they are cleared."""
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def our_gradients(built: Setup, batch: Batch) -> dict[str, Tensor]:
    (score(built.tiny.model, batch) * weights_of(batch)).sum().backward()
    return taken_gradients(built.tiny.model)


def oracle_gradients(built: Setup, batch: Batch) -> dict[str, Tensor]:
    weights = [row[mask] for row, mask in zip(weights_of(batch), batch["mask"], strict=True)]
    logprobs = oracle_logprobs(built, RECORDS, batch)
    torch.stack([(a * b).sum() for a, b in zip(weights, logprobs, strict=True)]).sum().backward()
    return taken_gradients(built.tiny.model)


def assert_equal_gradients(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The difference relative to the parameter's norm, or to a millionth of the whole where it has next to none."""
    floor = 1e-6 * torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    assert floor > 0
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (ours[name] - gradient).norm() <= 1e-9 * torch.maximum(gradient.norm(), floor), name


@every_case
@pytest.mark.parametrize("side", ["right", "left"])
def test_gradients_equal_the_oracles(name: str, trainable: Trainable, side: Side) -> None:
    built = build(name, trainable, side=side, records_per_row=2)
    batch = built.collator(list(enumerate(RECORDS)))
    with exact_float64():
        ours, expected = our_gradients(built, batch), oracle_gradients(built, batch)
    trained = {name for name, parameter in built.tiny.model.named_parameters() if parameter.requires_grad}
    assert expected.keys() <= trained
    # Some towers have parameters behind the layer that is read (LLaVA's last one); nothing else goes without.
    assert all("vision" in name or "visual" in name for name in trained - expected.keys())
    assert_equal_gradients(ours, expected)


@every_case
def test_gradient_checkpointing_changes_no_gradient(name: str, trainable: Trainable) -> None:
    built = build(name, trainable)
    batch = built.collator(list(enumerate(RECORDS)))
    with exact_float64():
        expected = our_gradients(built, batch)
        built.tiny.model.train()
        built.tiny.model.activation_checkpointing_enable({"use_reentrant": False})
        ours = our_gradients(built, batch)
    assert_equal_gradients(ours, expected)


def test_a_wrong_mask_has_wrong_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power: the comparison sees a branch that looks at its neighbour."""
    built = build("llava", "all")
    batch = built.collator(list(enumerate(RECORDS)))
    expected = our_gradients(built, batch)
    batch["segment"] = batch["segment"].clamp(max=1)
    with pytest.raises(AssertionError):
        assert_equal_gradients(our_gradients(built, batch), expected)
