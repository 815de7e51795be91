"""SDPA over packed rows in pieces: the shared prefix as a plain causal row, then each branch beside what it sees.

With an additive mask SDPA computes every pair of positions, most of which the branch rule forbids: above the diagonal,
and between branches. In pieces, the prefix takes the causal kernel, which skips what lies above the diagonal, and the
queries of a branch are only multiplied with the prefix and the branch itself. Nothing else changes; measured in
``docs/performance.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SHORTEST = 32
"""Positions of a piece after the prefix, at least: more pieces are more calls."""


@dataclass(frozen=True)
class Piece:
    """Consecutive queries after the prefix, and the keys that they see.

    Args:
        prefix: Whether they see the prefix.
        first: Number of the first piece after the prefix that they see; they see all from there to themselves.
        mask: [B, 1, queries, keys] additive.
    """

    prefix: bool
    first: int
    mask: Tensor


@dataclass(frozen=True)
class Pieces:
    """How the rows of a batch are cut, the same way in every row.

    Args:
        lengths: Positions of the prefix and of each piece after it.
        after: The pieces after the prefix.
    """

    lengths: list[int]
    after: list[Piece]


def with_pieces(mask: Tensor, allowed: Tensor, record: Tensor, segment: Tensor) -> Tensor:
    """Lets SDPA compute a mask in pieces, where the rows begin with a prefix.

    Args:
        mask: [B, 1, T, T] additive, of full causal layers: no window, no two-way blocks.
        allowed: [B, T, T] the rule that it was made of.
        record: [B, T] tree of the row, -1 on padding.
        segment: [B, T] 0 on the prefix, k on branch k.

    Returns:
        The mask. What else takes it, other kernels or other layers, finds an ordinary tensor.
    """
    ALL_ATTENTION_FUNCTIONS["sdpa"] = split_sdpa  # the same function for every mask that has no pieces
    pieces = _pieces(mask, allowed, record, segment)
    if pieces is not None:
        mask.mmdpo_pieces = pieces  # type: ignore[attr-defined]
    return mask


def _pieces(mask: Tensor, allowed: Tensor, record: Tensor, segment: Tensor) -> Pieces | None:
    length = record.shape[1]
    leading = ((record == record[:, :1]) & (record >= 0) & (segment == 0)).all(0)
    changes = ((record[:, 1:] != record[:, :-1]) | (segment[:, 1:] != segment[:, :-1])).any(0)
    prefix = int(leading.int().cumprod(0).sum())
    if not 0 < prefix < length:
        return None
    cuts = [prefix]
    for place in (changes.nonzero()[:, 0] + 1).tolist():
        if cuts[-1] + SHORTEST <= place <= length - SHORTEST:
            cuts.append(place)
    ends = [*cuts[1:], length]
    spans = list(zip(cuts, ends, strict=True))
    reach = torch.stack([allowed[:, start:end, prefix:].any(0).any(0).int().argmax() for start, end in spans])
    sees = torch.stack([allowed[:, start:end, :prefix].any() for start, end in spans])
    after = []
    for (start, end), earliest, with_prefix in zip(spans, reach.tolist(), sees.tolist(), strict=True):
        first = max(n for n, cut in enumerate(cuts) if cut <= prefix + earliest)
        rows = mask[:, :, start:end]
        columns = [rows[..., :prefix]] * with_prefix + [rows[..., cuts[first] : end]]
        after.append(Piece(with_prefix, first, torch.cat(columns, -1)))
    return Pieces([prefix, *(end - start for start, end in spans)], after)


def split_sdpa(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """``transformers``' SDPA, in pieces where the mask has some.

    Args:
        module: The attention layer.
        query: [B, heads, T, D].
        key: [B, key heads, T, D].
        value: [B, key heads, T, D].
        attention_mask: [B, 1, T, T] additive, or None.
        options: As ``transformers`` gives them.

    Returns:
        [B, T, heads, D], and None.
    """
    pieces: Pieces | None = getattr(attention_mask, "mmdpo_pieces", None)
    if pieces is None or options.get("position_bias") is not None or query.shape[2] != key.shape[2]:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    options["is_causal"] = True  # of the prefix, which has no mask
    (first_query, *queries), (prefix_key, *keys), (prefix_value, *values) = (
        tensor.split(pieces.lengths, 2) for tensor in (query, key, value)
    )
    found = [sdpa_attention_forward(module, first_query, prefix_key, prefix_value, None, **options)[0]]
    for number, (piece, own) in enumerate(zip(pieces.after, queries, strict=True)):
        seen_keys = [prefix_key] * piece.prefix + keys[piece.first : number + 1]
        seen_values = [prefix_value] * piece.prefix + values[piece.first : number + 1]
        found.append(
            sdpa_attention_forward(
                module, own, torch.cat(seen_keys, 2), torch.cat(seen_values, 2), piece.mask, **options
            )[0]
        )
    return torch.cat(found, 1), None
