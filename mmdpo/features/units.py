"""The projected features of one unit of media: cut from what a feature function gives, and put together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmdpo.errors import ModelError

PER_ITEM = {"pooler_output", "deepstack_features"}
UNREAD = {"last_hidden_state", "hidden_states", "attentions"}
"""Fields of an encoder's output that the language model does not read: many times as large as those that it does."""


class Size(NamedTuple):
    """How much of an encoder's output belongs to a unit; ``tokens`` is None where it is not known beforehand."""

    items: int
    rows: int
    tokens: int | None
    name: str


@dataclass(frozen=True)
class Features:
    """Projected features of one unit.

    Args:
        groups: One tensor for each entry of the encoder's output, or one with a row for each.
        layers: The same for each further layer that the language model reads (``deepstack_features``).
        common: Further fields of the encoder's output that belong to no item (Ovis2's features of its marks).
        output: Class of the encoder's output, and container of its ``pooler_output``.
    """

    groups: Any
    layers: tuple[Any, ...] | None
    common: Mapping[str, Any]
    output: tuple[Any, Any]

    def flat(self) -> Tensor:
        """[tokens, hidden] all features of the unit, in the order of its placeholders."""
        if isinstance(self.groups, Tensor):
            return self.groups.reshape(-1, self.groups.shape[-1])
        return torch.cat([group.reshape(-1, group.shape[-1]) for group in self.groups])


def outputs_of(units: Sequence[Features]) -> Any:
    """The encoder output that the model reads, assembled in the order of the placeholders."""
    container = units[0].output[1]

    def joined(groups: Sequence[Any]) -> Any:
        if issubclass(container, Tensor):
            alike = len({group.shape[1:] for group in groups}) == 1
            return torch.cat([group if alike else group.reshape(-1, group.shape[-1]) for group in groups])
        return container(entry for group in groups for entry in group)

    given = {"pooler_output": joined([unit.groups for unit in units])}
    if units[0].layers is not None:
        given["deepstack_features"] = [joined(layer) for layer in zip(*(u.layers or () for u in units), strict=True)]
    return units[0].output[0](**given, **units[0].common)


def split_units(output: Any, sizes: Sequence[Size], name: str) -> list[Features]:
    """The features of each unit."""
    groups = output.pooler_output
    counts = _counts(len(groups), groups.ndim if isinstance(groups, Tensor) else None, sizes)
    if counts is None:
        raise ModelError(
            f"the encoder gave {len(groups)} feature groups for {sum(size.items for size in sizes)} {name} items",
            why="It is not known which features belong to which item.",
            fix="Report the model family; mmdpo/models/families.py lacks a fact about it.",
        )
    ends = torch.tensor(counts).cumsum(0).tolist()
    slices = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    layers = getattr(output, "deepstack_features", None)
    kinds = (type(output), type(groups))
    common = {field: output[field] for field in output.keys() - PER_ITEM - UNREAD}
    pieces = [
        Features(groups[part], None if layers is None else tuple(layer[part] for layer in layers), common, kinds)
        for part in slices
    ]
    return [_checked(piece, size, name) for piece, size in zip(pieces, sizes, strict=True)]


def _counts(entries: int, dimensions: int | None, sizes: Sequence[Size]) -> list[int] | None:
    """How many of the output's entries belong to each unit."""
    candidates: list[list[int]] = [[1] * len(sizes), [size.rows for size in sizes], [size.items for size in sizes]]
    tokens = [size.tokens for size in sizes]
    if dimensions == 2 and None not in tokens:
        candidates = [[count or 0 for count in tokens]]
    return next((counts for counts in candidates if sum(counts) == entries), None)


def _checked(piece: Features, size: Size, name: str) -> Features:
    """Refuses features that are not finite, or not as many as there are placeholders."""
    flat = piece.flat()
    if not bool(torch.isfinite(flat).all()):
        raise ModelError(
            f"the {name} features of {size.name} are not finite",
            why="One NaN makes every weight NaN at the next step.",
            fix="Look at the item and at the encoder's weights and precision (float16 overflows).",
        )
    if size.tokens is None or len(flat) == size.tokens:
        return piece
    raise ModelError(
        f"the encoder gave {len(flat)} features for {size.name}, which has {size.tokens} {name} placeholder tokens",
        why="Features would stand at the wrong tokens.",
        fix="The length that is declared for an item (MediaEncoder.tokens, the processor) must be its encoder's.",
    )
