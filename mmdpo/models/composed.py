"""Composed models: any Hugging Face causal language model, with encoders of any modality in front of it.

    from transformers import AutoModelForMultimodalLM, AutoProcessor
    from mmdpo.models.composed import compose

    model, processor = compose(
        "models/some-llm",                                   # or a loaded causal LM, with tokenizer=...
        {"audio": {"kind": "whisper", "path": "models/whisper-small", "stack": 8}},
    )
    parts = [{"type": "audio", "audio": clip}, {"type": "text", "text": "What is heard?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )                                                        # input_ids, attention_mask, audio_input_features, ...
    print(processor.decode(model.generate(**inputs, max_new_tokens=20)[0]))
    model.save_pretrained("out"), processor.save_pretrained("out")
    model = AutoModelForMultimodalLM.from_pretrained("out")  # after `import mmdpo.models.composed`
    processor = AutoProcessor.from_pretrained("out")

An encoder is given as an object or by its kind: ``WhisperFeatures(config={...})`` is ``{"kind": "whisper", "config":
{...}}``. Without ``path`` its weights are fresh: a tiny one for tests is ``WhisperFeatures(config=dict(d_model=32,
encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=64, num_mel_bins=80, max_source_positions=100), stack=4)``
with windows of 2 seconds (``max_source_positions`` counts 20 ms). ``Embeddings(dim=64)`` takes float arrays [t, 64] as
they are, for any modality name. ``model.get_media_features("audio", input_features=..., lengths=...)`` gives projected
features; ``model.model.encoders["audio"](...)`` what the encoder alone gives, a list of [tokens_i, width].

The projector is always fresh: train it first (``model.trainable: projector`` with an ``sft`` term, see
``docs/composed.md``). Importing this module registers the classes with the Auto classes of ``transformers``.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AddedToken,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
)

from mmdpo.errors import ConfigError, ModelError, did_you_mean
from mmdpo.modalities.encoders import MediaEncoder
from mmdpo.models.chat_templates import with_media
from mmdpo.models.composed_backbone import ComposedModel
from mmdpo.models.composed_config import ComposedConfig
from mmdpo.models.composed_model import ComposedForConditionalGeneration
from mmdpo.models.composed_processor import ComposedProcessor
from mmdpo.models.logit_rules import check_logits, logit_rule
from mmdpo.models.media_specs import encoder_of, entry_of


def compose(
    llm: Any,
    encoders: Mapping[str, MediaEncoder | Mapping[str, Any]],
    *,
    tokenizer: Any = None,
    placeholders: Mapping[str, str] | None = None,
    projector_hidden: int | None = None,
    seed: int = 0,
) -> tuple[ComposedForConditionalGeneration, ComposedProcessor]:
    """Puts encoders, each with a fresh projector, in front of a causal language model.

    Args:
        llm: Folder or hub name of a causal language model, or a loaded one, whose modules then belong to the result.
        encoders: For each modality an encoder, or its ``kind`` and fields.
        tokenizer: The language model's; by default loaded from where the model comes from. It is copied.
        placeholders: Placeholder token by modality; ``<|modality|>`` by default.
        projector_hidden: Width between the projector's layers; by default the language model's.
        seed: Seed of all fresh weights.

    Returns:
        The model, in evaluation mode and of the language model's dtype, and its processor.

    Raises:
        ConfigError: Placeholders clash, or an encoder is not known.
        ModelError: The composed model's logits on text are not the language model's own.
    """
    if not encoders:
        raise ConfigError(
            "no encoder is given",
            why="A composed model reads media; without any it is the language model.",
            fix="Give at least one, such as audio: {kind: whisper, path: ...}.",
        )
    llm, tokenizer = _loaded(llm, tokenizer)
    specs = {m: e if isinstance(e, MediaEncoder) else encoder_of(m, e) for m, e in encoders.items()}
    tokens = _placeholders(tokenizer, specs, placeholders or {})
    llm.eval()
    probe = torch.arange(1, 17, device=llm.device)[None] % llm.get_input_embeddings().num_embeddings
    with torch.no_grad():
        wanted = llm(input_ids=probe).logits
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in tokens.values()], special_tokens=True)
    ids = {modality: int(tokenizer.convert_tokens_to_ids(token)) for modality, token in tokens.items()}
    media = {m: entry_of(m, spec) | {"token": tokens[m], "token_id": ids[m]} for m, spec in specs.items()}
    for entry in media.values():
        entry.pop("path", None)  # the weights are the composed model's own from here on
    _make_room(llm, max(len(tokenizer), *(number + 1 for number in ids.values())))
    tokenizer.chat_template = with_media(_own_template(tokenizer), tokens)
    model = _joined(llm, specs, media, projector_hidden, seed)
    check_logits(model, probe, wanted)
    _set_generation(model, llm, tokenizer)
    return model, ComposedProcessor(tokenizer, media, chat_template=tokenizer.chat_template)


def compose_from(section: Mapping[str, Any]) -> tuple[ComposedForConditionalGeneration, ComposedProcessor]:
    """Composes what a run configuration says under ``model.compose``: ``llm``, ``encoders``, and options.

    Raises:
        ConfigError: A key is missing or unknown; all that :func:`compose` raises.
    """
    known = {"llm", "encoders", "placeholders", "projector_hidden", "seed"}
    for name in section:
        if name not in known:
            raise ConfigError(
                f"model.compose has no setting {name!r}", why=did_you_mean(name, known), fix="Correct or remove it."
            )
    for name in ("llm", "encoders"):
        if not section.get(name):
            raise ConfigError(
                f"model.compose.{name} is missing",
                why="A composed model needs a language model and at least one encoder.",
                fix="compose: {llm: PATH, encoders: {audio: {kind: whisper, path: PATH}}}",
            )
    options = {name: section[name] for name in ("placeholders", "projector_hidden", "seed") if name in section}
    return compose(section["llm"], section["encoders"], **options)


def _loaded(llm: Any, tokenizer: Any) -> tuple[Any, Any]:
    """The language model and a tokenizer of its own."""
    if isinstance(llm, str | Path):
        source = str(llm)
        try:
            llm = AutoModelForCausalLM.from_pretrained(
                source, dtype="auto", trust_remote_code=False, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise ModelError(
                f"cannot load a language model from {source!r}: {str(error).splitlines()[0]}",
                why="There is nothing to put the encoders in front of.",
                fix="Give a folder with a saved causal language model (config.json, *.safetensors), or a hub name.",
            ) from error
    else:
        source = llm.config.name_or_path
    if tokenizer is None:
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, mistral_format=False)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"cannot load a tokenizer from {source!r}: {str(error).splitlines()[0]}",
                why="Text could not be turned into the language model's ids.",
                fix="Save it beside the model, or give it as tokenizer=.",
            ) from error
    _check_language_model(llm)
    return llm, copy.deepcopy(tokenizer)


def _check_language_model(llm: Any) -> None:
    if llm.config.get_text_config() is not llm.config:
        raise ModelError(
            f"{type(llm).__name__} is no language model for text alone (model type {llm.config.model_type})",
            why="It has encoders of its own, or is an encoder-decoder.",
            fix="Give its language model, or train it as it is with model.path.",
        )
    if "past_key_values" not in inspect.signature(llm.base_model.forward).parameters:
        raise ModelError(
            f"{type(llm).__name__} takes no past_key_values",
            why="It keeps its state in a way of its own (Mamba), and could not generate inside a composed model.",
            fix="Use a language model with attention layers; hybrids are fine.",
        )
    head = llm.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ModelError(
            f"the output layer of {type(llm).__name__} is a {type(head).__name__}, not a linear layer",
            why="Log-probabilities are computed from its weight.",
            fix="Use another language model.",
        )


def _placeholders(tokenizer: Any, specs: Mapping[str, Any], wanted: Mapping[str, str]) -> dict[str, str]:
    """The placeholder of each modality; none is shared, and none is an ordinary token."""
    for name in wanted:
        if name not in specs:
            raise ConfigError(
                f"placeholders name modality {name!r}, which has no encoder",
                why=did_you_mean(name, specs),
                fix="Remove it, or give it an encoder.",
            )
    tokens = {modality: wanted.get(modality, f"<|{modality}|>") for modality in specs}
    used: dict[str, str] = {}
    taken = {getattr(tokenizer, f"{kind}_token", None) for kind in ("bos", "eos", "pad", "unk", "sep", "cls", "mask")}
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    for modality, token in tokens.items():
        if not isinstance(token, str) or not token.strip():
            raise ConfigError(
                f"the placeholder {token!r} of modality {modality!r} is blank or no text",
                why="Every blank in a prompt would be taken for an item.",
                fix="Choose another one under placeholders, such as " + repr(f"<|{modality}|>") + ", or leave it out.",
            )
        if token in used:
            raise ConfigError(
                f"modalities {used[token]!r} and {modality!r} both want the placeholder {token!r}",
                why="Which item a placeholder stands for would not be known.",
                fix="Give each its own under placeholders.",
            )
        if token in taken or (token in tokenizer.get_vocab() and token not in special):
            raise ConfigError(
                f"the placeholder {token!r} of modality {modality!r} already is a token of the language model",
                why="Every use of it in text would be taken for an item.",
                fix="Choose another one under placeholders, such as " + repr(f"<|{modality}_item|>") + ".",
            )
        used[token] = modality
    return tokens


def _own_template(tokenizer: Any) -> str | None:
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


@torch.no_grad()
def _make_room(llm: Any, size: int) -> None:
    """Grows the vocabulary where it is too small; new rows are the mean of the old, so that none stands out."""
    old = llm.get_input_embeddings().num_embeddings
    if old >= size:
        return
    llm.resize_token_embeddings(size, mean_resizing=False)
    head = llm.get_output_embeddings()
    for values in (llm.get_input_embeddings().weight, head.weight, head.bias):
        if values is not None:
            values[old:] = values[:old].mean(0)


def _joined(
    llm: Any, specs: Mapping[str, MediaEncoder], media: dict[str, Any], projector_hidden: int | None, seed: int
) -> ComposedForConditionalGeneration:
    text = llm.config
    head, embedding = llm.get_output_embeddings(), llm.get_input_embeddings()
    scale, softcap = logit_rule(text)
    kernels = text._attn_implementation, text._experts_implementation
    config = ComposedConfig(
        text_config=text,
        media=media,
        projector_hidden_size=projector_hidden,
        logit_scale=scale,
        logit_softcap=softcap,
        head_bias=head.bias is not None,
        tie_word_embeddings=head.weight is embedding.weight,
    )
    # a new configuration hands its own choice of kernels, none, down to the one inside it
    text._attn_implementation, text._experts_implementation = kernels
    for module in llm.modules():
        module._is_hf_initialized = True  # its weights are there
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoders = {modality: spec.load() for modality, spec in specs.items()}
        model = ComposedForConditionalGeneration(config, llm.base_model, encoders, head)
    with torch.no_grad():
        size = embedding(torch.arange(min(4096, embedding.num_embeddings), device=llm.device)).float().std()
        projectors: Any = model.model.projectors
        for projector in projectors.values():
            projector.linear_2.weight.mul_(size)  # features as large as the embeddings beside them
    model.model.encoders.to(llm.device, llm.dtype)
    model.model.projectors.to(llm.device, llm.dtype)
    return model.eval()


def _set_generation(model: Any, llm: Any, tokenizer: Any) -> None:
    model.generation_config = copy.deepcopy(llm.generation_config)
    if model.generation_config.eos_token_id is None:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id


AutoConfig.register(ComposedConfig.model_type, ComposedConfig)
AutoModel.register(ComposedConfig, ComposedModel)
for _auto in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    _auto.register(ComposedConfig, ComposedForConditionalGeneration)
AutoProcessor.register(ComposedConfig, ComposedProcessor)
