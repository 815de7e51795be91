"""A tokenizer of whole words, and a chat template like LLaVA-1.5's, for the tiny models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

LONGEST_ROW: Final = 512
_SPACE: Final = "▁"


def chat_template(modality: str) -> str:
    """Media first, no space after "ASSISTANT:" (answers start with their own), each answer closed by the end token."""
    return (
        "{% for message in messages %}"
        "{{ message['role'] | upper }}:{{ ' ' }}"
        f"{{% for part in message['content'] if part['type'] == '{modality}' %}}<{modality}>\n{{% endfor %}}"
        "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
        "{{ eos_token if message['role'] == 'assistant' else ' ' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )


def build_tokenizer(vocabulary: Sequence[str], modality: str | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words that keeps spaces as Llama's does, so decoding gives back the text exactly.

    A word has one id after a space and another one elsewhere (after a newline). What it does not know is ``<unk>``.

    Args:
        vocabulary: Every word and mark that the world's texts hold.
        modality: Whose placeholder it knows, as ``<image>``; a composed model adds its placeholders itself.
    """
    placeholder = {} if modality is None else {f"{modality}_token": f"<{modality}>"}
    special = ("<unk>", "<s>", "</s>", "<pad>", *placeholder.values())
    words = [*vocabulary, "USER", "ASSISTANT", "SYSTEM", ":"]
    entries = [*special, _SPACE, "\n", *(form for word in words for form in (_SPACE + word, word))]
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
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=placeholder,
        padding_side="left",
        model_max_length=LONGEST_ROW,
        clean_up_tokenization_spaces=False,
    )
