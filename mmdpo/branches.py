"""One prefix, many branches: how the answers of a record share one sequence.

All candidates of a record under one media variant share their prefix (system, media, question). They are laid out as
ONE sequence ``prefix, branch 1, ..., branch K``; the attention rule keeps the branches from seeing each other, and
every token keeps the position that it has in the plain row ``prefix + branch``. So each branch gets exactly the
log-probabilities that it would get alone, while the prefix is computed once.

The plain layout is the same thing with one branch per tree: nothing below needs to know which of the two it packs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

PADDING = -1
"""Value of ``record`` on padding."""


@dataclass(frozen=True)
class Tree:
    """A prefix and its branches, not padded.

    Args:
        prefix: [P] token ids of system, media placeholders and question; P >= 1.
        branches: Token ids of each answer, each at least one token.
        positions: [R, P + L] position ids that the model itself gives to the plain row prefix + longest branch (R = 1,
            or 3 for M-RoPE). None for 0, 1, 2, ...
        fields: Further per-token inputs (token types), each [P + 1, ...]: on the prefix, and on every answer token.
        block: [P] number of the two-way attention block that a prefix token belongs to, -1 for none.
    """

    prefix: Tensor
    branches: tuple[Tensor, ...]
    positions: Tensor | None = None
    fields: Mapping[str, Tensor] = field(default_factory=dict)
    block: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prefix) + sum(len(branch) for branch in self.branches)

    def split(self, branches: int) -> tuple[Tree, ...]:
        """The same answers as trees of at most so many branches each; with one branch it is the plain layout."""
        groups = [self.branches[at : at + branches] for at in range(0, len(self.branches), branches)]
        return tuple(Tree(self.prefix, group, self.positions, self.fields, self.block) for group in groups)


@dataclass(frozen=True)
class Packed:
    """Trees laid out in a batch of rows, [B, T].

    Args:
        input_ids: [B, T] token ids.
        record: [B, T] which tree of the row a position belongs to, -1 on padding.
        segment: [B, T] 0 on a prefix, k on branch k.
        depth: [B, T] index of the token in its plain row prefix + branch.
        position_ids: [B, T], or [R, B, T] when the model's positions have several rows.
        block: [B, T] two-way block, -1 for none.
        fields: Further per-token inputs, each [B, T, ...]; 0 on padding.
        hidden_index: [N, A] index into the flattened [B * T] hidden states that predicts each answer token.
        targets: [N, A] answer token ids.
        mask: [N, A] True where an answer token is.

    The N rows of the last three are the branches in the order of the trees given.
    """

    input_ids: Tensor
    record: Tensor
    segment: Tensor
    depth: Tensor
    position_ids: Tensor
    block: Tensor
    fields: dict[str, Tensor]
    hidden_index: Tensor
    targets: Tensor
    mask: Tensor


def fill_rows(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Assigns trees to rows of at most ``capacity`` tokens, first-fit in decreasing length.

    Returns:
        Tree indices of each row. A tree longer than the capacity gets a row of its own.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for row, left in enumerate(room):
            if lengths[index] <= left:
                rows[row].append(index)
                room[row] -= lengths[index]
                break
        else:
            rows.append([index])
            room.append(capacity - lengths[index])
    return [sorted(row) for row in rows]


def pack(
    trees: Sequence[Tree],
    *,
    pad_id: int = 0,
    side: Literal["right", "left"] = "right",
    rows: Sequence[Sequence[int]] | None = None,
    multiple_of: int = 1,
) -> Packed:
    """Lays trees out in padded rows.

    Args:
        trees: The trees of the batch.
        pad_id: Token id on padding.
        side: Where the padding goes.
        rows: Tree indices of each row; default one tree a row.
        multiple_of: Row length is rounded up to a multiple of this.

    Returns:
        The batch. Trees must be assigned to rows exactly once.
    """
    rows = [[index] for index in range(len(trees))] if rows is None else rows
    used = [sum(len(trees[index]) for index in row) for row in rows]
    width = -(-max(used) // multiple_of) * multiple_of
    shape = (len(rows), width)
    stack = 1 if all(tree.positions is None for tree in trees) else max(_position_rows(tree) for tree in trees)
    names = sorted({name for tree in trees for name in tree.fields})
    ids = torch.full(shape, pad_id)
    record, block = torch.full(shape, PADDING), torch.full(shape, -1)
    segment, depth = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    fractions = any(tree.positions is not None and tree.positions.is_floating_point() for tree in trees)
    positions = torch.zeros((stack, *shape), dtype=torch.float if fractions else torch.long)
    fields = {name: _room(name, trees, shape) for name in names}
    starts: dict[tuple[int, int], int] = {}  # (tree, segment) -> flat index of the segment's first token

    for row, members in enumerate(rows):
        at = width - used[row] if side == "left" else 0
        blocks = 0
        for slot, index in enumerate(members):
            tree = trees[index]
            prefix = slice(at, at + len(tree.prefix))
            for name, values in tree.fields.items():
                _write(fields[name][row, at : at + len(tree)], values)
            if tree.block is not None:  # numbered per row, so that two trees of a row never share a block
                block[row, prefix] = torch.where(tree.block >= 0, tree.block + blocks, -1)
                blocks += int(tree.block.max()) + 1
            for number, tokens in enumerate((tree.prefix, *tree.branches)):
                here, before = slice(at, at + len(tokens)), len(tree.prefix) if number else 0
                ids[row, here], record[row, here], segment[row, here] = tokens, slot, number
                depth[row, here] = before + torch.arange(len(tokens))
                positions[:, row, here] = _positions(tree, before, len(tokens))
                starts[index, number] = row * width + at
                at += len(tokens)

    hidden_index, targets, mask = _answers(trees, starts)
    return Packed(
        input_ids=ids,
        record=record,
        segment=segment,
        depth=depth,
        position_ids=positions[0] if stack == 1 else positions,
        block=block,
        fields=fields,
        hidden_index=hidden_index,
        targets=targets,
        mask=mask,
    )


def _write(room: Tensor, values: Tensor) -> None:
    """Writes a per-token input [P + 1, ...] of a tree into its stretch [length, ...] of a row."""
    inner: Any = tuple(slice(size) for size in values.shape[1:])
    room[(slice(len(values) - 1), *inner)] = values[:-1]
    room[(slice(len(values) - 1, None), *inner)] = values[-1]


def _room(name: str, trees: Sequence[Tree], shape: tuple[int, int]) -> Tensor:
    """Zeros for a per-token input, its further dimensions as large as any tree's."""
    values = [tree.fields[name] for tree in trees if name in tree.fields]
    inner = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    return torch.zeros((*shape, *inner), dtype=values[0].dtype)


def attention_rule(
    record: Tensor, segment: Tensor, depth: Tensor, block: Tensor | None = None, window: int | None = None
) -> Tensor:
    """Which positions may attend to which.

    Position i may attend to j iff both belong to the same record, j is not after i, and j lies on the prefix or on the
    same branch as i. Positions of one two-way block see each other in both directions. A window limits how far back i
    may look, counted in the plain row. Every position may attend to itself, so that no row is fully masked (a fully
    masked row gives NaN in eager attention).

    Args:
        record: [B, T] tree of the row, -1 on padding.
        segment: [B, T] 0 on the prefix, k on branch k.
        depth: [B, T] index in the plain row.
        block: [B, T] two-way block, -1 for none.
        window: Sliding-window length in tokens.

    Returns:
        [B, T, T] True where attention is allowed.
    """
    rows, order = (torch.arange(size, device=record.device) for size in record.shape)
    places = (rows[:, None, None], order[None, :, None], order[None, None, :])
    return rule_at(record, segment, depth, block, window, *places)


def rule_at(
    record: Tensor,
    segment: Tensor,
    depth: Tensor,
    block: Tensor | None,
    window: int | None,
    row: Tensor,
    query: Tensor,
    key: Tensor,
) -> Tensor:
    """:func:`attention_rule` at single places: whether position ``query`` of a row may attend to position ``key``.

    The last three are indices that broadcast together; FlexAttention asks in this form.
    """
    same = (record[row, query] == record[row, key]) & (record[row, query] >= 0)
    allowed = same & (key <= query) & ((segment[row, key] == 0) | (segment[row, key] == segment[row, query]))
    if block is not None:
        allowed = allowed | (same & (block[row, query] == block[row, key]) & (block[row, query] >= 0))
    if window is not None:
        allowed = allowed & (depth[row, query] - depth[row, key] < window)
    return allowed | (query == key)


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, 1, T, T] additive attention mask: 0 where allowed, the lowest finite number elsewhere.

    Additive, because a boolean mask is silently misread by eager attention; finite, because minus infinity gives NaN
    there.
    """
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def _position_rows(tree: Tree) -> int:
    return 1 if tree.positions is None else tree.positions.shape[0]


def _positions(tree: Tree, start: int, length: int) -> Tensor:
    """[R, length] positions of the plain row from ``start`` on."""
    if tree.positions is None:
        return torch.arange(start, start + length)[None]
    if tree.positions.shape[1] < start + length:
        raise ValueError(f"positions cover {tree.positions.shape[1]} tokens of {start + length}")
    return tree.positions[:, start : start + length]


def _answers(trees: Sequence[Tree], starts: Mapping[tuple[int, int], int]) -> tuple[Tensor, Tensor, Tensor]:
    """[N, A] predicting hidden state, target id and mask of every answer token; 0 and False on padding."""
    branches = [(i, k, branch) for i, tree in enumerate(trees) for k, branch in enumerate(tree.branches)]
    longest = max(len(branch) for _, _, branch in branches)
    hidden_index = torch.zeros((len(branches), longest), dtype=torch.long)
    targets = torch.zeros((len(branches), longest), dtype=torch.long)
    mask = torch.zeros((len(branches), longest), dtype=torch.bool)
    for n, (i, k, branch) in enumerate(branches):
        length = len(branch)
        # the first answer token is predicted by the last prefix position, the others by the token before them
        hidden_index[n, 0] = starts[i, 0] + len(trees[i].prefix) - 1
        hidden_index[n, 1:length] = starts[i, k + 1] + torch.arange(length - 1)
        targets[n, :length] = branch
        mask[n, :length] = True
    return hidden_index, targets, mask
