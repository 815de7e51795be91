"""Properties of packing and of the attention rule, for any trees, against restatements."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdpo.branches import PADDING, Packed, Tree, attention_rule, fill_rows, pack

Side = Literal["right", "left"]


@dataclass(frozen=True)
class Case:
    """Trees with everything that a family may ask for, and how to lay them out."""

    trees: list[Tree]
    rows: list[list[int]]
    side: Side
    window: int | None
    multiple_of: int


@st.composite
def trees(draw: st.DrawFn, longest: int, branches: int) -> Tree:
    """K 1 to `branches`, 0 to 4 two-way blocks in the prefix, positions of 1 or 3 rows or none."""
    text = draw(st.lists(st.integers(1, max(1, longest // 8)), min_size=1, max_size=5))  # text before each block
    block: list[int] = []
    for number, length in enumerate(text):
        block += [-1] * length
        if number < len(text) - 1:
            block += [number] * draw(st.integers(1, max(1, longest // 8)))
    prefix = len(block)
    lengths = draw(st.lists(st.integers(1, longest), min_size=1, max_size=branches))
    rows = draw(st.sampled_from([None, 1, 3]))
    values = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    total = prefix + max(lengths)
    return Tree(
        prefix=torch.from_numpy(values.integers(1, 1000, prefix)),
        branches=tuple(torch.from_numpy(values.integers(1, 1000, length)) for length in lengths),
        positions=None if rows is None else torch.from_numpy(values.integers(0, 1000, (rows, total))),
        fields={"kind": torch.from_numpy(values.integers(0, 3, prefix + 1))},
        block=torch.tensor(block) if draw(st.booleans()) else None,
    )


@st.composite
def cases(draw: st.DrawFn, longest: int, branches: int = 8) -> Case:
    items = draw(st.lists(trees(longest, branches), min_size=1, max_size=4))
    order = draw(st.permutations(range(len(items))))
    cuts = sorted({0, len(items), *draw(st.lists(st.integers(0, len(items)), max_size=2))})
    return Case(
        trees=items,
        rows=[list(order[start:end]) for start, end in itertools.pairwise(cuts)],
        side=draw(st.sampled_from(["right", "left"])),
        window=draw(st.none() | st.integers(1, longest)),
        multiple_of=draw(st.sampled_from([1, 8])),
    )


def packed_of(case: Case) -> Packed:
    return pack(case.trees, pad_id=0, side=case.side, rows=case.rows, multiple_of=case.multiple_of)


def literal_rule(packed: Packed, window: int | None, i: int, j: int) -> bool:
    """The rule of one pair of positions of the first row, as a sentence."""
    record, segment = packed.record[0].tolist(), packed.segment[0].tolist()
    depth, block = packed.depth[0].tolist(), packed.block[0].tolist()
    if i == j:
        return True
    if record[i] < 0 or record[i] != record[j]:
        return False
    if window is not None and depth[i] - depth[j] >= window:
        return False
    if block[i] >= 0 and block[i] == block[j]:
        return True
    return j < i and segment[j] in (0, segment[i])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cases(longest=6, branches=3))
def test_the_rule_equals_its_literal_restatement(case: Case) -> None:
    packed = packed_of(case)
    rule = attention_rule(packed.record, packed.segment, packed.depth, packed.block, case.window)[0]
    length = rule.shape[0]
    assert rule.tolist() == [[literal_rule(packed, case.window, i, j) for j in range(length)] for i in range(length)]


def plain_rule(tree: Tree, length: int, window: int | None) -> np.ndarray:
    """[P + L, P + L] what one branch's plain row may attend to."""
    total = len(tree.prefix) + length
    back = np.arange(total)[:, None] - np.arange(total)[None, :]
    allowed = back >= 0
    if tree.block is not None:
        block = np.concatenate([tree.block.numpy(), np.full(length, -1)])
        allowed |= (block[:, None] == block[None, :]) & (block[:, None] >= 0)
    if window is not None:
        allowed &= back < window
    return allowed | np.eye(total, dtype=bool)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(cases(longest=300))
def test_every_branch_has_what_its_plain_row_has(case: Case) -> None:
    """Ids, positions, depth and fields of prefix + branch; it attends to exactly that, in its order."""
    packed = packed_of(case)
    stack = packed.position_ids if packed.position_ids.ndim == 3 else packed.position_ids[None]
    rule = attention_rule(packed.record, packed.segment, packed.depth, packed.block, case.window).numpy()
    width = packed.input_ids.shape[1]
    branch = 0
    places = {index: (row, slot) for row, members in enumerate(case.rows) for slot, index in enumerate(members)}
    used = np.zeros(packed.input_ids.shape, dtype=int)
    for index, tree in enumerate(case.trees):
        row, slot = places[index]
        own = packed.record[row] == slot
        prefix_at = (own & (packed.segment[row] == 0)).nonzero()[:, 0]
        used[row, prefix_at] += 1
        for number, answer in enumerate(tree.branches, start=1):
            answer_at = (own & (packed.segment[row] == number)).nonzero()[:, 0]
            used[row, answer_at] += 1
            at = torch.cat([prefix_at, answer_at])
            total = len(tree.prefix) + len(answer)
            assert torch.equal(packed.input_ids[row, at], torch.cat([tree.prefix, answer]))
            assert torch.equal(packed.depth[row, at], torch.arange(total))
            positions = torch.arange(total)[None] if tree.positions is None else tree.positions[:, :total]
            assert torch.equal(stack[:, row, at], positions.expand(len(stack), -1))
            assert torch.equal(
                packed.fields["kind"][row, at],
                torch.cat([tree.fields["kind"][:-1], tree.fields["kind"][-1:].expand(len(answer))]),
            )
            seen = rule[row, at.numpy()]
            assert np.array_equal(seen[:, at.numpy()], plain_rule(tree, len(answer), case.window))
            assert seen[len(tree.prefix) :].sum() == seen[len(tree.prefix) :, at.numpy()].sum()  # and nothing else
            # predicted by the position before: the prefix's last for the first answer token
            mask = packed.mask[branch]
            assert int(mask.sum()) == len(answer) and bool(mask[: len(answer)].all())
            assert torch.equal(packed.targets[branch][mask], answer)
            assert torch.equal(packed.hidden_index[branch][mask] - row * width, at[len(tree.prefix) - 1 : -1])
            branch += 1
        assert rule[row, prefix_at.numpy()].sum() == rule[row][np.ix_(prefix_at, prefix_at)].sum()
    assert branch == len(packed.targets)
    assert np.array_equal(used == 0, (packed.record == PADDING).numpy()) and used.max() == 1
    assert width % case.multiple_of == 0
    assert bool(np.diagonal(rule, axis1=1, axis2=2).all())
    padding = (packed.record == PADDING).numpy()
    filled = padding if case.side == "right" else padding[:, ::-1]
    assert (np.diff(filled.astype(int), axis=1) >= 0).all()  # padding is on one side alone


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 60))
def test_rows_are_within_their_capacity_and_hold_every_tree_once(lengths: list[int], capacity: int) -> None:
    rows = fill_rows(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(len(row) == 1 or sum(lengths[index] for index in row) <= capacity for row in rows)
