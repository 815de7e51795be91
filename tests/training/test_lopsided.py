"""Processes whose shares of the media differ, down to none at all: nobody waits forever, and all end as one would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import nn

from mmdpo.errors import ConfigError
from mmdpo.launch import _free_port
from mmdpo.models.load import part_of
from mmdpo.policy import prepare
from mmdpo.reference import make_reference
from mmdpo.training.sharding import WholeEncoders, plan_zero, require_every_layer_runs
from tiny import FAMILIES
from training import lopsided
from training.common import loaded_model
from training.lopsided import KINDS, WAYS, ZERO, take

QUICK = ("projector", "beta-dpo")
LANGUAGE = [name for name, way in WAYS.items() if way.trainable == "llm" and name != "full"]
"""Ways that train the language model alone, and with a reference that is no copy."""
UNSHARDED = "crossed"
"""Its layers run where there are images, so that it cannot be sharded."""


def run_in_two(program: str, *words: str) -> None:
    """A program of this folder in two processes that find each other."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": "2"}
    paths = os.pathsep.join(str(Path(__file__).parents[n]) for n in (1, 2))
    running = [
        subprocess.Popen(
            [sys.executable, program, *words],
            env=os.environ
            | {**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=500)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], errors


def take_in_two(folder: Path, kind: str, names: Sequence[str]) -> None:
    """All ways one after the other in two processes, which wait for each other no longer than lopsided.PATIENCE."""
    run_in_two(lopsided.__file__, str(folder), kind, *names)


def assert_as_one(folder: Path, names: Sequence[str]) -> None:
    """Bit for bit the same weights in both processes, and those of one process to 1e-6."""
    for name in names:
        first, second = (load_file(folder / f"{name}-{rank}.safetensors") for rank in range(2))
        alone = take(folder / "alone", WAYS[name], 1)
        assert first.keys() == second.keys() == alone.keys(), name
        for key, weight in alone.items():
            assert first[key].equal(second[key]), (name, key)
            assert (first[key] - weight).abs().max() <= 1e-6, (name, key)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_process_without_media_trains_as_the_others(kind: str, tmp_path: Path) -> None:
    take_in_two(tmp_path, kind, QUICK)
    assert_as_one(tmp_path, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_train_without_media_on_some_processes(kind: str, tmp_path: Path) -> None:
    names = [name for name in WAYS if name not in QUICK and not (kind == "fsdp2" and name == UNSHARDED)]
    take_in_two(tmp_path, kind, names)
    assert_as_one(tmp_path, names)


def test_layers_that_run_with_images_alone_are_not_sharded() -> None:
    tiny = FAMILIES["mllama"]()
    with pytest.raises(ConfigError, match="FSDP2 cannot shard a mllama"):
        require_every_layer_runs(prepare(tiny.model, tiny.processor), "FSDP2")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ZERO)
def test_deepspeed_trains_the_language_model_alike(kind: str, tmp_path: Path) -> None:
    """Where DeepSpeed is installed; it is no dependency."""
    pytest.importorskip("deepspeed")
    take_in_two(tmp_path, kind, LANGUAGE)
    assert_as_one(tmp_path, LANGUAGE)


def zero(stage: int) -> Any:
    return SimpleNamespace(zero_stage=stage, deepspeed_config={"zero_optimization": {"stage": stage}})


def test_deepspeed_mixes_gradients_of_what_some_processes_alone_compute() -> None:
    with pytest.raises(ConfigError, match="cannot train the projector"):
        plan_zero(zero(2), loaded_model(trainable="llm+projector"), None)


def test_zero_3_shares_no_parameters_with_a_frozen_copy() -> None:
    loaded = loaded_model(lora=None)
    frozen = make_reference(loaded).frozen
    assert plan_zero(zero(2), loaded, frozen) is None
    with pytest.raises(ConfigError, match="kind: cached"):
        plan_zero(zero(3), loaded, frozen)


def test_zero_3_fetches_nothing_ahead() -> None:
    """What it would fetch is what the forward before read: policy and reference do not read the same."""
    plugin = zero(3)
    assert plan_zero(plugin, loaded_model(), None) is not None
    assert plugin.deepspeed_config["zero_optimization"] == {"stage": 3, "stage3_prefetch_bucket_size": 0}


class Hooks:
    """Hooks as DeepSpeed has them, and one that is not its own."""

    def __init__(self, module: nn.Module) -> None:
        def own(*_: object) -> None: ...

        own.__module__ = "deepspeed.runtime.zero.parameter_offload"
        self.theirs, self.ours = own, lambda *_: None
        module.register_forward_pre_hook(self.theirs)
        module.register_forward_hook(self.ours)


def test_encoders_stay_whole_under_zero_3() -> None:
    loaded = loaded_model()
    tower, layers = loaded.inner.model.vision_tower, loaded.inner.model.language_model
    activation = tower.encoder.layers[0].mlp.activation_fn  # without parameters
    for module in (tower, activation, layers):
        Hooks(module)
    gathered: list[int] = []
    expected = {id(p) for name, p in loaded.model.named_parameters() if part_of(name, loaded.facts) != "llm"}
    first = next(p for p in loaded.model.parameters() if id(p) in expected)
    first.all_gather = lambda some: gathered.extend(map(id, some))
    optimizer = SimpleNamespace(optimizer=SimpleNamespace(persistent_parameters=[]))
    WholeEncoders(loaded).on_train_begin(None, None, None, optimizer=optimizer)
    assert set(gathered) == expected
    assert len(gathered) == len(expected)
    assert all(p.ds_persist for p in optimizer.optimizer.persistent_parameters)
    assert [len(module._forward_pre_hooks) for module in (tower, activation, layers)] == [0, 0, 1]
    assert [len(module._forward_hooks) for module in (tower, activation, layers)] == [1, 1, 1]
