"""Llama 3.2 Vision: images stay outside the row and reach it through gated cross-attention layers; tiles in groups.

An image is one token, `<|image|>`, the only one without a row in the head. What each token of the row may see of the
images is an input, `cross_attention_mask` [rows, tokens, images, tiles]: images written side by side are seen by all
that follows; otherwise only the last image before a token is.
"""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, processors
from transformers import (
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessor,
    MllamaProcessor,
    MllamaTextConfig,
    MllamaVisionConfig,
    PreTrainedTokenizerFast,
)

from tiny import tokenizers
from tiny.base import Tiny, build_model, set_generation

TILE, PATCH_SIZE, MOST_TILES = 16, 4, 4
VISION_SIZE, KEPT_LAYERS = 32, [0, 1]
SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
]
IMAGE = "<|image|>"

# As in meta-llama/Llama-3.2-11B-Vision-Instruct (chat_template.json), without the parts for tools. Without images and
# without a system turn of the caller's, a system turn that names the day on which it is rendered (here the day that the
# published template falls back to). Nothing is trimmed but the system turn. Not sure: the first revision refused a
# system turn beside images.
TEMPLATE = (
    "{{ bos_token }}"
    "{% set first = messages[0] %}"
    "{% set has_system = first['role'] == 'system' %}"
    "{% set seen = namespace(images=false) %}"
    "{% for message in messages if message['content'] is not string %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{% set seen.images = true %}{% endfor %}"
    "{% endfor %}"
    "{% if has_system or not seen.images %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\n' }}"
    "{{ 'Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n' }}"
    "{% if has_system %}"
    "{{ (first['content'] if first['content'] is string else first['content'][0]['text']) | trim }}"
    "{% endif %}"
    "{{ '<|eot_id|>' }}"
    "{% endif %}"
    "{% for message in (messages[1:] if has_system else messages) %}"
    "{{ '<|start_header_id|>' ~ message['role'] ~ '<|end_header_id|>\n\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{{ part['text'] if part['type'] == 'text' else '<|image|>' if part['type'] == 'image' else '' }}"
    "{% endfor %}"
    "{% endif %}"
    "{{ '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is 1 token and 1 to 4 tiles by its shape. `overrides` are of the `MllamaTextConfig`."""
    tokenizer = _tokenizer()
    image_id = tokenizer.convert_tokens_to_ids(IMAGE)
    text = {
        # The head has no row for the image token, which comes after all others; the embedding matrix has eight more.
        "vocab_size": image_id,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "cross_attention_layers": [1, 3],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = MllamaConfig(
        text_config=MllamaTextConfig(**text | overrides),
        vision_config=MllamaVisionConfig(
            hidden_size=VISION_SIZE,
            intermediate_size=48,
            num_hidden_layers=2,
            num_global_layers=1,
            attention_heads=2,
            image_size=TILE,
            patch_size=PATCH_SIZE,
            max_num_tiles=MOST_TILES,
            intermediate_layers_indices=KEPT_LAYERS,
            vision_output_dim=VISION_SIZE * (1 + len(KEPT_LAYERS)),
        ),
        image_token_index=image_id,
    )
    processor = MllamaProcessor(
        image_processor=MllamaImageProcessor(size={"height": TILE, "width": TILE}, max_image_tiles=MOST_TILES),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
    )
    model = build_model(
        MllamaForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    _open_gates(model)
    set_generation(model, tokenizer, ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"])
    return Tiny("mllama", model, processor, end_of_turn="<|eot_id|>")


def _open_gates(model: MllamaForConditionalGeneration) -> None:
    """Add one to every gate: in fresh models they are about 0, and what is behind them is not felt."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("gate", "gate_attn", "gate_ffn")):
                # Added in float32, so that builds of one seed agree across dtypes.
                parameter.copy_(parameter.float() + 1)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Llama 3's: bytes, `<|begin_of_text|>` in front, `<|image|>` after all others."""
    ids, merges = tokenizers._learn("bytes")
    backend = Tokenizer(models.BPE(vocab=dict(ids), merges=merges, ignore_merges=True))
    backend.pre_tokenizer = tokenizers._bytes_of_words()
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([*SPECIAL, IMAGE])
    bos = SPECIAL[0]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, backend.token_to_id(bos))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token="<|eot_id|>", pad_token="<|finetune_right_pad_id|>"
    )
