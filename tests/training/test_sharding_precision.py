"""What several processes need of one: nothing rounded by FSDP2, and a gradient for every trained encoder part."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from torch import Tensor

from composed.languages import composed
from composed.test_training import events, npy, record, wav  # noqa: F401
from mmdpo.collate import Collator
from mmdpo.encoding.example import Encoder
from mmdpo.errors import ConfigError
from mmdpo.forward import backbone
from mmdpo.models.load import part_of
from mmdpo.policy import prepare
from mmdpo.records import Record
from mmdpo.scoring import score
from mmdpo.training.sharding import plan_sharding, require_shards
from mmdpo.views import View
from training.common import loaded_model


def test_fsdp2_rounds_no_input_and_no_output() -> None:
    """Weights and gradients keep the type of `train.bf16`; the policy is set as accelerate sets it."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    plugin.set_mixed_precision("bf16")
    assert plugin.mixed_precision_policy.output_dtype is torch.bfloat16

    plan_sharding(plugin, loaded_model())

    policy = plugin.mixed_precision_policy
    assert policy.output_dtype is None
    assert not policy.cast_forward_inputs
    assert policy.param_dtype is policy.reduce_dtype is torch.bfloat16


def test_fsdp2_without_mixed_precision_keeps_none() -> None:
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    plan_sharding(plugin, loaded_model())
    assert plugin.mixed_precision_policy is None


def test_processes_on_cpus_that_are_told_to_shard_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate would let them train with DDP, and say nothing."""
    require_shards(DistributedType.MULTI_CPU)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    require_shards(DistributedType.FSDP)
    with pytest.raises(ConfigError, match="CPUs"):
        require_shards(DistributedType.MULTI_CPU)


SENSES: dict[str, Record] = {
    "audio": record("audio", [("audio", wav(0.5, 1)), "What?"], ["A dog", "No"]),
    "event": record("event", [("event", npy(3, 1)), "What?"], ["A dog", "No"]),
}


@pytest.mark.usefixtures("events")
@pytest.mark.parametrize(("present", "absent"), [("audio", "event"), ("event", "audio")])
def test_the_sense_that_a_batch_lacks_has_gradients_of_zero(
    present: str, absent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have it; what the batch has trains as if there were no other."""
    policy = prepare(*composed(), trainable="projector")
    batch = Collator(Encoder(policy.processor, policy.facts, policy.eos_ids), [View(0), View(1)])(
        [(0, SENSES[present])]
    )

    def gradients() -> dict[str, Tensor | None]:
        model: Any = copy.deepcopy(policy.model)
        score(model, batch).sum().backward()
        return {
            name: value.grad for name, value in model.named_parameters() if part_of(name, policy.facts) == "projector"
        }

    found = gradients()
    monkeypatch.setattr(backbone, "_zero_from_encoders", lambda model, facts: contextlib.nullcontext())
    plain = gradients()

    for name, value in found.items():
        expected = plain[name]
        assert value is not None, name
        if f".{absent}." in name:
            assert expected is None
            assert not value.any(), name
        else:
            assert f".{present}." in name
            assert expected is not None
            assert value.any(), name
            assert value.equal(expected), name
