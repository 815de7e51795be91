"""What a step keeps for its backward pass: no logits; and lists that fit in no row are trained part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from core.oracle import picture, record
from mmdpo.collate import Collator
from mmdpo.objectives import make_objective
from mmdpo.scoring import scores
from mmdpo.training.token_batches import Batches
from tiny import exact_float64
from training.common import SUBJECTS, Gradients, encoder_of, loaded_model, make_trainer, pairs


@pytest.mark.parametrize("statistics", [(), ("entropy", "sum_squared_probability")])
def test_no_logits_are_kept_for_the_backward_pass(statistics: tuple[str, ...]) -> None:
    loaded = loaded_model(spread=0.1)
    batch = Collator(encoder_of(loaded), make_objective({"dpo": {}}).views)(list(enumerate(pairs(4))))
    weight = loaded.inner.get_output_embeddings().weight
    vocabulary, tokens = len(weight), int(batch["mask"].sum())
    assert vocabulary > 128, "other tensors would look like logits"
    kept: list[torch.Tensor] = []
    with saved_tensors_hooks(lambda tensor: (kept.append(tensor), tensor)[1], lambda tensor: tensor):
        found = scores(loaded.model, batch, statistics)
    assert len(kept) > 20, "nothing is watched"
    own = [tensor for tensor in kept if tensor.data_ptr() != weight.data_ptr()]
    assert not [tensor.shape for tensor in own if tensor.numel() >= tokens * vocabulary]
    assert not [tensor.shape for tensor in own if vocabulary in tensor.shape and tensor.is_floating_point()]
    sum(values.sum() for values in found.values()).backward()
    assert any(p.grad is not None and p.grad.any() for p in loaded.model.parameters())


EIGHT_ANSWERS = [
    record("list-0", "What is here?", [f"There is a {name} here." for name in SUBJECTS], picture(1)),
    record("list-1", "Say what you see.", [f"Two {name}s on a table" for name in SUBJECTS], picture(2, 30, 24)),
]


def list_gradients(folder: Path, **options: Any) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Gradients of one step over two lists of eight, and the tokens of each batch that was scored with gradient."""
    gradients, sizes = Gradients(), []
    branches = options.pop("branches_per_row", None)
    loaded = loaded_model(spread=0.2, dtype=torch.float64)
    trainer = make_trainer(
        loaded,
        EIGHT_ANSWERS,
        folder,
        loss="plackett_luce",
        callbacks=[gradients],
        max_steps=1,
        per_device_train_batch_size=2,
        **options,
    )
    trainer.collator.branches = branches
    handle = loaded.inner.get_input_embeddings().register_forward_hook(
        lambda _, inputs, __: sizes.append(inputs[0].numel()) if torch.is_grad_enabled() else None
    )
    with exact_float64():
        trainer.train()
    handle.remove()
    return gradients.steps[0], sizes


@pytest.mark.slow
def test_a_list_that_fits_in_no_row_is_trained_in_parts(tmp_path: Path) -> None:
    """Eight answers of a record, two in a row, a row at a time: the same gradients with a fraction of the tokens."""
    whole, together = list_gradients(tmp_path / "whole")
    assert max(float(gradient.abs().max()) for gradient in whole.values()) > 1e-4
    ways = {
        "a row at a time": {"branches_per_row": 2, "rows_per_chunk": 1},
        "by tokens": {"branches_per_row": 2, "two_pass": True, "batches": Batches(70)},
    }
    for how, options in ways.items():
        found, parts = list_gradients(tmp_path / how, **options)
        for name, gradient in whole.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9, msg=f"{how}: {name}")
        assert max(parts) * 4 <= max(together), (how, parts, together)  # two of eight answers in a row, of two records
