"""Attention masks of packed rows as a model takes them: additive, or blocks for FlexAttention.

An additive mask [B, 1, T, T] is understood by every attention of ``transformers`` and computes every pair of positions.
FlexAttention (Dong et al. 2024, "Flex Attention: A Programming Model for Generating Optimized Attention Kernels") takes
the branch rule as a function and skips the blocks of 128 x 128 positions in which nothing may attend to anything:
answers that do not see each other, records that share a row, and what lies after a position.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from mmdpo.branches import additive_mask, attention_rule, rule_at
from mmdpo.errors import ConfigError
from mmdpo.forward.split_attention import with_pieces
from mmdpo.models.families import Facts


class RowMasks:
    """The masks of the batch that was asked for last, so that policy and reference use the same ones."""

    def __init__(self) -> None:
        self._of: tuple[Any, ...] = (None,) * 6
        self._masks: Any = None

    def of(self, batch: Mapping[str, Any], facts: Facts, dtype: torch.dtype) -> Any:
        """The masks of a batch; built once for the same tensors."""
        wanted = (batch["record"], batch["segment"], batch["depth"], batch["block"], facts, dtype)
        if any(one is not other for one, other in zip(wanted, self._of, strict=True)):
            self._of, self._masks = wanted, row_masks(batch, facts, dtype)
        return self._masks


def row_masks(batch: Mapping[str, Any], facts: Facts, dtype: torch.dtype) -> Any:
    """The branch rule as the model takes it: one mask, or one for each type of attention layer.

    Args:
        batch: Packed rows; ``record``, ``segment``, ``depth`` and ``block``, [B, T] each.
        facts: Facts of the model.
        dtype: Precision of additive masks.

    Returns:
        Additive masks [B, 1, T, T], or block masks where the model's layers take those.
    """

    def mask(block: Tensor | None, window: int | None = None) -> Tensor | BlockMask:
        place = (batch["record"], batch["segment"], batch["depth"])
        if facts.flex:
            return block_mask(*place, block, window)
        allowed = attention_rule(*place, block, window)
        dense = additive_mask(allowed, dtype)
        return with_pieces(dense, allowed, *place[:2]) if block is None and window is None else dense

    block = None if facts.two_way == "none" else batch["block"]
    in_full_layers = None if facts.two_way == "windowed_runs" else block
    full = None if facts.forward_window else mask(in_full_layers)
    if facts.window is None or not facts.family.mask_by_layer:
        return full  # without masks by layer a window that binds cannot be told; the start-up check finds out
    windowed = mask(block, facts.window)
    return windowed if full is None else {"full_attention": full, "sliding_attention": windowed}


def block_mask(
    record: Tensor, segment: Tensor, depth: Tensor, block: Tensor | None = None, window: int | None = None
) -> BlockMask:
    """:func:`mmdpo.branches.attention_rule` for FlexAttention; arguments as there."""
    rows, length = record.shape

    def allowed(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        del head
        return rule_at(record, segment, depth, block, window, row, query, key)

    return create_block_mask(allowed, rows, None, length, length, device=record.device)


def check_attention(facts: Facts, device: torch.device, trains: bool) -> None:
    """Refuses FlexAttention where it has no backward.

    Raises:
        ConfigError: The model is to be trained on a CPU.
    """
    if facts.flex and trains and device.type == "cpu":
        raise ConfigError(
            "model.attention is flex and the run is on a CPU",
            why="FlexAttention has no backward there: the first step would fail.",
            fix="Use model.attention: auto on a CPU, or train on a GPU.",
        )


@contextlib.contextmanager
def dense_attention(model: Any) -> Iterator[None]:
    """Answers are written with SDPA: one token at a time, FlexAttention would be compiled for every length."""
    text = model.config.get_text_config()
    if text._attn_implementation != "flex_attention":
        yield
        return
    text._attn_implementation = "sdpa"
    try:
        yield
    finally:
        text._attn_implementation = "flex_attention"
