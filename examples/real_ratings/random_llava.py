"""A LLaVA of the real shape with random weights and small widths, built in memory and saved to a folder.

Everything that shapes a batch is LLaVA-1.5's: 336-pixel photos, 14-pixel patches, 576 image tokens, features from the
tower's last layer but one, a two-layer projector, its chat template. Only the widths are small, so that it trains on a
laptop, and nothing in it knows anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

IMAGE_SIZE, PATCH_SIZE = 336, 14
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
VISION_WIDTH, TEXT_WIDTH, LAYERS, HEADS = 64, 64, 4, 4
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<image>"]
# As LLaVA-1.5's: images first, a space after every text (also after an answer), and no token that ends one.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }}: "
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def save_random_llava(captions: Iterable[str], folder: Path, seed: int) -> Path:
    """Builds the model and its processor and saves both, as `from_pretrained` expects them."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer(captions)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        ),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    model = LlavaForConditionalGeneration(_config(tokenizer))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    # the usual 0.02 suits widths of thousands; at these the photo would not reach the logits
    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=4 * VISION_WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=VISION_WIDTH,
        initializer_range=VISION_WIDTH**-0.5,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=3 * TEXT_WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=TEXT_WIDTH**-0.5,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def _tokenizer(captions: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE learnt from the captions: every text round-trips, and common words are one token."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(["USER: ASSISTANT: Describe the image.", *captions], trainer)
    learner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", learner.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=learner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
    )
