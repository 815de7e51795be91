"""FSDP2: which layers are sharded on their own.

Sharded layers are gathered when they run, by all processes together. The language model runs once a forward on every
process; an encoder does not: the features of an image that is known are not computed again, and a batch may hold no
image. So the language model's layers are sharded one by one, and encoder and projector with the root, which is gathered
at every forward.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from mmdpo.errors import ConfigError
from mmdpo.models.load import part_of
from mmdpo.policy import LoadedModel


def plan_sharding(plugin: Any, loaded: LoadedModel) -> None:
    """Tells accelerate which layers to shard on their own, and to cast no inputs or outputs.

    Args:
        plugin: ``accelerate``'s FSDP plugin.
        loaded: The model that will be sharded.

    Raises:
        ConfigError: It is FSDP1.
    """
    if plugin.fsdp_version != 2:
        raise ConfigError(
            f"FSDP version {plugin.fsdp_version} is asked for",
            why="It flattens frozen and trained parameters together and knows nothing of adapters that are switched.",
            fix="Use train.fsdp_config: {version: 2}.",
        )
    plugin.transformer_cls_names_to_wrap = language_layers(loaded)
    if plugin.mixed_precision_policy is not None:
        # Autocast casts the inputs of each matrix product. FSDP2 would round all that goes in, such as positions in
        # fractions, and all that comes out: the log-probabilities.
        plugin.mixed_precision_policy = dataclasses.replace(
            plugin.mixed_precision_policy, output_dtype=None, cast_forward_inputs=False
        )


def language_layers(loaded: LoadedModel) -> list[str]:
    """Class names of the language model's layers, of those that its family keeps whole."""
    names = {
        type(module).__name__
        for name, module in loaded.inner.named_modules()
        if part_of(f"{name}.weight", loaded.facts) == "llm"
    }
    return sorted(names & set(loaded.inner._no_split_modules or ()))
