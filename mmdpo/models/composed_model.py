"""The composed model: the backbone (:mod:`mmdpo.models.composed_backbone`) and the output layer, with generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils.generic import can_return_tuple

from mmdpo.models.composed_backbone import ComposedModel, ComposedPreTrainedModel
from mmdpo.models.composed_config import ComposedConfig


class ComposedForConditionalGeneration(ComposedPreTrainedModel, GenerationMixin):
    """The composed model with its output layer.

    Args:
        config: The configuration.
        language_model: See :class:`ComposedModel`.
        encoders: See :class:`ComposedModel`.
        lm_head: The output layer, when it is there already.
    """

    def __init__(
        self,
        config: ComposedConfig,
        language_model: PreTrainedModel | None = None,
        encoders: Mapping[str, nn.Module] | None = None,
        lm_head: nn.Linear | None = None,
    ) -> None:
        super().__init__(config)
        self.model = ComposedModel(config, language_model, encoders)
        embedding: Any = self.model.get_input_embeddings()
        rows, width = embedding.num_embeddings, embedding.embedding_dim
        self.lm_head = nn.Linear(width, rows, bias=config.head_bias) if lm_head is None else lm_head
        path = next(name for name, module in self.model.named_modules() if module is embedding)
        self._tied_weights_keys = {"lm_head.weight": f"model.{path}.weight"}
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Sets the language model's."""
        self.model.set_input_embeddings(value)

    def get_encoder(self, modality: str | None = None) -> Any:
        """The encoder of a modality."""
        return self.model.get_encoder(modality) if modality is not None else super().get_encoder()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, and the loss of ``labels`` [B, T] (-100 is left out); all others as :meth:`ComposedModel.forward`."""
        counted = {name: kwargs.pop(name) for name in ("num_items_in_batch", "shift_labels") if name in kwargs}
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            **{**kwargs, "return_dict": True},
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        if self.config.logit_scale != 1.0:
            logits = logits * self.config.logit_scale
        if self.config.logit_softcap is not None:
            logits = torch.tanh(logits / self.config.logit_softcap) * self.config.logit_softcap
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **counted)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.get("past_key_values"),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, is_first_iteration: bool | None = False, **kwargs: Any
    ) -> dict[str, Any]:
        """As ``transformers``; media go in with the prompt only."""
        inputs = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        if not is_first_iteration and kwargs.get("use_cache", True):
            inputs = {name: value for name, value in inputs.items() if not self.model.is_media(name)}
        return inputs

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        """Encoder inputs are known by the encoders' names for them, not from the signature of ``forward``."""
        super()._validate_model_kwargs({k: v for k, v in model_kwargs.items() if not self.model.is_media(k)})

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **model_kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Repeats every row; items are encoded once and repeated as the group of their row, not one by one."""
        outputs = self.model.take_media(model_kwargs) if expand_size > 1 else None
        if outputs:
            repeated = {}
            for modality, output in outputs.items():
                counts = (input_ids == self.config.media[modality]["token_id"]).sum(1).tolist()
                groups = _by_row(list(output.pooler_output), counts)
                repeated[modality] = BaseModelOutputWithPooling(
                    pooler_output=[item for group in groups for _ in range(expand_size) for item in group]
                )
        ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )
        if outputs:
            model_kwargs["mm_encoder_outputs"] = repeated
        return ids, model_kwargs


def _by_row(items: Sequence[Tensor], counts: Sequence[int]) -> list[list[Tensor]]:
    """Items of each row, from its number of placeholder tokens."""
    queue = iter(items)
    rows = []
    for count in counts:
        row: list[Tensor] = []
        while sum(len(item) for item in row) < count:
            row.append(next(queue))
        rows.append(row)
    return rows
