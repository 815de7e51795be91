"""SmolVLM2: tiles with the coarse view last, marks of row and column between, pixel shuffle by three, Llama.

As Idefics3, with a small tokenizer whose first token is a mark of turns. The processor needs the package `num2words`.
"""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from tiny import tokenizers
from tiny.base import Tiny, build_model, set_generation

TILE, PATCH_SIZE, SHUFFLE = 24, 4, 3
TILE_TOKENS = (TILE // PATCH_SIZE // SHUFFLE) ** 2
FIRST = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
NAMED = {
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "end_of_utterance_token": "<end_of_utterance>",
    "global_image_token": "<global-img>",
}

# As in HuggingFaceTB/SmolVLM2-2.2B-Instruct (chat_template.json): `<|im_start|>` once in front and never closed, then
# as Idefics3. For a conversation with a video, the processor takes its own template instead.
TEMPLATE = (
    "{{ '<|im_start|>' }}"
    "{% for message in messages %}"
    "{{ message['role'].capitalize() ~ (':' if message['content'][0]['type'] == 'image' else ': ') }}"
    "{% for part in message['content'] %}"
    "{{ part['text'] if part['type'] == 'text' else '<image>' if part['type'] == 'image' else '' }}"
    "{% endfor %}"
    "{{ '<end_of_utterance>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is 12 or 20 tokens by its shape, and marks. `overrides` are fields of `LlamaConfig`."""
    tokenizer = _tokenizer()
    sizes = {"size": {"longest_edge": 2 * TILE}, "max_image_size": {"longest_edge": TILE}}
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=SmolVLMVideoProcessor(**sizes, num_frames=4, fps=1),
        image_seq_len=TILE_TOKENS,
        chat_template=TEMPLATE,
    )
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = SmolVLMConfig(
        text_config=LlamaConfig(**text | overrides),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": TILE,
            "patch_size": PATCH_SIZE,
        },
        image_token_id=processor.image_token_id,
        scale_factor=SHUFFLE,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = build_model(
        SmolVLMForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, ["<end_of_utterance>"])
    return Tiny("smolvlm", model, processor, end_of_turn="<end_of_utterance>")


def _tokenizer() -> PreTrainedTokenizerFast:
    """SmolLM's: bytes, digits apart, no token in front (the template writes it), `<|im_end|>` only for padding."""
    ids, merges = tokenizers._learn("bytes")
    backend = Tokenizer(models.BPE(vocab=dict(ids), merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([*FIRST, *NAMED.values(), *tokenizers.IDEFICS3_GRID])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|im_end|>",
        extra_special_tokens=NAMED,
    )
