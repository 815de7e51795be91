"""The policy: a loaded model whose parts train as asked, with adapters, features encoded once, and scoring."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from mmdpo.errors import ConfigError
from mmdpo.features.encode_once import FeatureStore
from mmdpo.models.families import Facts, backbone_of, facts_of
from mmdpo.models.load import (
    TRAINS,
    Lora,
    Part,
    Trainable,
    encoder_modules,
    part_of,
    require_parts,
    silence_dropout,
    with_existing_adapter,
    with_lora,
)
from mmdpo.scoring import install_scoring

logger = logging.getLogger(__name__)


def inner_of(model: Any) -> Any:
    """The Hugging Face model inside any adapter wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@dataclass
class LoadedModel:
    """A model ready to score.

    Args:
        model: What is trained: the Hugging Face model, or PEFT's wrapper around it.
        processor: Its processor.
        facts: Facts of the family.
        base_changed: Whether the adapter's initialisation changed the base weights.
        frozen_adapter: Whether a frozen copy of an existing adapter stands beside the trainable one.
        decisions: What was decided and why, for the manifest.
    """

    model: Any
    processor: Any
    facts: Facts
    base_changed: bool = False
    frozen_adapter: bool = False
    decisions: dict[str, Any] = field(default_factory=dict)

    @property
    def inner(self) -> Any:
        """The Hugging Face model inside any adapter wrapper."""
        return inner_of(self.model)

    @property
    def eos_ids(self) -> list[int]:
        """Ids that stop generation."""
        value = self.inner.generation_config.eos_token_id
        return [] if value is None else [value] if isinstance(value, int) else list(value)


def prepare(
    model: Any,
    processor: Any,
    *,
    trainable: Trainable = "llm",
    lora: Lora | None = None,
    adapter: str | None = None,
    router_aux_loss_coef: float | None = None,
) -> LoadedModel:
    """Makes a loaded model ready for preference training.

    Args:
        model: A Hugging Face model.
        processor: Its processor.
        trainable: Which parts train.
        lora: Adapter settings; None trains the parts themselves.
        adapter: An existing adapter to go on from; it is loaded twice, trainable and frozen (the reference).
        router_aux_loss_coef: Factor of a mixture of experts' load-balancing loss; None for what the model says itself.

    Returns:
        The model with its adapters and with the scoring keyword.
    """
    facts = facts_of(model)
    silence_dropout(model)
    if lora is None and adapter is None and model.dtype in (torch.bfloat16, torch.float16):
        model.float()  # an update of 5e-6 is rounded away in half precision; train.bf16 computes in it all the same
    trained = TRAINS[trainable]
    require_parts(model, facts, trained)
    for name, parameter in model.named_parameters():
        wanted = lora is None and adapter is None and part_of(name, facts) in trained
        parameter.requires_grad_(wanted and parameter.requires_grad)  # what the class freezes (sinusoids) stays so
    wrapped, base_changed = model, False
    if adapter is not None:
        wrapped = with_existing_adapter(model, adapter)
    elif lora is not None:
        wrapped, base_changed = with_lora(model, facts, trained, lora)
    encode_once(model, facts, router_aux_loss_coef)
    names = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    untouched = sorted(trained - {part_of(name, facts) for name in names}) if adapter is None else []
    if names and untouched:
        logger.warning(
            "the %s of %s has no linear layer, so LoRA leaves it as it is; lora: null trains it",
            " and ".join(untouched),
            facts.model_type,
        )
    if not names:
        raise ConfigError(
            "no parameter would be trained",
            why="The run would end with the model it began with.",
            fix="Check model.trainable and model.lora.targets.",
        )
    count = sum(parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad)
    return LoadedModel(
        wrapped,
        processor,
        facts,
        base_changed=base_changed,
        frozen_adapter=adapter is not None,
        decisions={"trainable": trainable, "trainable_parameters": count, "untouched_parts": untouched},
    )


def encode_once(model: Any, facts: Facts, router_aux_loss_coef: float | None = None) -> None:
    """Attaches the feature store and the scoring keyword, from which parts train now."""
    training: set[Part] = {part_of(name, facts) for name, p in model.named_parameters() if p.requires_grad}
    frozen: Literal["all", "tower", "none"] = "all"
    if "encoder" in training:
        frozen = "none"
    elif "projector" in training:
        # a tower that holds its own projector (Qwen's merger) cannot run under no_grad as a whole
        frozen = "none" if any("." in name for name in facts.projectors) else "tower"
    towers = encoder_modules(model, facts) if frozen == "tower" else []
    store = FeatureStore(backbone_of(model), facts.family, frozen, towers)
    install_scoring(model, store, router_aux_loss_coef)
