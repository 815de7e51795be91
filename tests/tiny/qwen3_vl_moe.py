"""Qwen3-VL with experts: in every layer of the language model each token goes to two of four.

The facts are those of Qwen/Qwen3-VL-30B-A3B-Instruct. The experts run one after the other ("eager"), because the
grouped product knows no float64.
"""

from typing import Any

import torch
from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextExperts

from tiny import qwen_family
from tiny.base import Tiny, build_model, set_generation

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; media are as Qwen3-VL's. `overrides` are fields of the `Qwen3VLMoeTextConfig`."""
    tokenizer = qwen_family.qwen3_vl_tokenizer()
    config = Qwen3VLMoeConfig(**qwen_family.qwen3_vl_configs(tokenizer, EXPERTS | overrides))
    config._experts_implementation = "eager"
    model = build_model(
        Qwen3VLMoeForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    _scale_experts(model)
    set_generation(model, tokenizer, qwen_family.STOP_TOKENS)
    return Tiny("qwen3_vl_moe", model, qwen_family.qwen3_vl_processor(tokenizer), end_of_turn="<|im_end|>")


def _scale_experts(model: torch.nn.Module) -> None:
    """Give expert weights the variance of their input's width.

    Redrawing takes all but the first dimension of a matrix for its input; here that is an expert's two. The factors are
    powers of two near the square root of its rows, so they round nothing in any precision.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Qwen3VLMoeTextExperts):
                for weights in (module.gate_up_proj, module.down_proj):
                    weights.mul_(8.0)
