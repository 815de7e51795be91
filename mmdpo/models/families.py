"""The facts in which model families differ: one row each, and what the model itself tells for all others.

A family that is not listed works from its own configuration; the start-up check compares the result with the model's
own logits and falls back to plain rows, or stops, when they differ.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from mmdpo.models import feature_functions

TwoWay = Literal["none", "runs", "windowed_runs", "prefix"]

PROJECTORS = (
    "multi_modal_projector",
    "projector",
    "projectors",
    "connector",
    "embed_vision",
    "embed_audio",
    "language_projection",
    "image_newline",
    "visual_embeddings_table",
    "visual.merger",
    "visual.merger_list",
    "visual.deepstack_merger_list",
    "audio_tower.proj",
    "audio_tower.proj1",
    "audio_tower.proj2",
)
"""What stands between an encoder and the language model, by its path in the backbone; a model has a few of them."""

PALIGEMMA_PROMPT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endfor %}"
)
"""PaliGemma has no chat: images, then the question. Its processor writes <bos> after the last image, and a newline."""


@dataclass(frozen=True)
class Family:
    """What cannot be read from a model.

    Args:
        two_way: Which prefix tokens see each other in both directions: ``"runs"`` of placeholder tokens (one block an
            image), such runs in windowed layers alone, the whole ``"prefix"``, or none.
        mask_by_layer: Whether the model takes a dictionary of masks by layer type.
        final_softcap: Whether the model applies ``final_logit_softcapping`` of its text configuration to its logits
            (some configurations name it and the class ignores it).
        embedded: Modalities whose features the model takes only inside its input embeddings, although it takes others
            as ``mm_encoder_outputs``.
        cross_attention: Whether media are read through cross-attention layers and not in place of their tokens.
        marks_alike: Whether images and videos have the same placeholder token, so that no batch may have both.
        alone: Modalities whose encoder is not indifferent to the items beside an item (padding to the longest changes
            its features): those of one prompt are encoded as ``generate`` would, and never with those of another.
        features: Functions ``(backbone, **inputs)`` by modality, where the model has no ``get_<modality>_features``.
        answer_fields: Values of per-token inputs on answer tokens, where they are not 0.
        template: Chat template of a family whose processor has none; its answers are tokenised by themselves.
    """

    two_way: TwoWay = "none"
    mask_by_layer: bool = True
    final_softcap: bool = False
    embedded: frozenset[str] = frozenset()
    cross_attention: bool = False
    marks_alike: bool = False
    alone: frozenset[str] = frozenset()
    features: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    answer_fields: Mapping[str, int] = field(default_factory=dict)
    template: str | None = None


FAMILIES: dict[str, Family] = {
    "gemma3": Family(two_way="runs"),
    "gemma4": Family(final_softcap=True),
    "glm4v": Family(marks_alike=True),
    "glm46v": Family(marks_alike=True),
    "glm4v_moe": Family(marks_alike=True),
    "granite_speech": Family(alone=frozenset({"audio"}), features={"audio": feature_functions.granite_speech}),
    "llava_onevision": Family(alone=frozenset({"video"})),  # it has no mask over frames
    "mllama": Family(cross_attention=True, features={"image": feature_functions.mllama}),
    "paligemma": Family(
        two_way="prefix",
        mask_by_layer=False,
        final_softcap=True,
        answer_fields={"token_type_ids": 1},
        template=PALIGEMMA_PROMPT,
    ),
    "qwen2_5_omni_thinker": Family(embedded=frozenset({"audio"})),
    "qwen2_audio": Family(features={"audio": feature_functions.qwen2_audio}),
    "qwen3_omni_moe_thinker": Family(embedded=frozenset({"audio"}), alone=frozenset({"audio"})),
}

ATTENTION_LAYERS = {"full_attention", "sliding_attention"}
"""Layer types that honour a 4-D mask; all others drop it silently."""


@dataclass(frozen=True)
class Facts:
    """Everything the packing and the scoring need to know of one loaded model.

    Args:
        family: The table row.
        model_type: Its name.
        two_way: Which prefix tokens see each other in both directions.
        layer_types: Kinds of attention layers of the language model.
        window: Sliding-window length in tokens, None when no layer has one.
        plain_reason: Why only plain rows are possible, or None.
        rope_index: The model's own position function for several rows of positions, or None.
        media_token_ids: Placeholder ids by modality name.
        max_positions: Longest row that the model's positions allow, or None.
        prefix: Path of the backbone in the model, with its dot.
        projectors: Paths of the modules between encoders and language model, inside the backbone.
        takes_outputs: Whether the backbone takes ``mm_encoder_outputs``.
        feature_inputs: What the feature function of each modality takes.
        flex: Whether the language model's layers take block masks (FlexAttention).
    """

    family: Family
    model_type: str
    two_way: TwoWay
    layer_types: frozenset[str]
    window: int | None
    plain_reason: str | None
    rope_index: Callable[..., tuple[Tensor, Tensor]] | None
    media_token_ids: dict[str, int]
    max_positions: int | None
    prefix: str
    projectors: tuple[str, ...]
    takes_outputs: bool
    feature_inputs: Mapping[str, tuple[str, ...]]
    flex: bool = False

    @property
    def row_multiple(self) -> int:
        """Packed rows are padded to a multiple of this: a block of FlexAttention, so that few lengths are compiled."""
        return 128 if self.flex else 1

    @property
    def forward_window(self) -> bool:
        """Whether all attention layers of the model share one window."""
        return self.window is not None and self.layer_types == {"sliding_attention"}

    def embeds(self, modality: str) -> bool:
        """Whether the modality's features go into the input embeddings before the model is called."""
        return not self.family.cross_attention and (not self.takes_outputs or modality in self.family.embedded)


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
    backbone = backbone_of(model)
    return Facts(
        family=family,
        model_type=config.model_type,
        # Gemma 4 says so in its configuration; some of its sizes have it
        two_way="windowed_runs" if getattr(text, "use_bidirectional_attention", None) == "vision" else family.two_way,
        layer_types=layer_types,
        window=window,
        plain_reason=reason,
        rope_index=_rope_index(backbone),
        media_token_ids=_media_token_ids(config),
        max_positions=getattr(text, "max_position_embeddings", None),
        prefix="" if backbone is model else f"{model.base_model_prefix}.",
        projectors=_projectors(backbone),
        takes_outputs="mm_encoder_outputs" in inspect.signature(backbone.forward).parameters,
        feature_inputs={
            name: tuple(inspect.signature(function).parameters)
            for name in ("image", "video", "audio", *getattr(config, "media", ()))
            if (function := feature_function(backbone, family, name)) is not None
        },
        flex=text._attn_implementation == "flex_attention",
    )


def backbone_of(model: Any) -> Any:
    """The model without its head: the module that holds encoders, projectors and the language model."""
    return getattr(model, model.base_model_prefix, model)


def feature_function(backbone: Any, family: Family, modality: str) -> Callable[..., Any] | None:
    """What turns a modality's encoder inputs into projected features; None when the model has nothing of the kind.

    It returns an object whose ``pooler_output`` holds the features.
    """
    if modality in family.features:
        return functools.partial(family.features[modality], backbone)
    composed = getattr(backbone, "media_function", None)
    if composed is not None:
        return composed(modality) if modality in backbone.encoders else None
    return getattr(backbone, f"get_{modality}_features", None)


def accepted(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``values`` that a function names in its signature."""
    names = inspect.signature(function).parameters
    return {key: value for key, value in values.items() if key in names}


def _media_token_ids(config: Any) -> dict[str, int]:
    named = getattr(config, "media", None)  # composed models name their modalities
    if isinstance(named, Mapping):
        return {name: int(entry["token_id"]) for name, entry in named.items()}
    ids = {name: getattr(config, f"{name}_token_id", None) for name in ("image", "video", "audio")}
    return {name: value for name, value in ids.items() if value is not None}


def _projectors(backbone: Any) -> tuple[str, ...]:
    """The paths of :data:`PROJECTORS` that this backbone has."""

    def has(path: str) -> bool:
        module = backbone
        for name in path.split("."):
            module = getattr(module, name, None)
        return module is not None

    return tuple(path for path in PROJECTORS if has(path))


def _rope_index(backbone: Any) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The model's own position function; the omni models call two things otherwise than their processors do."""
    function = getattr(backbone, "get_rope_index", None)
    if function is None or "audio_seqlens" not in inspect.signature(function).parameters:
        return function

    @functools.wraps(function)
    def renamed(
        *, feature_attention_mask: Tensor | None = None, video_second_per_grid: Tensor | None = None, **values: Any
    ) -> tuple[Tensor, Tensor]:
        lengths = None if feature_attention_mask is None else feature_attention_mask.sum(-1)
        return function(**values, audio_seqlens=lengths, second_per_grids=video_second_per_grid)

    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
        for name in ("feature_attention_mask", "video_second_per_grid")
    ]
    names = list(inspect.signature(function).parameters.values())
    renamed.__signature__ = inspect.Signature([*names, *added])  # type: ignore[attr-defined]
    return renamed
