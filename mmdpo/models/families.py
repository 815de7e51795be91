"""The facts in which model families differ: one row each, and what the model itself tells for all others.

A family that is not listed works from its own configuration; the start-up check compares the result with the model's
own logits and falls back to plain rows, or stops, when they differ.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

TwoWay = Literal["none", "runs", "prefix"]


@dataclass(frozen=True)
class Family:
    """What cannot be read from a model.

    Args:
        two_way: Which prefix tokens see each other in both directions: ``"runs"`` of placeholder tokens (one block an
            image), the whole ``"prefix"``, or none.
        mask_by_layer: Whether the model takes a dictionary of masks by layer type.
        final_softcap: Whether the model applies ``final_logit_softcapping`` of its text configuration to its logits
            (some configurations name it and the class ignores it).
        projector: Names of the modules between encoder and language model.
    """

    two_way: TwoWay = "none"
    mask_by_layer: bool = True
    final_softcap: bool = False
    projector: tuple[str, ...] = ("multi_modal_projector",)


FAMILIES: dict[str, Family] = {
    "gemma3": Family(two_way="runs"),
    "gemma4": Family(final_softcap=True, projector=("embed_vision", "embed_audio")),
    "paligemma": Family(two_way="prefix", mask_by_layer=False, final_softcap=True),
    "qwen2_vl": Family(projector=("visual.merger",)),
    "qwen2_5_vl": Family(projector=("visual.merger",)),
    "qwen3_vl": Family(projector=("visual.merger", "visual.deepstack_merger_list")),
    "qwen3_5": Family(projector=("visual.merger",)),
    "glm4v": Family(projector=("visual.merger",)),
    "idefics2": Family(projector=("connector",)),
    "idefics3": Family(projector=("connector",)),
    "smolvlm": Family(projector=("connector",)),
}

ATTENTION_LAYERS = {"full_attention", "sliding_attention"}
"""Layer types that honour a 4-D mask; all others drop it silently."""


@dataclass(frozen=True)
class Facts:
    """Everything the packing and the scoring need to know of one loaded model.

    Args:
        family: The table row.
        layer_types: Kinds of attention layers of the language model.
        window: Sliding-window length in tokens, None when no layer has one.
        plain_reason: Why only plain rows are possible, or None.
        rope_index: The model's own position function for several rows of positions, or None.
        media_token_ids: Placeholder ids by modality name.
        max_positions: Longest row that the model's positions allow, or None.
    """

    family: Family
    layer_types: frozenset[str]
    window: int | None
    plain_reason: str | None
    rope_index: Callable[..., tuple[Tensor, Tensor]] | None
    media_token_ids: dict[str, int]
    max_positions: int | None

    @property
    def forward_window(self) -> bool:
        """Whether all attention layers of the model share one window."""
        return self.window is not None and self.layer_types == {"sliding_attention"}


def facts_of(model: Any) -> Facts:
    """Reads the facts of a loaded Hugging Face model.

    Args:
        model: The model itself, not a wrapper.

    Returns:
        Its facts; what is unknown is left to the start-up check.
    """
    config: Any = model.config
    text = config.get_text_config()
    family = FAMILIES.get(config.model_type, Family())
    layer_types = frozenset(getattr(text, "layer_types", None) or ())
    window = getattr(text, "sliding_window", None)
    if not layer_types:
        layer_types = frozenset({"sliding_attention" if window else "full_attention"})
    if "sliding_attention" not in layer_types:
        window = None
    unknown = layer_types - ATTENTION_LAYERS
    reason = None
    if unknown:
        reason = f"layers of type {', '.join(sorted(unknown))} carry a state along the row and take no branch mask"
    backbone = getattr(model, model.base_model_prefix, model)
    media_ids = {
        name: getattr(config, f"{name}_token_id")
        for name in ("image", "video", "audio")
        if getattr(config, f"{name}_token_id", None) is not None
    }
    return Facts(
        family=family,
        layer_types=layer_types,
        window=window,
        plain_reason=reason,
        rope_index=getattr(backbone, "get_rope_index", None),
        media_token_ids=media_ids,
        max_positions=getattr(text, "max_position_embeddings", None),
    )


def accepted(function: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    """The entries of ``values`` that a function names in its signature."""
    names = inspect.signature(function).parameters
    return {key: value for key, value in values.items() if key in names}
