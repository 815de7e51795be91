"""The families' own tokenizer classes with small vocabularies, made in memory.

The merges are learnt from a few sentences below: enough for common words to be one token and for all others to fall
apart into characters or bytes, so that every text round-trips. Special tokens have their published names, ids do not
matter. Ids of one family are the same in every process.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Literal, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.models.qwen3_5 import Qwen3_5Tokenizer

CORPUS = (
    "USER: ASSISTANT: User: Assistant: system user assistant model You are a helpful assistant. [INST] [/INST]",
    "What is in the picture? How many birds are there? Describe the image. Is there a dog in the image?",
    "There is a red bird on the table. There are two small dogs beside a blue car. Yes, there is. No, there is not.",
    "A man and a woman walk on the beach. A cat sits on a chair. The bowl on the table is empty.",
)
MERGES = 120
# Only for the byte-level families, whose vocabularies hold runs of line feeds (Llama's spells each as a byte token).
LINE_FEEDS = "\n\nYes.\n\nNo.\n\n"
# How Qwen and Llama 3 cut a text before merging: contractions, words, numbers, punctuation, line feeds, spaces.
WORDS = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_TOKENS = [f"<0x{value:02X}>" for value in range(256)]

QWEN2_SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
# Added tokens that are not special: `skip_special_tokens` keeps them, and they match in any text.
QWEN2_ADDED = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"]
QWEN3_5_ADDED = [*QWEN2_ADDED, "<tool_response>", "</tool_response>", "<think>", "</think>"]
GEMMA_SPECIAL = ["<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"]
IDEFICS3_GRID = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
IDEFICS3_SPECIAL = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *IDEFICS3_GRID]


class Vocabulary(NamedTuple):
    """The two parts of a byte-pair encoding: ids by token, and the merges in order."""

    ids: dict[str, int]
    merges: list[tuple[str, str]]


@lru_cache
def _learn(kind: Literal["bytes", "llama", "gemma"]) -> Vocabulary:
    """Learn merges over raw bytes (GPT-2's alphabet) or over characters with a fall-back to byte tokens."""
    if kind == "bytes":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        first: list[str] = []
        learner = Tokenizer(models.BPE())
        learner.pre_tokenizer = _bytes_of_words()
    else:
        alphabet = sorted(set("".join(CORPUS)) - {" "} | {"▁"})
        first = {
            "llama": ["<unk>", "<s>", "</s>", *BYTE_TOKENS],
            "gemma": ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *BYTE_TOKENS],
        }[kind]
        learner = Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Punctuation()]
        )
    trainer = trainers.BpeTrainer(
        vocab_size=len(first) + len(alphabet) + MERGES,
        special_tokens=first,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    learner.train_from_iterator((*CORPUS, LINE_FEEDS) if kind == "bytes" else CORPUS, trainer)
    learnt = json.loads(learner.to_str())["model"]
    return Vocabulary(learnt["vocab"], [tuple(pair) for pair in learnt["merges"]])


def _bytes_of_words() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def llava() -> LlamaTokenizer:
    """Vicuna's: `▁` before the first piece of a text only, byte fall-back, `<s>` in front, `<image>` after the rest."""
    return _llama()


def llava_next() -> LlamaTokenizer:
    """Mistral's: as Vicuna's."""
    return _llama()


def _llama() -> LlamaTokenizer:
    ids, merges = _learn("llama")
    tokenizer = LlamaTokenizer(vocab=dict(ids), merges=merges, add_bos_token=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"], "pad_token": "<pad>"})
    return tokenizer


def qwen2_5_vl() -> Qwen2Tokenizer:
    """Qwen2's: bytes, no token in front, end of turn `<|im_end|>`."""
    ids, merges = _learn("bytes")
    tokenizer = Qwen2Tokenizer(vocab=dict(ids), merges=merges, eos_token="<|im_end|>")
    return _with_qwen_tokens(tokenizer, QWEN2_ADDED)


def qwen3_5() -> Qwen3_5Tokenizer:
    """Qwen3.5's: as Qwen2's, with marks of thought that are added but not special."""
    ids, merges = _learn("bytes")
    tokenizer = Qwen3_5Tokenizer(vocab=dict(ids), merges=merges, eos_token="<|im_end|>")
    return _with_qwen_tokens(tokenizer, QWEN3_5_ADDED)


def _with_qwen_tokens(tokenizer: PreTrainedTokenizerFast, added: list[str]) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens({"additional_special_tokens": QWEN2_SPECIAL[1:]})
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    return tokenizer


def gemma3() -> GemmaTokenizer:
    """Gemma's: spaces as `▁` and none in front, byte fall-back, `<bos>` in front, `<end_of_turn>` ends a turn.

    Runs of line feeds are tokens of their own, as published; the processor writes two around every image.
    """
    ids, merges = _learn("gemma")
    tokenizer = GemmaTokenizer(
        vocab=dict(ids),
        merges=merges,
        add_bos_token=True,
        extra_special_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    )
    tokenizer.add_special_tokens({"additional_special_tokens": GEMMA_SPECIAL})
    tokenizer.add_tokens([AddedToken("\n" * run, special=False, normalized=False) for run in range(1, 5)])
    return tokenizer


def idefics3() -> PreTrainedTokenizerFast:
    """Llama 3's: bytes, `<|begin_of_text|>` in front; Idefics3 adds its image marks and `<end_of_utterance>`."""
    ids, merges = _learn("bytes")
    backend = Tokenizer(models.BPE(vocab=dict(ids), merges=merges, ignore_merges=True))
    backend.pre_tokenizer = _bytes_of_words()
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>"])
    bos = "<|begin_of_text|>"
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, backend.token_to_id(bos))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token="<|end_of_text|>",
        pad_token="<|reserved_special_token_0|>",
        padding_side="left",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": IDEFICS3_SPECIAL})
    return tokenizer
