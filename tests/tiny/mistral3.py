"""Mistral 3 (Mistral Small 3.1): a Pixtral tower that takes images of any size, patches merged two by two, Mistral.

Every row of an image's tokens ends with `[IMG_BREAK]`, the last one with `[IMG_END]`: text tokens between placeholders.
"""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, processors
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralImageProcessor,
    PixtralProcessor,
    PixtralVisionConfig,
    PreTrainedTokenizerFast,
)

from tiny import tokenizers
from tiny.base import Tiny, build_model, set_generation

PATCH_SIZE, MERGE, LONGEST_EDGE = 4, 2, 32
FIRST = ["<unk>", "<s>", "</s>"]
SPECIAL = [
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
]

# As in mistralai/Mistral-Small-3.1-24B-Instruct-2503 (chat_template.json), without the parts for tools. Roles must
# alternate; the prompt ends with the question's own mark, so `add_generation_prompt` changes nothing; only the first
# part of an answer or a system turn is read; nothing is trimmed. The published default system turn is a long one that
# names the day on which it is rendered; this one is its first words, so that rows are short and the same every day.
TEMPLATE = (
    "{{ bos_token }}"
    "{% set first = messages[0] %}"
    "{% set has_system = first['role'] == 'system' %}"
    "{{ '[SYSTEM_PROMPT]' }}"
    "{% if not has_system %}{{ 'You are Mistral Small 3.' }}"
    "{% else %}{{ first['content'] if first['content'] is string else first['content'][0]['text'] }}"
    "{% endif %}"
    "{{ '[/SYSTEM_PROMPT]' }}"
    "{% for message in (messages[1:] if has_system else messages) %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('The roles must alternate: user, assistant, user, ...') }}"
    "{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{{ '[INST]' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] in ('image', 'image_url') %}{{ '[IMG]' }}"
    "{% else %}{{ raise_exception('A part must be a text or an image.') }}"
    "{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{{ '[/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ (message['content'] if message['content'] is string else message['content'][0]['text']) ~ eos_token }}"
    "{% else %}{{ raise_exception('The roles are system, user and assistant, not ' ~ message['role']) }}"
    "{% endif %}"
    "{% endfor %}"
)


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is at most 16 tokens, by its size, and marks. `overrides` are of the `MistralConfig`.

    The published text model has no sliding window (`sliding_window=8` gives it one in every layer).
    """
    tokenizer = _tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": None,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = Mistral3Config(
        text_config=MistralConfig(**text | overrides),
        vision_config=PixtralVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=LONGEST_EDGE,
            patch_size=PATCH_SIZE,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=MERGE,
        tie_word_embeddings=False,
    )
    processor = PixtralProcessor(
        image_processor=PixtralImageProcessor(size={"longest_edge": LONGEST_EDGE}, patch_size=PATCH_SIZE * MERGE),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        spatial_merge_size=MERGE,
        chat_template=TEMPLATE,
    )
    model = build_model(
        Mistral3ForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, ["</s>"])
    return Tiny("mistral3", model, processor, end_of_turn="</s>")


def _tokenizer() -> PreTrainedTokenizerFast:
    """Tekken: bytes, `<s>` in front, marks in square brackets."""
    ids, merges = tokenizers._learn("bytes")
    backend = Tokenizer(models.BPE(vocab=dict(ids), merges=merges, ignore_merges=True))
    backend.pre_tokenizer = tokenizers._bytes_of_words()
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([*FIRST, *SPECIAL])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=SPECIAL,
    )
