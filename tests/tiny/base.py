"""What every tiny family shares: the built pair, seeded construction, and weights that make a test mean something."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from PIL import Image
from torch import nn
from transformers import BatchFeature, PreTrainedConfig, PreTrainedModel, ProcessorMixin

Message = dict[str, Any]

NORM_NOISE = 0.1
"""Standard deviation of what is added to vectors (norm gains, biases, decay rates): felt, without breaking them."""


@dataclass(frozen=True)
class Tiny:
    """A small random model of a real architecture with the processor that feeds it.

    Attributes:
        name: the family, as in `tiny.FAMILIES`.
        model: in eval mode, every parameter trainable, no dropout, no KV or feature cache shared with other builds.
        processor: the family's real processor class with its chat template and special tokens.
        end_of_turn: the token that ends an answer; not always the first of those that stop generation.
    """

    name: str
    model: PreTrainedModel
    processor: ProcessorMixin
    end_of_turn: str

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def end_of_turn_id(self) -> int:
        """The id of `end_of_turn`."""
        return int(self.tokenizer.convert_tokens_to_ids(self.end_of_turn))

    @property
    def stop_ids(self) -> list[int]:
        """The ids that end generation, in the order of the generation config."""
        return list(self.model.generation_config.eos_token_id)


def build_model(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    *,
    seed: int,
    dtype: torch.dtype,
    attn_implementation: str,
) -> PreTrainedModel:
    """Build a model from its config, draw its weights from `seed` alone, and leave the global generator untouched.

    The weights are drawn in float32 and cast afterwards, so that builds of one seed agree across dtypes.
    """
    config._attn_implementation = attn_implementation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        redraw(model)
    return model.to(dtype).eval()


def redraw(model: nn.Module) -> None:
    """Draw all weights again at the scale of a trained model's activations.

    Fresh models start so close to zero (standard deviation 0.02, some projectors exactly 0) that attention is flat and
    images do not move the logits: a test of masks or positions would pass whatever they are. Here matrices keep the
    variance of their input, embeddings have unit variance at the input of the first layer, and vectors get noise on
    top of what their module needs (ones, zeros or decay rates).
    """
    with torch.no_grad():
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * NORM_NOISE)
                elif isinstance(module, nn.Embedding):
                    # Gemma multiplies its (tied) embeddings by sqrt(hidden); everybody else reads them as they are.
                    nn.init.normal_(parameter, std=1 / float(getattr(module, "scalar_embed_scale", 1.0)))
                else:
                    nn.init.normal_(parameter, std=1 / math.sqrt(parameter[0].numel()))


def set_generation(model: PreTrainedModel, tokenizer: Any, stop_tokens: list[str]) -> None:
    """Set what `generate` needs as the published checkpoints do, except that it is greedy."""
    generation_config = model.generation_config
    generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(stop_tokens)
    generation_config.pad_token_id = tokenizer.pad_token_id
    generation_config.bos_token_id = tokenizer.bos_token_id
    generation_config.do_sample = False


def user(text: str, *images: Image.Image) -> Message:
    """A user turn: the images, then the text."""
    return {"role": "user", "content": [*({"type": "image", "image": image} for image in images), text_part(text)]}


def assistant(text: str) -> Message:
    """An assistant turn."""
    return {"role": "assistant", "content": [text_part(text)]}


def system(text: str) -> Message:
    """A system turn."""
    return {"role": "system", "content": [text_part(text)]}


def text_part(text: str) -> dict[str, str]:
    """A text part of a message's content."""
    return {"type": "text", "text": text}


def encode(tiny: Tiny, messages: list[Message]) -> BatchFeature:
    """Encode one conversation as the prompt of the next answer, with pixels in the model's dtype."""
    encoded = tiny.processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return encoded.to(tiny.model.dtype)


def append_ids(encoded: Mapping[str, torch.Tensor], ids: list[int]) -> dict[str, torch.Tensor]:
    """The plain row of a prompt and an answer: the ids attended to, of text type, everything else as it is."""
    row = dict(encoded)
    added = torch.tensor([ids])
    row["input_ids"] = torch.cat([row["input_ids"], added], dim=1)
    row["attention_mask"] = torch.cat([row["attention_mask"], torch.ones_like(added)], dim=1)
    kind = int("labels" in row)  # PaliGemma's processor alone gives labels, and its answers are of type 1
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in row:
            row[name] = torch.cat([row[name], torch.full_like(added, kind)], dim=1)
    row.pop("labels", None)
    if "cross_attention_mask" in row:  # an answer sees the images that the end of its prompt sees
        seen = row["cross_attention_mask"]
        row["cross_attention_mask"] = torch.cat([seen, seen[:, -1:].expand(-1, len(ids), -1, -1)], dim=1)
    return row


def _keeping_float64(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The function, with float64 in place of float32 wherever it is asked of a float64 tensor."""

    def call(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if tensor.dtype == torch.float64:
            args = tuple(torch.float64 if value is torch.float32 else value for value in args)
            kwargs = {key: torch.float64 if value is torch.float32 else value for key, value in kwargs.items()}
        return function(tensor, *args, **kwargs)

    return call


@contextmanager
def exact_float64() -> Iterator[None]:
    """Let a float64 model really compute in float64.

    RMS norms, the softmax of eager attention, vision rotary embeddings and gated delta rules round to float32 whatever
    the model's dtype. Two equal computations laid out differently then differ by 1e-7 as soon as one of them crosses a
    rounding boundary, and gradients carry the noise of every cast. Inside this context those casts do nothing; wrap
    both sides of a comparison and their backward passes (gradient checkpointing runs the forward again).
    """
    to, softmax = _keeping_float64(torch.Tensor.to), _keeping_float64(nn.functional.softmax)
    with (
        mock.patch.object(torch.Tensor, "float", lambda tensor: to(tensor, torch.float32)),
        mock.patch.object(torch.Tensor, "to", to),
        mock.patch.object(nn.functional, "softmax", softmax),
    ):
        yield
