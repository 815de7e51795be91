"""Loads a model, decides which of its parts train, and puts adapters on exactly those."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from mmdpo.errors import ConfigError, ModelError
from mmdpo.features import FeatureStore
from mmdpo.models.families import Facts, facts_of
from mmdpo.scoring import install_scoring

logger = logging.getLogger(__name__)

Part = Literal["encoder", "projector", "llm"]
Trainable = Literal["llm", "llm+projector", "all"]
TRAINS: dict[Trainable, frozenset[Part]] = {
    "llm": frozenset({"llm"}),
    "llm+projector": frozenset({"llm", "projector"}),
    "all": frozenset({"llm", "projector", "encoder"}),
}
POLICY, REFERENCE = "default", "reference"
"""Names of the trainable adapter and of its frozen copy."""
BASE_CHANGING = {"pissa", "olora", "corda", "loftq", "lora_ga"}
"""LoRA initialisations that change the base weights, so that switching the adapter off is no reference."""


@dataclass(frozen=True)
class Lora:
    """LoRA settings.

    Args:
        r: Rank.
        alpha: Scale; the update is multiplied by alpha / r.
        dropout: Dropout on the adapter's input, in the policy's pass alone.
        targets: ``"auto"`` for every linear layer of the trained parts, or name suffixes.
        init: peft's ``init_lora_weights``.
    """

    r: int = 64
    alpha: float = 128
    dropout: float = 0.0
    targets: str | list[str] = "auto"
    init: bool | str = True


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

    model: nn.Module
    processor: Any
    facts: Facts
    base_changed: bool = False
    frozen_adapter: bool = False
    decisions: dict[str, Any] = field(default_factory=dict)

    @property
    def inner(self) -> Any:
        """The Hugging Face model inside any adapter wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def eos_ids(self) -> list[int]:
        """Ids that stop generation."""
        value = self.inner.generation_config.eos_token_id
        return [] if value is None else [value] if isinstance(value, int) else list(value)


def load_pretrained(
    path: str, *, attention: str = "auto", dtype: str = "auto", quantize: Literal["4bit"] | None = None
) -> tuple[nn.Module, Any]:
    """Loads a model and its processor from a folder or the hub; safetensors only, no remote code.

    Raises:
        ModelError: Nothing loadable is there.
    """
    import transformers

    if not Path(path).exists() and (path.startswith((".", "/", "~")) or path.count("/") != 1):
        raise ModelError(
            f"model path {path!r} does not exist",
            why="There is nothing to train or evaluate.",
            fix="Give a folder with a saved model, or a hub name such as llava-hf/llava-1.5-7b-hf.",
        )
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": False, "use_safetensors": True}
    if attention != "auto":
        options["attn_implementation"] = attention
    if quantize == "4bit":
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    try:
        model = transformers.AutoModelForImageTextToText.from_pretrained(path, **options)
        processor = transformers.AutoProcessor.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot load a model from {path!r}: {str(error).splitlines()[0]}",
            why="There is nothing to train or evaluate.",
            fix="Give a folder with a saved image-text model (config.json, *.safetensors, processor), or a hub name.",
        ) from error
    return model, processor


def prepare(
    model: nn.Module,
    processor: Any,
    *,
    trainable: Trainable = "llm",
    lora: Lora | None = None,
    adapter: str | None = None,
) -> LoadedModel:
    """Makes a loaded model ready for preference training.

    Args:
        model: A Hugging Face model.
        processor: Its processor.
        trainable: Which parts train.
        lora: Adapter settings; None trains the parts themselves.
        adapter: An existing adapter to go on from; it is loaded twice, trainable and frozen (the reference).

    Returns:
        The model with its adapters and with the scoring keyword.
    """
    facts = facts_of(model)
    silence_dropout(model)
    trained = TRAINS[trainable]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(lora is None and adapter is None and part_of(name, facts) in trained)
    wrapped, base_changed = model, False
    if adapter is not None:
        wrapped = _with_existing_adapter(model, adapter)
    elif lora is not None:
        wrapped, base_changed = _with_lora(model, facts, trained, lora)
    encode_once(model, facts)
    names = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
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
        decisions={"trainable": trainable, "trainable_parameters": count},
    )


def encode_once(model: nn.Module, facts: Facts) -> None:
    """Attaches the feature store and the scoring keyword, from which parts train now."""
    training: set[Part] = {part_of(name, facts) for name, p in model.named_parameters() if p.requires_grad}
    backbone: nn.Module = getattr(model, model.base_model_prefix)  # type: ignore[arg-type]
    frozen: Literal["all", "tower", "none"] = "all"
    if "encoder" in training:
        frozen = "none"
    elif "projector" in training:
        # a tower that holds its own projector (Qwen's merger) cannot run under no_grad as a whole
        frozen = "none" if any("." in name for name in facts.family.projector) else "tower"
    tower: Any = backbone.get_encoder(modality="image") if frozen == "tower" else None  # type: ignore[operator]
    install_scoring(model, FeatureStore(backbone, frozen, tower))


def part_of(name: str, facts: Facts) -> Part:
    """Which part of the model a parameter belongs to, by its name."""
    plain = name.replace("base_model.model.", "")
    if any(f".{projector}." in f".{plain}" for projector in facts.family.projector):
        return "projector"
    if any(f".{module}." in f".{plain}" for module in ("language_model", "text_model", "lm_head")):
        return "llm"
    return "encoder"


def silence_dropout(model: nn.Module) -> None:
    """Switches off every source of noise of the loaded model: policy and reference must differ by training alone."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in ("attention_dropout", "dropout", "activation_dropout", "hidden_dropout", "layerdrop"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.0
            module.eval()
    for config in _configs(model.config):
        if getattr(config, "apply_spec_augment", False):
            config.apply_spec_augment = False


def _configs(config: Any) -> Iterator[Any]:
    yield config
    for name in getattr(config, "sub_configs", {}):
        if getattr(config, name, None) is not None:
            yield getattr(config, name)


def lora_targets(model: nn.Module, facts: Facts, trained: frozenset[Part], targets: str | list[str]) -> list[str]:
    """Full names of the linear layers that get an adapter, the output head excluded.

    Raises:
        ConfigError: No layer matches.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and part_of(f"{name}.weight", facts) in trained
    ]
    if targets != "auto":
        suffixes = [targets] if isinstance(targets, str) else targets
        linear = [name for name in linear if any(name == s or name.endswith(f".{s}") for s in suffixes)]
    if not linear:
        raise ConfigError(
            f"lora.targets {targets!r} match no linear layer of the trained parts",
            why="There would be nothing to train.",
            fix='Use "auto", or suffixes of module names such as [q_proj, v_proj].',
        )
    return linear


def _with_lora(model: nn.Module, facts: Facts, trained: frozenset[Part], lora: Lora) -> tuple[nn.Module, bool]:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=lora_targets(model, facts, trained, lora.targets),
        init_lora_weights=lora.init,  # type: ignore[arg-type]
        bias="none",
    )
    wrapped = get_peft_model(model, config, adapter_name=POLICY)  # type: ignore[arg-type]
    changed = isinstance(lora.init, str) and lora.init.split("_niter")[0].lower() in BASE_CHANGING
    return wrapped, changed


def _with_existing_adapter(model: nn.Module, adapter: str) -> nn.Module:
    from peft import PeftModel

    if not (Path(adapter) / "adapter_config.json").is_file():
        raise ModelError(
            f"model.adapter {adapter!r} is no adapter folder (no adapter_config.json)",
            why="Training would silently start from the base model.",
            fix="Give the adapter/ folder of an earlier run.",
        )
    wrapped = PeftModel.from_pretrained(model, adapter, adapter_name=POLICY, is_trainable=True)  # type: ignore[arg-type]
    wrapped.load_adapter(adapter, adapter_name=REFERENCE, is_trainable=False)
    wrapped.set_adapter(POLICY)
    for name, module in wrapped.named_modules():
        if name.endswith(f"lora_dropout.{REFERENCE}") and hasattr(module, "p"):
            module.p = 0.0
    return wrapped
