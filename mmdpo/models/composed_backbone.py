"""The backbone of a composed model: encoders and projectors in front of a language model without its head.

    encoders.<modality>      what the encoder's specification builds; gives a list of [tokens_i, width]
    projectors.<modality>    LayerNorm, Linear, GELU, Linear: to the width of the language model
    language_model           the language model's own base model; masks and positions go to it as they are

Projected features take the place of the embeddings of their placeholder tokens, in reading order.
"""

from __future__ import annotations

import inspect
import math
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from mmdpo.errors import ModelError
from mmdpo.models.composed_config import ComposedConfig
from mmdpo.models.media_specs import encoder_of


class ProjectorLayer(nn.Linear):
    """A linear layer whose fresh weights keep the variance; the usual 0.02 leaves a narrow model deaf for long."""


class Projector(nn.Module):
    """From an encoder's features to the language model's embeddings.

    Args:
        width: Length of a feature.
        hidden: Width between the layers.
        output: Width of the language model.
    """

    def __init__(self, width: int, hidden: int, output: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear_1 = ProjectorLayer(width, hidden)
        self.activation = nn.GELU()
        self.linear_2 = ProjectorLayer(hidden, output)

    def forward(self, features: Tensor) -> Tensor:
        """[n, width] to [n, output]."""
        projected: Tensor = self.linear_2(self.activation(self.linear_1(self.norm(features))))
        return projected


class ComposedPreTrainedModel(PreTrainedModel):
    """What the composed model and its backbone share."""

    config_class = ComposedConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ProjectorLayer):
            init.normal_(module.weight, std=1 / math.sqrt(module.in_features))

    def initialize_weights(self) -> None:
        """Fresh weights; and buffers that are not saved, which ``from_pretrained`` leaves empty."""
        super().initialize_weights()
        for module in self.modules():
            if isinstance(module, ComposedModel):
                module.restore_buffers()


class ComposedModel(ComposedPreTrainedModel):
    """Encoders, projectors and the language model without its head.

    Args:
        config: The configuration.
        language_model: The language model, when it is there already; otherwise a fresh one.
        encoders: Encoders by modality that are there already; all others are fresh.
    """

    def __init__(
        self,
        config: ComposedConfig,
        language_model: PreTrainedModel | None = None,
        encoders: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__(config)
        given = dict(encoders or {})
        self.specs = {name: encoder_of(name, entry) for name, entry in (config.media or {}).items()}
        self.language_model = AutoModel.from_config(config.text_config) if language_model is None else language_model
        width = self.language_model.get_input_embeddings().embedding_dim
        hidden = config.projector_hidden_size or width
        self.projectors = nn.ModuleDict(
            {name: Projector(spec.width, hidden, width) for name, spec in self.specs.items()}
        )
        # Not on the meta device, where from_pretrained builds models: an encoder of a user need not be fit for it.
        with torch.device("cpu"):
            self.encoders = nn.ModuleDict({name: given.get(name) or spec.build() for name, spec in self.specs.items()})
        self._unsaved = {name: value.clone() for name, value in self._unsaved_buffers()}
        for module in self.encoders.modules():
            module._is_hf_initialized = True  # type: ignore[assignment]
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Sets the language model's."""
        self.language_model.set_input_embeddings(value)

    def get_encoder(self, modality: str | None = None) -> Any:
        """The encoder of a modality."""
        return self.encoders[modality] if modality is not None else super().get_encoder()

    @torch.no_grad()
    def restore_buffers(self) -> None:
        """Fills the encoders' buffers that are not saved with what their constructors computed."""
        for name, value in self._unsaved_buffers():
            value.copy_(self._unsaved[name])

    def _unsaved_buffers(self) -> Iterator[tuple[str, Tensor]]:
        for name, module in self.encoders.named_modules():
            for buffer in module._non_persistent_buffers_set:
                value = getattr(module, buffer)
                if value is not None:
                    yield f"{name}.{buffer}", value

    @can_return_tuple
    def get_media_features(self, modality: str, **inputs: Tensor) -> BaseModelOutputWithPooling:
        """Encodes and projects the items of one modality.

        Args:
            modality: Its name.
            **inputs: The encoder's inputs, [n, ...] each, by their own names (without the modality).

        Returns:
            ``pooler_output``: a list of n [tokens_i, hidden].

        Raises:
            ModelError: The encoder gives anything but a list of n [tokens_i, width].
        """
        projector: Any = self.projectors[modality]
        dtype = projector.linear_1.weight.dtype
        cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
        features: Sequence[Tensor] = self.encoders[modality](**cast)
        self._check_features(modality, features, count=len(next(iter(cast.values()))))
        projected = projector(torch.cat(list(features)).to(dtype))
        return BaseModelOutputWithPooling(pooler_output=list(projected.split([len(piece) for piece in features])))

    def _check_features(self, modality: str, features: Any, count: int) -> None:
        width = self.specs[modality].width
        is_list = isinstance(features, list | tuple) and all(isinstance(piece, Tensor) for piece in features)
        if is_list and len(features) == count and all(p.ndim == 2 and p.shape[1] == width for p in features):
            return
        if is_list:
            found = f"{len(features)} tensors of shapes {reprlib.repr([tuple(piece.shape) for piece in features])}"
        elif isinstance(features, Tensor):
            found = f"one tensor of shape {tuple(features.shape)}"
        else:
            found = f"a {type(features).__name__}" + (" of other things than tensors" if features else "")
        raise ModelError(
            f"the encoder {type(self.encoders[modality]).__name__} of modality {modality!r} gives {found}; "
            f"wanted is a list of {count} tensors [tokens, {width}], one for each item",
            why="Features could not be told apart by item, or do not fit the projector.",
            fix="Correct its forward(), or the width of its specification; mmdpo.conformance.check tries an encoder.",
        )

    def media_function(self, modality: str) -> Callable[..., BaseModelOutputWithPooling]:
        """:meth:`get_media_features` of one modality, under the names that ``forward`` takes its inputs by.

        The names are in its signature, as in that of a published model's ``get_image_features``.
        """
        names = {f"{modality}_{name}": name for name in self.specs[modality].inputs}

        def features(return_dict: bool = True, **inputs: Tensor) -> Any:
            own = {names[name]: value for name, value in inputs.items()}
            return self.get_media_features(modality, return_dict=return_dict, **own)

        keywords = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in (*names, "return_dict")]
        features.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
        return features

    def take_media(self, keywords: dict[str, Any]) -> dict[str, Any]:
        """Takes the encoder inputs out of keywords of ``forward`` and runs the encoders.

        Args:
            keywords: Keywords; entries named ``<modality>_<input>`` and ``mm_encoder_outputs`` are removed.

        Returns:
            Outputs by modality, those of ``mm_encoder_outputs`` among them.
        """
        outputs = dict(keywords.pop("mm_encoder_outputs", None) or {})
        for modality, spec in self.specs.items():
            values = {name: keywords.pop(f"{modality}_{name}", None) for name in spec.inputs}
            inputs = {name: value for name, value in values.items() if value is not None}
            if not inputs:
                continue
            if modality in outputs:
                raise ValueError(f"both encoder inputs and mm_encoder_outputs are given for {modality}")
            outputs[modality] = self.get_media_features(modality, **inputs)
        return outputs

    def is_media(self, keyword: str) -> bool:
        """Whether a keyword of ``forward`` is an encoder input."""
        return any(keyword == f"{name}_{key}" for name, spec in self.specs.items() for key in spec.inputs)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The language model's output on text whose placeholders are replaced by features.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], additive [B, 1, T, T], or a dictionary by layer type; for the language model.
            position_ids: For the language model.
            past_key_values: Its cache.
            inputs_embeds: [B, T, hidden] in place of ids; then without media.
            use_cache: Whether to return a cache.
            mm_encoder_outputs: By modality, an object whose ``pooler_output`` is a list of [tokens_i, hidden].
            **kwargs: Encoder inputs, ``<modality>_<input>``; all others go to the language model.

        Raises:
            ModelError: Placeholders and features differ in number.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds must be given")
        outputs = self.take_media({**kwargs, "mm_encoder_outputs": mm_encoder_outputs})
        rest = {name: value for name, value in kwargs.items() if not self.is_media(name)}
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        elif outputs:
            raise ValueError("media need input_ids: placeholders cannot be told from embeddings")
        started = past_key_values is not None and past_key_values.is_initialized
        if input_ids is not None and (outputs or not started):
            inputs_embeds = self._with_features(input_ids, inputs_embeds, outputs)
        named = {
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
        }
        given = {name: value for name, value in named.items() if value is not None}  # not all take all of them
        return self.language_model(inputs_embeds=inputs_embeds, **{**rest, **given, "return_dict": True})

    def _with_features(self, input_ids: Tensor, embeddings: Tensor, outputs: Mapping[str, Any]) -> Tensor:
        """Embeddings with the features of all modalities in the places of their tokens."""
        if unknown := set(outputs) - set(self.specs):
            raise ModelError(
                f"media of modality {', '.join(sorted(unknown))} are given to a model that takes "
                f"{', '.join(self.specs)}",
                why="They would be dropped, and the model trained or asked without them.",
                fix="Use a model of that modality, or records without it.",
            )
        for modality in self.specs:
            places = input_ids == self.config.media[modality]["token_id"]
            items = list(outputs[modality].pooler_output) if modality in outputs else []
            count, given = int(places.sum()), sum(len(item) for item in items)
            if count != given:
                raise ModelError(
                    f"{count} {modality} placeholder tokens, but {given} features of {len(items)} {modality} items",
                    why="Features would land in the wrong places.",
                    fix="Give every placeholder its item; an encoder must make as many features as its tokens() says.",
                )
            if items:
                features = torch.cat(items).to(embeddings)
                embeddings = embeddings.masked_scatter(places[..., None], features)
        return embeddings
