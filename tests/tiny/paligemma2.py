"""PaliGemma 2: as PaliGemma with Gemma 2, which caps attention scores and logits and has layers with a window.

The window must not be shorter than a row: the prefix sees both ways in every layer, and `transformers` takes no mask of
the caller's own for the windowed layers alone.
"""

from typing import Any

import torch
from transformers import Gemma2Config, PaliGemmaForConditionalGeneration

from tiny.base import Tiny, build_model, set_generation
from tiny.paligemma import make_config, make_processor, text_fields

SLIDING_WINDOW = 256


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is 9 tokens. `overrides` are fields of the `Gemma2Config`.

    `attn_implementation` is the image tower's. The text model's is always "eager", as `transformers` chooses by
    itself: no other one that it has here can cap scores.
    """
    processor = make_processor()
    text = {
        **text_fields(processor),
        "query_pre_attn_scalar": 16,
        "sliding_window": SLIDING_WINDOW,
        # Low enough to be felt at the scale of a tiny model's scores and logits (published: 50 and 30).
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 10.0,
    }
    config = make_config(processor, Gemma2Config(**text | overrides))
    model = build_model(
        PaliGemmaForConditionalGeneration,
        config,
        seed=seed,
        dtype=dtype,
        attn_implementation={"vision_config": attn_implementation, "text_config": "eager"},
    )
    set_generation(model, processor.tokenizer, ["<eos>"])
    return Tiny("paligemma2", model, processor, end_of_turn="<eos>")
