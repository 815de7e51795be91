"""Granite Speech: a conformer on blocks of frames, a Q-Former with a few queries for each window, scaled Granite.

The tower reads clips padded to the longest of the call and has no mask: what it makes of a clip depends on the clips
beside it. Its batch normalisation must stay in eval mode. The language model multiplies its embeddings, the sounds'
too; `.logits` leave out the division by `logits_scaling` that Granite's text-only class applies.

The feature extractor asks torchaudio for its mel spectrogram. Where torchaudio is missing, `MelSpectrogram` below
stands in for that one transform; everything around it is the family's own code.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import (
    Blip2QFormerConfig,
    GPT2Tokenizer,
    GraniteConfig,
    GraniteSpeechConfig,
    GraniteSpeechEncoderConfig,
    GraniteSpeechForConditionalGeneration,
    GraniteSpeechProcessor,
)
from transformers.audio_utils import mel_filter_bank
from transformers.models.granite_speech import feature_extraction_granite_speech
from transformers.utils import is_torchaudio_available

from tiny import tokenizers
from tiny.base import Tiny, build_model, set_generation

MEL_BINS, CONTEXT, WINDOW, DOWNSAMPLE = 80, 20, 15, 5
"""Published, but for the blocks (200 frames): windows of 15 frames (0.3 s) of which 3 queries make tokens.

80 bins are what a reloaded feature extractor always has: it saves the number and does not read it.
"""

# A question ends with the answer's name whether a generation prompt is asked for or not; nothing is written after an
# answer, and system turns are dropped. Source: ibm-granite/granite-4.0-1b-speech and granite-speech-4.1-2b, whose
# template takes content that is one string, with `<|audio|>` written into it by the caller, and would print a list of
# parts as Python does. Parts are written here as that string. (The 3.3 models use Granite's template with roles.)
TEMPLATE = (
    "{% for message in messages %}"
    "{% set turn = namespace(text='') %}"
    "{% if message['content'] is string %}{% set turn.text = message['content'] %}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% set turn.text = turn.text ~ ('<|audio|>' if part['type'] == 'audio' else part['text']) %}"
    "{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'user' %}{{ 'USER: ' ~ turn.text ~ '\n ASSISTANT:' }}"
    "{% elif message['role'] == 'assistant' %}{{ turn.text }}"
    "{% endif %}"
    "{% endfor %}"
)


class MelSpectrogram(nn.Module):
    """The transform of `torchaudio.transforms.MelSpectrogram` with its defaults: power, HTK scale, no normalisation."""

    def __init__(self, sample_rate: int, n_fft: int, win_length: int, hop_length: int, n_mels: int) -> None:
        super().__init__()
        self.n_fft, self.win_length, self.hop_length = n_fft, win_length, hop_length
        self.register_buffer("window", torch.hann_window(win_length), persistent=False)
        filters = mel_filter_bank(n_fft // 2 + 1, n_mels, 0.0, sample_rate / 2, sample_rate, norm=None, mel_scale="htk")
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """[clips, samples] to [clips, bins, frames]."""
        spectrum = torch.stft(
            samples, self.n_fft, self.hop_length, self.win_length, window=self.window, return_complex=True
        )
        return self.filters.T @ spectrum.abs().square()


def _provide_mel_spectrogram() -> None:
    """Give the feature extractor's module the one transform of torchaudio that it uses."""
    if not is_torchaudio_available():
        module: Any = feature_extraction_granite_speech
        module.torchaudio = SimpleNamespace(transforms=SimpleNamespace(MelSpectrogram=MelSpectrogram))
        module.requires_backends = lambda *_: None


def _tokenizer() -> GPT2Tokenizer:
    """Granite's: GPT-2's bytes, no token in front, one token at the end of texts."""
    ids, merges = tokenizers._learn("bytes")
    tokenizer = GPT2Tokenizer(
        vocab=dict(ids),
        merges=merges,
        unk_token="<|end_of_text|>",
        bos_token="<|end_of_text|>",
        eos_token="<|end_of_text|>",
        pad_token="<|pad|>",
        padding_side="left",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|audio|>"]})
    return tokenizer


def _config(tokenizer: GPT2Tokenizer, overrides: dict[str, Any]) -> GraniteSpeechConfig:
    text = {
        "vocab_size": len(tokenizer) + 5,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "embedding_multiplier": 4.0,  # tied to the head, so redrawn at its scale of about 1/7
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.8,
        "logits_scaling": 4.0,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return GraniteSpeechConfig(
        text_config=GraniteConfig(**text | overrides),
        encoder_config=GraniteSpeechEncoderConfig(
            input_dim=2 * MEL_BINS,
            num_layers=2,
            hidden_dim=32,
            feedforward_mult=2,
            num_heads=2,
            output_dim=12,
            context_size=CONTEXT,
            max_pos_emb=CONTEXT,
            dropout=0.0,
            conv_kernel_size=5,
        ),
        projector_config=Blip2QFormerConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            cross_attention_frequency=1,
            encoder_hidden_size=32,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|audio|>"),
        has_lora_adapter=False,
        window_size=WINDOW,
        downsample_rate=DOWNSAMPLE,
    )


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; every begun 0.3 s of sound are 3 tokens. `overrides` are fields of the `GraniteConfig`."""
    _provide_mel_spectrogram()
    tokenizer = _tokenizer()
    config = _config(tokenizer, overrides)
    processor = GraniteSpeechProcessor(
        audio_processor=feature_extraction_granite_speech.GraniteSpeechFeatureExtractor(
            n_mels=MEL_BINS, projector_window_size=WINDOW, projector_downsample_rate=DOWNSAMPLE
        ),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
    )
    model = build_model(
        GraniteSpeechForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, ["<|end_of_text|>"])
    return Tiny("granite_speech", model, processor, end_of_turn="<|end_of_text|>")
