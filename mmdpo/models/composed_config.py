"""Configuration of a composed model: the language model's, and of each modality its encoder and placeholder."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


class ComposedConfig(PreTrainedConfig):
    """Configuration of a composed model.

    Args:
        text_config: Configuration of the language model.
        media: For each modality its encoder (see :mod:`mmdpo.models.media_specs`) and placeholder.
        projector_hidden_size: Width between the projector's two linear layers; by default the language model's.
        logit_scale: What the language model multiplies its logits by.
        logit_softcap: ``softcap * tanh(logits / softcap)`` after the scale, or None.
        head_bias: Whether the output layer has a bias.
    """

    model_type = "mmdpo_composed"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama")}  # noqa: RUF012

    text_config: dict | PreTrainedConfig | None = None  # type: ignore[type-arg]
    media: dict | None = None  # type: ignore[type-arg]
    projector_hidden_size: int | None = None
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    head_bias: bool = False
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.media = dict(self.media or {})
        for modality, entry in self.media.items():
            setattr(self, f"{modality}_token_id", entry["token_id"])
