"""A tiny real LLaVA with a real processor, built in memory, and the shipped weights of one that was trained.

Everything is the class that a 7B LLaVA uses: `LlavaForConditionalGeneration` (CLIP tower, Llama text) and
`LlavaProcessor` (CLIP image processor, fast tokenizer, chat template). Only the sizes are small: about 1.5M parameters,
16 image tokens of 16x16 pixels, and a vocabulary of the world's words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from mmdpo.errors import ModelError
from mmdpo.playground.text import vocabulary
from mmdpo.playground.world import IMAGE_SIZE

PATCH_SIZE: Final = 16
WIDTH: Final = 128
SPECIAL_TOKENS: Final = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
# As LLaVA-1.5: images first, no space after "ASSISTANT:" (answers start with their own), each answer closed by </s>.
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ message['role'] | upper }}:{{ ' ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{{ eos_token if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
# The usual 0.02 suits widths of thousands; at this width the tower then stays blind for more than a thousand steps.
_INITIAL_SCALE: Final = WIDTH**-0.5
_SPACE: Final = "▁"
_WEIGHTS: Final = Path(__file__).parent / "weights"


def load_base() -> Path:
    """The folder of the shipped base model, for ``from_pretrained``.

    Raises:
        ModelError: The installation lacks the weights.
    """
    if not (_WEIGHTS / "model.safetensors").is_file():
        raise ModelError(
            f"the playground's weights are not in {_WEIGHTS}",
            why="The demo starts from a trained base model, which is part of the package.",
            fix="Install mmdpo again, or train them: python -m mmdpo.playground.recipe --out DIR",
        )
    return _WEIGHTS


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words that keeps spaces as Llama's does, so decoding gives back the text exactly.

    A word has one id after a space and another one elsewhere (after a newline). What it does not know is ``<unk>``.
    """
    words = [*vocabulary(), "USER", "ASSISTANT", "SYSTEM", ":"]
    entries = [*SPECIAL_TOKENS, _SPACE, "\n", *(form for word in words for form in (_SPACE + word, word))]
    tokenizer = Tokenizer(models.WordLevel({entry: index for index, entry in enumerate(entries)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="first", split=False),
            pre_tokenizers.Split(Regex(rf"{_SPACE}?\w+|{_SPACE}?[^\w\s{_SPACE}]|\s|{_SPACE}"), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="first", split=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", entries.index("<s>"))]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def build_processor() -> LlavaProcessor:
    """The processor: 64x64 images to 16 image tokens, chat template as LLaVA-1.5's."""
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    """The untrained model for `build_processor`'s vocabulary, float32, about 1.5M parameters.

    Seed torch before the call for the same start.
    """
    tokenizer = processor.tokenizer
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        initializer_range=_INITIAL_SCALE,
    )
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=WIDTH,
        initializer_range=_INITIAL_SCALE,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.update(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=48,
    )
    return model
