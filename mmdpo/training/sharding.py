"""FSDP2 and ZeRO-3: which layers are sharded on their own.

Sharded layers are gathered when they run, by all processes together. The language model runs once a forward on every
process; an encoder does not: the features of an image that is known are not computed again, and a batch may hold no
image. So the language model's layers are sharded one by one, and encoder and projector with the root, which is gathered
at every forward. ZeRO-3 has no such root: there encoder and projector stay whole on every process.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from accelerate.utils import DistributedType, parse_flag_from_env
from transformers import TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from mmdpo.errors import ConfigError
from mmdpo.models.load import part_of
from mmdpo.policy import LoadedModel


def plan_sharding(plugin: Any, loaded: LoadedModel) -> None:
    """Tells accelerate which layers to shard on their own, and to cast no inputs or outputs.

    Args:
        plugin: ``accelerate``'s FSDP plugin.
        loaded: The model that will be sharded.

    Raises:
        ConfigError: It is FSDP1, or the family's layers run on some processes only.
    """
    if plugin.fsdp_version != 2:
        raise ConfigError(
            f"FSDP version {plugin.fsdp_version} is asked for",
            why="It flattens frozen and trained parameters together and knows nothing of adapters that are switched.",
            fix="Use train.fsdp_config: {version: 2}.",
        )
    require_every_layer_runs(loaded, "FSDP2")
    plugin.transformer_cls_names_to_wrap = language_layers(loaded)
    if plugin.mixed_precision_policy is not None:
        # Autocast casts the inputs of each matrix product. FSDP2 would round all that goes in, such as positions in
        # fractions, and all that comes out: the log-probabilities.
        plugin.mixed_precision_policy = dataclasses.replace(
            plugin.mixed_precision_policy, output_dtype=None, cast_forward_inputs=False
        )


def require_shards(distributed: DistributedType) -> None:
    """Refuses processes that were told to shard and would each hold everything.

    Args:
        distributed: How ``accelerate`` lets the processes work together.

    Raises:
        ConfigError: FSDP is asked for on CPUs.
    """
    if distributed is DistributedType.MULTI_CPU and parse_flag_from_env("ACCELERATE_USE_FSDP"):
        raise ConfigError(
            "FSDP is asked for, and the processes train on CPUs",
            why="accelerate shards on accelerators alone: it would train with DDP, and each process hold everything.",
            fix="Use DDP: mmdpo train CONFIG --processes N, or configs/accelerate/ddp.yaml, and no train.fsdp.",
        )


def plan_zero(plugin: Any, loaded: LoadedModel, frozen: Any) -> TrainerCallback | None:
    """Keeps DeepSpeed from adding up gradients of different parameters, and ZeRO-3 from waiting forever.

    Args:
        plugin: ``accelerate``'s DeepSpeed plugin.
        loaded: The model that will train.
        frozen: The frozen copy that is the reference, if any.

    Returns:
        What the trainer must call; None below stage 3.

    Raises:
        ConfigError: More than the language model trains, its layers run on some processes only, or ZeRO-3 would shard
            parameters that a frozen copy shares.
    """
    require_every_layer_runs(loaded, "DeepSpeed")
    trained = {part_of(name, loaded.facts) for name, p in loaded.model.named_parameters() if p.requires_grad}
    if trained - {"llm"}:
        raise ConfigError(
            f"DeepSpeed cannot train the {' and '.join(sorted(trained - {'llm'}))}",
            why="It adds up the gradients of all processes in the order in which each has computed them, and that is "
            "another one where a batch has no media: gradients of different parameters would be mixed, silently.",
            fix="Use model.trainable: llm, or DDP or FSDP2 (configs/accelerate/ddp.yaml, fsdp2.yaml).",
        )
    if plugin.zero_stage != 3:
        return None
    if frozen is not None:
        raise ConfigError(
            "DeepSpeed ZeRO-3 cannot shard a model that shares parameters with a frozen copy, its reference",
            why="The copy is used outside of DeepSpeed, and would find its parameters empty.",
            fix="Use reference: {kind: cached}, or FSDP2 (configs/accelerate/fsdp2.yaml).",
        )
    # it fetches ahead what the forward before has read; policy and reference do not read the same
    plugin.deepspeed_config["zero_optimization"]["stage3_prefetch_bucket_size"] = 0
    return WholeEncoders(loaded)


class WholeEncoders(TrainerCallback):
    """Takes encoders and projectors out of ZeRO-3's hands: not every process runs them at every forward.

    Args:
        loaded: The model.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Gathers them once and for all, and removes the hooks that would gather and release them."""
        kept = kwargs["optimizer"].optimizer.persistent_parameters
        known = {id(parameter) for parameter in kept}
        for prefix, module in self.loaded.model.named_modules():
            inside = dict(module.named_parameters(prefix))
            if not inside or any(part_of(name, self.loaded.facts) == "llm" for name in inside):
                continue
            for part in module.modules():  # also those without parameters
                for hooks in (part._forward_pre_hooks, part._forward_hooks):
                    for key in [key for key, hook in hooks.items() if hook.__module__.startswith("deepspeed")]:
                        del hooks[key]
            new = [p for p in inside.values() if id(p) not in known]
            known |= {id(p) for p in new}
            kept += new
            for parameter in new:
                parameter.ds_persist = True
        if kept:
            kept[0].all_gather(kept)


def load_whole() -> None:
    """Lets models be loaded in one piece: they are tried, and given adapters, before ZeRO-3 shards them."""
    unset_hf_deepspeed_config()


def require_every_layer_runs(loaded: LoadedModel, how: str) -> None:
    """Refuses to shard a family whose layers depend on the media of a batch.

    Raises:
        ConfigError: It reads media through cross-attention.
    """
    if loaded.facts.family.cross_attention:
        raise ConfigError(
            f"{how} cannot shard a {loaded.facts.model_type}",
            why="Its cross-attention layers run where a batch has an image and are left out where it has none: a "
            "process without images would not gather them, and all others would wait for it forever.",
            fix="Train it with DDP (mmdpo train CONFIG --processes N), with model.quantize: 4bit if it does not fit.",
        )


def compile_layers(loaded: LoadedModel) -> None:
    """Compiles the language model's layers, each alone: one compilation serves all of them, and every length."""
    names = set(language_layers(loaded))
    for module in loaded.inner.modules():
        if type(module).__name__ in names:
            module.compile(dynamic=True)


def language_layers(loaded: LoadedModel) -> list[str]:
    """Class names of the language model's layers, of those that its family keeps whole."""
    names = {
        type(module).__name__
        for name, module in loaded.inner.named_modules()
        if part_of(f"{name}.weight", loaded.facts) == "llm"
    }
    return sorted(names & set(loaded.inner._no_split_modules or ()))
