"""What a step must compute, from token counts: the ceiling of a ratio, and the operations that are needed.

The **ceiling by tokens** counts every token as one pass through all weights that it meets: the language model's layers
and head for a token of text or image, the tower and projector for a position of the tower. A forward pass costs one, a
backward pass through frozen weights one (two where the weights train), recomputed activations one.

The **operations** count matrix products: attention over what a causal row sees, the head where answers are predicted,
adapters and their gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from mmdpo.bench.data import Sizes
from mmdpo.bench.models import build_model, build_processor
from mmdpo.bench.shapes import Shape, get_shape
from mmdpo.models.families import facts_of
from mmdpo.models.load import part_of

Reference = Literal["fresh", "cached", "features"]
REFERENCES: tuple[Reference, ...] = ("fresh", "cached", "features")
"""Computed in every step; looked up; looked up, and the images' features too."""
Layout = Literal["shared", "plain", "trl"]
"""One prefix for all answers; a row for each answer, images encoded once; rows as TRL's trainer has them."""


@dataclass(frozen=True)
class Weights:
    """Weights of linear layers, which tokens meet.

    Args:
        layers: Of the language model's layers.
        head: Of the output head.
        tower: Of the encoder.
        adapter: Of a LoRA adapter on every linear layer of the language model.
        attention: Width of queries, summed over the layers.
    """

    layers: int
    head: int
    tower: int
    adapter: int
    attention: int


@dataclass(frozen=True)
class Step:
    """What is measured: everything that decides how much a step computes.

    Args:
        shape: The model.
        sizes: Of the batch.
        checkpointing: Whether activations are computed again in the backward pass.
    """

    shape: Shape
    sizes: Sizes
    checkpointing: bool


def weights_of(model: Any, rank: int) -> Weights:
    """Counts the weights of a model's linear layers, on ``meta`` or anywhere else; LLaVA's small projector is left out.

    Args:
        model: The model itself.
        rank: Of the adapter.
    """
    facts = facts_of(model)
    text = model.config.get_text_config()
    head = model.get_output_embeddings()
    layers = tower = adapter = 0
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or module is head:
            continue
        part = part_of(f"{name}.weight", facts)
        if part == "llm":
            layers += module.weight.numel()
            adapter += rank * (module.in_features + module.out_features)
        elif name.removeprefix(facts.prefix).partition(".")[0] not in facts.projectors:  # a tower may hold a merger
            tower += module.weight.numel()
    width = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    return Weights(layers, head.weight.numel(), tower, adapter, width * text.num_hidden_layers)


def shape_weights(name: str) -> Weights:
    """What the model of a shape holds; nothing is allocated."""
    shape = get_shape(name)
    return weights_of(build_model(shape, build_processor(shape).tokenizer, device="meta"), shape.lora_rank)


def token_cost(weights: Weights, step: Step, layout: Layout, reference: Reference) -> float:
    """Multiplications of one record by the rule of tokens; only ratios of it mean something.

    Args:
        weights: Of the model; the adapter's are not counted.
        step: What is measured.
        layout: How answers are laid out.
        reference: Whether the reference is computed, looked up, or looked up with the images' features.
    """
    shape, sizes = step.shape, step.sizes
    again = 1 if step.checkpointing else 0
    passes = 2 + again + (1 if reference == "fresh" else 0)
    rows = 1 if layout == "shared" else sizes.candidates
    tokens = rows * shape.prefix + sizes.candidates * sizes.answer
    encoded = 0 if reference == "features" else 1
    if layout == "trl":  # a frozen tower is computed in every row, and with checkpointing back-propagated as well
        encoded = rows * ((3 if step.checkpointing else 1) + (1 if reference == "fresh" else 0))
    tower = encoded * shape.tower_tokens * weights.tower
    return float(passes * tokens * (weights.layers + weights.head) + tower)


def ceiling(
    weights: Weights,
    step: Step,
    layout: Layout,
    reference: Reference,
    against: Layout = "trl",
    their_reference: Reference = "fresh",
) -> float:
    """How many times faster a layout can be than another one, by the rule of tokens."""
    return token_cost(weights, step, against, their_reference) / token_cost(weights, step, layout, reference)


def needed_flops(weights: Weights, step: Step, reference: Reference) -> float:
    """Floating-point operations that a batch needs: each prompt once, each answer once, nothing computed again."""
    return _flops(weights, step, rows=1, reference=reference, head_everywhere=False)


def computed_flops(weights: Weights, step: Step, layout: Layout, reference: Reference, device: str) -> float:
    """Floating-point operations of a batch as a layout computes them, recomputed activations among them.

    TRL projects every position through the head where it has no Triton kernel: on a CPU.
    """
    rows = 1 if layout == "shared" else step.sizes.candidates
    everywhere = layout == "trl" and device == "cpu"
    total = _flops(weights, step, rows=rows, reference=reference, head_everywhere=everywhere)
    if step.checkpointing:
        total += _passes(weights, step, rows, everywhere).forward_layers * step.sizes.batch
    if layout == "trl":
        passes = rows * ((3 if step.checkpointing else 1) + (1 if reference == "fresh" else 0)) - 1
        total += 2.0 * passes * step.shape.tower_tokens * weights.tower * step.sizes.batch
    return total


@dataclass(frozen=True)
class _Passes:
    """Operations of one record: forward through layers and adapters, forward through the head, and the backward."""

    forward_layers: float
    forward_head: float
    backward: float


def _passes(weights: Weights, step: Step, rows: int, head_everywhere: bool) -> _Passes:
    prefix, answer, candidates = step.shape.prefix, step.sizes.answer, step.sizes.candidates
    tokens = rows * prefix + candidates * answer
    # pairs of a token and one that it sees; a branch sees its prefix and itself
    pairs = rows * prefix * (prefix + 1) / 2 + candidates * (answer * prefix + answer * (answer + 1) / 2)
    attention = 4.0 * weights.attention * pairs
    forward = 2.0 * tokens * (weights.layers + weights.adapter) + attention
    backward = 2.0 * tokens * (weights.layers + 2 * weights.adapter) + 2 * attention
    predicted = tokens if head_everywhere else candidates * answer
    head = 2.0 * predicted * weights.head
    return _Passes(forward, head, backward + head)


def _flops(weights: Weights, step: Step, *, rows: int, reference: Reference, head_everywhere: bool) -> float:
    passes = _passes(weights, step, rows, head_everywhere)
    forward = passes.forward_layers + passes.forward_head
    total = forward + passes.backward
    if reference == "fresh":
        total += forward
    if reference != "features":
        total += 2.0 * step.shape.tower_tokens * weights.tower
    return total * step.sizes.batch
