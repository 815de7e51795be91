"""The last part of the conformance check: the encoder in front of a language model, saved and loaded."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import torch

from mmdpo.modalities.encoders import MediaEncoder
from mmdpo.models.composed import compose


@torch.no_grad()
def composed_problems(name: str, encoder: MediaEncoder, items: Sequence[Any], llm: Any, tokenizer: Any) -> list[str]:
    """What is wrong with a composed model of one encoder.

    Args:
        name: The modality.
        encoder: Its encoder.
        items: Decoded items.
        llm: As for ``compose``; a tiny one when None.
        tokenizer: As for ``compose``.
    """
    from transformers import AutoModelForMultimodalLM, AutoProcessor

    if llm is None:
        llm, tokenizer = _tiny_llm()
    model, processor = compose(llm, {name: encoder}, tokenizer=tokenizer)
    inputs = _encoded(processor, name, items)
    problems = []
    places = (inputs["input_ids"] == model.config.media[name]["token_id"]).sum(1).tolist()
    declared = [encoder.tokens(item) for item in items]
    if places != declared:
        problems.append(f"{places} placeholder tokens for items of {declared}")
    logits = model(**inputs).logits[inputs["attention_mask"].bool()]
    if not bool(torch.isfinite(logits).all()):
        problems.append("the logits are not finite")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        again = _encoded(AutoProcessor.from_pretrained(folder), name, items)
        loaded = AutoModelForMultimodalLM.from_pretrained(folder, use_safetensors=True, dtype="auto").to(model.device)
    if again.keys() != inputs.keys() or not all(torch.equal(again[key], inputs[key]) for key in inputs):
        problems.append("the saved processor makes other inputs")
    raw = {key: inputs[f"{name}_{key}"] for key in encoder.inputs}
    before, after = (each.model.get_media_features(name, **raw).pooler_output for each in (model, loaded))
    if not all(torch.equal(one, other) for one, other in zip(before, after, strict=True)):
        problems.append("the saved model gives other features: it has state that is no parameter or buffer")
    return problems


def _encoded(processor: Any, name: str, items: Sequence[Any]) -> dict[str, Any]:
    """The items in one batch, each with the same question."""
    question = {"type": "text", "text": "What is this?"}
    conversations = [[{"role": "user", "content": [{"type": name, name: item}, question]}] for item in items]
    encoded = processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return dict(encoded)


def _tiny_llm() -> tuple[Any, Any]:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", "<pad>", "User", "Assistant", ":", "What", "is", "this", "?"]
    words_alone = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    words_alone.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words_alone, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(words), bos_token_id=1, eos_token_id=2, pad_token_id=3, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config), tokenizer
