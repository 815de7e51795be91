"""Frozen encoders run once for each distinct image of an optimizer step, and never backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.oracle import picture, record
from mmdpo.models.load import Trainable
from mmdpo.policy import LoadedModel
from mmdpo.records import Record
from training.common import loaded_model, make_trainer


def shared_images() -> list[Record]:
    """Four pairs on two distinct photos."""
    first, second = picture(1), picture(2)
    return [
        record("a", "What is here?", ["A cat.", "Two dogs here."], first),
        record("b", "Is there a dog?", ["Yes.", "No, a ball."], first),
        record("c", "What is here?", ["A car on a mat.", "No."], second),
        record("d", "Say what you see.", ["A red car.", "same"], first),
    ]


class Watch:
    """Counts the images that enter a module, and the calls from which a backward could follow.

    It looks before the forward: checkpointing ends its recomputation as soon as it has what it needs, before any hook
    that comes after.
    """

    def __init__(self) -> None:
        self.images = 0
        self.with_gradient = 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        self.images += len(hidden)
        self.with_gradient += torch.is_grad_enabled()


@contextmanager
def watched_tower(loaded: LoadedModel) -> Iterator[Watch]:
    watch = Watch()
    inside = loaded.inner.model.vision_tower.encoder.layers[0].mlp  # checkpointing repeats it, not the layer's own call
    handle = inside.register_forward_pre_hook(watch, with_kwargs=True)
    yield watch
    handle.remove()


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("batch", "accumulation"), [(4, 1), (1, 4)])
def test_one_forward_for_each_distinct_image_of_a_step(
    tmp_path: Path, batch: int, accumulation: int, checkpointing: bool
) -> None:
    """Policy, reference and blank views included: the loss of the second term shows a grey image."""
    loaded = loaded_model()
    trainer = make_trainer(
        loaded,
        shared_images(),
        tmp_path,
        loss={"dpo": {}, "blind": {"term": "nll", "media": "blank"}},
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_steps=2,
        activation_checkpointing=checkpointing,
    )
    with watched_tower(loaded) as watch:
        trainer.train()
    assert watch.images == 2 * 3  # two steps, two photos and the grey image (the same for both: they are of one size)
    assert watch.with_gradient == 0


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_without_a_reference_the_policys_own_pass_takes_no_gradients(tmp_path: Path, checkpointing: bool) -> None:
    loaded = loaded_model()
    trainer = make_trainer(
        loaded, shared_images(), tmp_path, loss={"nll": {}}, max_steps=1, activation_checkpointing=checkpointing
    )
    with watched_tower(loaded) as watch:
        trainer.train()
    assert (watch.images, watch.with_gradient) == (2, 0)


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("trainable", ["llm+projector", "all"])
def test_what_trains_runs_with_gradients(tmp_path: Path, trainable: Trainable, checkpointing: bool) -> None:
    """With the projector trained the tower still runs once a batch; a trained tower runs for policy and reference."""
    loaded = loaded_model(trainable=trainable)
    trainer = make_trainer(
        loaded,
        shared_images(),
        tmp_path,
        per_device_train_batch_size=4,
        max_steps=1,
        activation_checkpointing=checkpointing,
    )
    with watched_tower(loaded) as watch:
        trainer.train()
    if trainable == "llm+projector":
        assert (watch.images, watch.with_gradient) == (2, 0)
    else:
        assert watch.images == (6 if checkpointing else 4)  # reference, policy, and what checkpointing computes again
        assert watch.with_gradient > 0
