"""A Whisper encoder in front of a Llama, of the real shape, with random weights and small widths, saved to a folder.

Everything that shapes a batch is Whisper's: sound at 16 kHz, 80 mel bands, windows of 30 seconds, 1500 frames a window,
of which those of the real length are kept. Only the widths are small, so that it trains on a laptop, and nothing in it
knows anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mmdpo.modalities.whisper import WhisperFeatures
from mmdpo.models.composed import compose

AUDIO_WIDTH, TEXT_WIDTH, LAYERS, HEADS = 64, 64, 4, 4
FRAMES_PER_TOKEN = 8
"""Encoder frames of 20 ms that become one token: 6.25 tokens a second."""


def save_random_listener(captions: Iterable[str], folder: Path, seed: int) -> Path:
    """Composes the model and its processor and saves both, as `from_pretrained` expects them."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer(captions)
    language_model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=3 * TEXT_WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=4096,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            initializer_range=TEXT_WIDTH**-0.5,  # the usual 0.02 suits widths of thousands
        )
    )
    whisper = {
        "d_model": AUDIO_WIDTH,
        "encoder_layers": LAYERS,
        "encoder_attention_heads": HEADS,
        "encoder_ffn_dim": 4 * AUDIO_WIDTH,
        "num_mel_bins": 80,
        "max_source_positions": 1500,
        "init_std": AUDIO_WIDTH**-0.5,  # else hardly anything of the clip would reach the logits
    }
    encoder = WhisperFeatures(config=whisper, stack=FRAMES_PER_TOKEN)
    model, processor = compose(language_model, {"audio": encoder}, tokenizer=tokenizer, seed=seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _tokenizer(captions: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE learnt from the captions: every text round-trips, and common words are one token."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(["User: Assistant: Describe the audio.", *captions], trainer)
    start = ("<s>", learner.token_to_id("<s>"))
    learner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[start])
    return PreTrainedTokenizerFast(
        tokenizer_object=learner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )
