"""Feature functions of families whose backbone computes features only inside its own ``forward``.

Each returns an object whose ``pooler_output`` holds the projected features of each item, as the others'
``get_<modality>_features`` do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling


def qwen2_audio(
    backbone: Any, input_features: Tensor, feature_attention_mask: Tensor, **_: Any
) -> BaseModelOutputWithPooling:
    """Features of clips by Qwen2-Audio, what its ``Qwen2AudioModel.forward`` puts in place of the audio tokens.

    Args:
        backbone: ``Qwen2AudioModel``.
        input_features: [n, mel bins, frames].
        feature_attention_mask: [n, frames], 1 where the clip is.

    Returns:
        ``pooler_output``: n tensors [tokens, hidden].
    """
    tower = backbone.audio_tower
    convolved, lengths = tower._get_feat_extract_output_lengths(feature_attention_mask.sum(-1))
    width = (input_features.shape[-1] - 2) // 2 + 1  # of the second convolution, whose stride is 2
    valid = torch.arange(width, device=convolved.device)[None, :] < convolved[:, None]
    mask = create_bidirectional_mask(
        config=tower.config,
        inputs_embeds=input_features.new_zeros((len(input_features), width, 1)),
        attention_mask=valid.long(),
    )
    hidden = tower(input_features, attention_mask=mask).last_hidden_state
    projected = backbone.multi_modal_projector(hidden)
    clips = [clip[:length] for clip, length in zip(projected, lengths.tolist(), strict=True)]
    return BaseModelOutputWithPooling(pooler_output=clips)


def granite_speech(
    backbone: Any, input_features: Tensor, input_features_mask: Tensor, **_: Any
) -> BaseModelOutputWithPooling:
    """Features of clips by Granite-Speech without the padding to the longest clip of its batch.

    Args:
        backbone: ``GraniteSpeechModel``.
        input_features: [n, frames, bins].
        input_features_mask: [n, tokens], True on a clip's own features.

    Returns:
        ``pooler_output``: n tensors [tokens, hidden].
    """
    padded = backbone.get_audio_features(input_features, return_dict=True).pooler_output
    clips = [clip[: len(own)][own[: len(clip)]] for clip, own in zip(padded, input_features_mask.bool(), strict=True)]
    return BaseModelOutputWithPooling(pooler_output=clips)


def mllama(
    backbone: Any, pixel_values: Tensor, aspect_ratio_ids: Tensor, aspect_ratio_mask: Tensor, **_: Any
) -> BaseModelOutputWithPooling:
    """What Mllama's cross-attention layers read of each image.

    Args:
        backbone: ``MllamaModel``.
        pixel_values: [n, 1, tiles, channels, height, width].
        aspect_ratio_ids: [n, 1].
        aspect_ratio_mask: [n, 1, tiles].

    Returns:
        ``pooler_output``: [n, tiles, patches, hidden].
    """
    states = backbone.vision_model(
        pixel_values=pixel_values, aspect_ratio_ids=aspect_ratio_ids, aspect_ratio_mask=aspect_ratio_mask
    ).last_hidden_state
    projected = backbone.multi_modal_projector(states)
    return BaseModelOutputWithPooling(pooler_output=projected.reshape(len(pixel_values), *projected.shape[-3:]))
