"""Loads models, tells their parts apart, and puts adapters on exactly the parts that train."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from mmdpo.errors import ConfigError, ModelError
from mmdpo.models.families import Facts, backbone_of

Part = Literal["encoder", "projector", "llm"]
Trainable = Literal["llm", "projector", "llm+projector", "all"]
TRAINS: dict[Trainable, frozenset[Part]] = {
    "llm": frozenset({"llm"}),
    "projector": frozenset({"projector"}),
    "llm+projector": frozenset({"llm", "projector"}),
    "all": frozenset({"llm", "projector", "encoder"}),
}
POLICY, REFERENCE = "default", "reference"
"""Names of the trainable adapter and of its frozen copy."""
_PLAYGROUND = Path(__file__).resolve().parent.parent / "playground"
SHIPPED = {"playground": _PLAYGROUND / "weights", "audio-playground": _PLAYGROUND / "audio" / "weights"}
"""Models that come with the package, by the name that stands for their path."""
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


def load_pretrained(
    path: str, *, attention: str = "auto", dtype: str = "auto", quantize: Literal["4bit"] | None = None
) -> tuple[nn.Module, Any]:
    """Loads a model and its processor from a folder or the hub; safetensors only, no remote code.

    Raises:
        ModelError: Nothing loadable is there, or a package that it needs is missing.
    """
    import transformers

    path = str(SHIPPED.get(path, path))
    if not Path(path).exists() and (path.startswith((".", "/", "~")) or path.count("/") != 1):
        raise ModelError(
            f"model path {path!r} does not exist",
            why="There is nothing to train or evaluate.",
            fix="Give a folder with a saved model, or a hub name such as llava-hf/llava-1.5-7b-hf.",
        )
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": False, "use_safetensors": True}
    if attention != "auto":
        # encoders have lengths of their own (576 patches and a class token), which are no multiples of a flex block
        flex = {"": "sdpa", "text_config": "flex_attention"}
        options["attn_implementation"] = flex if attention == "flex" else attention
    try:
        if quantize == "4bit":
            options["quantization_config"] = transformers.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
            )
        model = _model_class(path).from_pretrained(path, **options)
        processor = _processor(path, model.config.model_type)
        if model.config.model_type.endswith("_thinker") and model.generation_config.eos_token_id is None:
            model.generation_config.eos_token_id = processor.tokenizer.eos_token_id  # the whole model's names none
    except ImportError as error:
        wanted = "quantize: 4bit" if quantize else f"attention: {attention}" if attention != "auto" else "its classes"
        raise ModelError(
            f"cannot load a model from {path!r}: {str(error).strip().splitlines()[0]}",
            why=f"A package that {wanted} needs is not installed.",
            fix="pip install mmdpo[quant]" if quantize else "Install the package that is named.",
        ) from error
    except (OSError, ValueError) as error:
        if "does not support an attention implementation" in str(error):
            raise ModelError(
                f"{str(error).split(' does not', maxsplit=1)[0]} cannot take attention: {attention}",
                why="Its code in transformers does not offer it.",
                fix="Use model.attention: auto.",
            ) from error
        raise ModelError(
            f"cannot load a model from {path!r}: {str(error).splitlines()[0]}",
            why="There is nothing to train or evaluate.",
            fix="Give a folder with a saved multimodal model (config.json, *.safetensors, processor), or a hub name.",
        ) from error
    return model, processor


def _processor(path: str, model_type: str) -> Any:
    """The processor of a folder or hub name; of Voxtral, whose files no class of transformers reads alone, ours."""
    import transformers

    if model_type == "voxtral":
        from mmdpo.models.mistral_common import voxtral_processor  # imports the audio classes

        return voxtral_processor(path)
    return transformers.AutoProcessor.from_pretrained(path, trust_remote_code=False)


def _model_class(path: str) -> Any:
    """The class to load a folder or hub name with: of the omni models, the thinker alone."""
    import transformers

    thinkers = {
        "qwen2_5_omni": "Qwen2_5OmniThinkerForConditionalGeneration",
        "qwen3_omni_moe": "Qwen3OmniMoeThinkerForConditionalGeneration",
    }
    values, _ = transformers.PreTrainedConfig.get_config_dict(path)
    kind = values.get("model_type")
    if kind == "mmdpo_composed":
        import mmdpo.models.composed  # noqa: F401  (registers its classes)
    if kind in thinkers:
        return getattr(transformers, thinkers[kind])
    # Audio Flamingo 3 is in no mapping of multimodal models; what saved the weights is named beside them
    named = getattr(transformers, (values.get("architectures") or [""])[0] or "", None)
    mapped = kind in transformers.models.auto.modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    return named if named is not None and not mapped else transformers.AutoModelForMultimodalLM


def part_of(name: str, facts: Facts) -> Part:
    """Which part of the model a parameter belongs to, by its name in the model or in PEFT's wrapper."""
    path = name.replace("base_model.model.", "", 1).removeprefix(facts.prefix)
    if path.startswith("encoders."):  # of a composed model, whatever an encoder calls its modules
        return "encoder"
    if any(f"{path}.".startswith(f"{projector}.") for projector in facts.projectors):
        return "projector"
    if any(f".{module}." in f".{path}" for module in ("language_model", "text_model", "lm_head")):
        return "llm"
    return "encoder"


def require_parts(model: nn.Module, facts: Facts, trained: frozenset[Part]) -> None:
    """Refuses a choice of parts that the model has not, as far as its names tell.

    Raises:
        ConfigError: Naming the modules that are known.
    """
    found = {part_of(name, facts) for name, _ in model.named_parameters()}
    if trained <= found:
        return
    inside = ", ".join(sorted(name for name, _ in backbone_of(model).named_children()))
    raise ConfigError(
        f"model.trainable asks for the {' and '.join(sorted(trained - found))} of {facts.model_type!r}: unknown",
        why=f"Other parameters than those asked for would train. Its modules are: {inside}; an encoder of precomputed "
        "features has no weights.",
        fix="Choose another model.trainable, or add the module's path to PROJECTORS in mmdpo/models/families.py.",
    )


def encoder_modules(model: nn.Module, facts: Facts) -> list[nn.Module]:
    """The outermost modules that hold parameters of encoders and of nothing else."""
    parts: dict[str, set[Part]] = {}
    for name, _ in model.named_parameters():
        pieces = name.split(".")
        for depth in range(1, len(pieces)):
            parts.setdefault(".".join(pieces[:depth]), set()).add(part_of(name, facts))
    held = (nn.ModuleDict, nn.ModuleList)  # containers are never called themselves
    inside = {
        path
        for path, kinds in parts.items()
        if kinds == {"encoder"} and not isinstance(model.get_submodule(path), held)
    }
    outermost = [path for path in sorted(inside) if not any(path.startswith(f"{other}.") for other in inside)]
    return [model.get_submodule(path) for path in outermost]


def silence_dropout(model: nn.Module) -> None:
    """Switches off every source of noise of the loaded model: policy and reference must differ by training alone."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in ("attention_dropout", "dropout", "activation_dropout", "hidden_dropout", "layerdrop"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = types.MethodType(_stay, module)  # type: ignore[method-assign]
    for config in _configs(model.config):
        if getattr(config, "apply_spec_augment", False):
            config.apply_spec_augment = False


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """In place of a batch norm's ``train``: it keeps its running statistics, whatever mode the model is put in."""
    del mode
    return module


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
    # torch's own attention reads the weight of its output layer itself: an adapter on it would have no effect
    unread = {m.out_proj for m in model.modules() if isinstance(m, nn.MultiheadAttention)} | {head}
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module not in unread and part_of(f"{name}.weight", facts) in trained
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


def with_lora(model: Any, facts: Facts, trained: frozenset[Part], lora: Lora) -> tuple[nn.Module, bool]:
    """Wraps a model with a fresh adapter.

    Args:
        model: A Hugging Face model.
        facts: Its facts.
        trained: Parts that get adapters.
        lora: Settings.

    Returns:
        PEFT's wrapper, and whether the initialisation changed the base weights.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora_targets(model, facts, trained, lora.targets),
        init_lora_weights=lora.init,
        bias="none",
    )
    wrapped = get_peft_model(model, config, adapter_name=POLICY)
    changed = isinstance(lora.init, str) and lora.init.split("_niter")[0].lower() in BASE_CHANGING
    return wrapped, changed


def with_existing_adapter(model: Any, adapter: str) -> nn.Module:
    """Loads an adapter twice: the one that trains, and its frozen copy, the reference.

    Raises:
        ModelError: There is no adapter in the folder.
    """
    from peft import PeftModel

    if not (Path(adapter) / "adapter_config.json").is_file():
        raise ModelError(
            f"model.adapter {adapter!r} is no adapter folder (no adapter_config.json)",
            why="Training would silently start from the base model.",
            fix="Give the adapter/ folder of an earlier run.",
        )
    wrapped = PeftModel.from_pretrained(model, adapter, adapter_name=POLICY, is_trainable=True)
    wrapped.load_adapter(adapter, adapter_name=REFERENCE, is_trainable=False)
    wrapped.set_adapter(POLICY)
    for name, module in wrapped.named_modules():
        if name.endswith(f"lora_dropout.{REFERENCE}") and hasattr(module, "p"):
            module.p = 0.0
    return wrapped
