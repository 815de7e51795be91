"""Which encoder inputs belong to which media item: processors stack those of all items of a prompt.

Told apart, an item that two prompts share is encoded once. What cannot be told apart stays together as one unit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmdpo.modalities.base import Modality


@dataclass(frozen=True)
class MediaUnit:
    """The smallest set of items whose encoder inputs can be told apart: one item, or all of a prompt.

    Args:
        modality: The modality.
        key: Content hash of the encoder inputs.
        inputs: Encoder inputs, batched along dimension 0.
        items: How many items it holds.
        rows: How many rows of the main input it holds (tiles, windows).
        tokens: Its placeholder tokens, None where they cannot be told from its neighbours'.
        lasting: Whether the same can come back in another epoch.
    """

    modality: Modality
    key: str
    inputs: Mapping[str, Tensor]
    items: int
    rows: int
    tokens: int | None
    lasting: bool = True


def media_units(
    modality: Modality,
    inputs: Mapping[str, Tensor],
    items: Sequence[Any],
    placeholders: Tensor,
    processor: Any,
    *,
    tokens_needed: bool,
    together: bool = False,
) -> list[MediaUnit]:
    """Splits a prompt's encoder inputs by item, where that is possible.

    Args:
        modality: The modality.
        inputs: Encoder inputs of the prompt, the main one first.
        items: The decoded items.
        placeholders: [P] True on the prompt's placeholder tokens of this modality.
        processor: The Hugging Face processor.
        tokens_needed: Whether an item can be told apart only with its number of placeholder tokens.
        together: Whether they must stay together, because their encoder is not indifferent to neighbours.

    Returns:
        One unit an item, or one unit for all.
    """
    encoder = getattr(processor, "encoders", {}).get(modality.name)  # of a composed model: it says what it will give
    told = None if encoder is not None else _told_by_processor(processor, items)
    declared = None if encoder is None else [encoder.tokens(item) for item in items]
    tokens = _tokens_of_each(placeholders, len(items)) if declared is None else declared
    if tokens is None and told is not None and sum(told[0] or ()) == int(placeholders.sum()):
        tokens = told[0]
    pieces = None if together else _pieces(modality, inputs, len(items), None if told is None else told[1])
    main = next(iter(inputs))
    if pieces is None or (tokens is None and tokens_needed):
        count = int(placeholders.sum()) or None  # none at all: the family marks its places in another way
        return [MediaUnit(modality, _content_key(inputs), inputs, len(items), len(inputs[main]), count)]
    counts: Sequence[int | None] = tokens if tokens is not None else [None] * len(items)
    return [
        MediaUnit(modality, _content_key(piece, padded=encoder is not None), piece, 1, len(piece[main]), count)
        for piece, count in zip(pieces, counts, strict=True)
    ]


def _pieces(
    modality: Modality, inputs: Mapping[str, Tensor], items: int, rows: Sequence[int] | None
) -> list[dict[str, Tensor]] | None:
    """The inputs of each item, None where they cannot be told apart."""
    main = next(iter(inputs.values()))
    grid = inputs.get(modality.grid) if modality.grid else None
    if all(len(values) == items for values in inputs.values()):
        return _cut(inputs, [1] * items, 0)
    if grid is not None and len(grid) == items and int(grid.prod(-1).sum()) == len(main):
        return _cut(inputs, grid.prod(-1).tolist(), 0)
    for counts in ([1] * items, rows):  # a batch of one prompt, its items (or their tiles) along the second dimension
        if counts is not None and all(values.shape[:2] == (1, sum(counts)) for values in inputs.values()):
            return _cut(inputs, counts, 1)
    if rows is not None and len(main) == sum(rows):
        return _cut(inputs, rows, 0)
    return None


def _cut(inputs: Mapping[str, Tensor], counts: Sequence[int], dimension: int) -> list[dict[str, Tensor]] | None:
    """Cuts each input into the items' counts, or into one each where it has an entry an item."""
    total = sum(counts)
    sizes = {name: values.shape[dimension] for name, values in inputs.items()}
    if any(size not in (total, len(counts)) for size in sizes.values()):
        return None
    parts = {
        name: values.split(list(counts) if sizes[name] == total else 1, dimension) for name, values in inputs.items()
    }
    return [{name: part[item] for name, part in parts.items()} for item in range(len(counts))]


def run_lengths(placeholders: Tensor) -> list[int]:
    """Lengths of the runs of placeholder tokens that stand together, of a [P] mask."""
    inside = placeholders.int()
    edges = torch.diff(inside, prepend=inside.new_zeros(1), append=inside.new_zeros(1))
    starts, ends = (edges == 1).nonzero()[:, 0], (edges == -1).nonzero()[:, 0]
    return (ends - starts).tolist()


def _tokens_of_each(placeholders: Tensor, items: int) -> list[int] | None:
    """Placeholder tokens of each item, if as many runs stand together as there are items."""
    runs = run_lengths(placeholders)
    return runs if len(runs) == items else [sum(runs)] if items == 1 and runs else None


def _told_by_processor(processor: Any, items: Sequence[Any]) -> tuple[list[int] | None, list[int]] | None:
    """Placeholder tokens (where they are told) and rows (tiles) of each of several images, by the processor itself."""
    sizes = [(item.height, item.width) for item in items if hasattr(item, "height")]
    if len(items) == 1 or len(sizes) != len(items):
        return None
    count = getattr(processor, "_get_num_multimodal_tokens", None)
    if count is not None:
        told = count(image_sizes=sizes)
        tokens, rows = getattr(told, "num_image_tokens", None), getattr(told, "num_image_patches", None)
        return None if tokens is None or rows is None else (list(tokens), list(rows))
    alone = [processor.image_processor(images=[[item]], return_tensors="pt")["pixel_values"] for item in items]
    return None, [values.shape[1] if len(values) == 1 else len(values) for values in alone]


def _content_key(inputs: Mapping[str, Tensor], *, padded: bool = False) -> str:
    """SHA-256 of the encoder inputs: equal inputs are one distinct item, wherever they come from.

    Padding to a larger neighbour is left out: tiles of zeros, and frames that a mask hides.

    Args:
        inputs: Encoder inputs by name.
        padded: Whether zeros at the end of any dimension are padding by contract (``MediaEncoder``).
    """
    digest = hashlib.sha256()
    masks = [values for name, values in inputs.items() if name.endswith("mask") and values.ndim == 2]
    seen = {mask.shape[1]: int(mask.nonzero()[:, 1].max()) + 1 for mask in masks if len(mask) == 1 and mask.any()}
    for name in sorted(inputs):
        values = inputs[name].detach().cpu()
        if padded or values.ndim >= 4:
            for dimension in range(1, values.ndim if padded else 2):
                values = values.narrow(dimension, 0, _last_nonzero(values, dimension))
        elif values.ndim >= 2 and values.shape[-1] in seen:
            values = values[..., : seen[values.shape[-1]]]
        values = values.contiguous()
        digest.update(f"{name}{values.dtype}{tuple(values.shape)}".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _last_nonzero(values: Tensor, dimension: int) -> int:
    """One past the last slice along a dimension that is not all zero; at least 1."""
    used = values.movedim(dimension, 0).flatten(1).any(1).nonzero()
    return int(used.max()) + 1 if len(used) else 1
