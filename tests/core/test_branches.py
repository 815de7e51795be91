"""Packing and the attention rule: matrices written by hand, and properties of any trees against restatements."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmdpo.branches import PADDING, Packed, Tree, additive_mask, attention_rule, fill_rows, pack

Side = Literal["right", "left"]

# --- by hand --------------------------------------------------------------------------------------------------------


def ids(*values: int) -> Tensor:
    return torch.tensor(values)


def matrix(rows: str) -> list[list[bool]]:
    """`x` where attention is allowed, one line a position; blanks are for the eye."""
    return [[mark == "x" for mark in row.replace(" ", "")] for row in rows.split("\n") if row.strip()]


def rule_of(packed: Packed, window: int | None = None) -> list[list[list[bool]]]:
    return attention_rule(packed.record, packed.segment, packed.depth, packed.block, window).tolist()


TREE = Tree(prefix=ids(10, 11, 12), branches=(ids(20, 21), ids(30)))
SINGLE = Tree(prefix=ids(40), branches=(ids(50, 51),))


def test_one_prefix_and_two_branches_padded_right() -> None:
    packed = pack([TREE], pad_id=99, multiple_of=4)
    assert packed.input_ids.tolist() == [[10, 11, 12, 20, 21, 30, 99, 99]]
    assert packed.record.tolist() == [[0, 0, 0, 0, 0, 0, -1, -1]]
    assert packed.segment.tolist() == [[0, 0, 0, 1, 1, 2, 0, 0]]
    assert packed.depth[0, :6].tolist() == [0, 1, 2, 3, 4, 3]
    assert packed.position_ids[0, :6].tolist() == [0, 1, 2, 3, 4, 3]
    assert packed.hidden_index.tolist() == [[2, 3], [2, 0]]
    assert packed.targets.tolist() == [[20, 21], [30, 0]]
    assert packed.mask.tolist() == [[True, True], [True, False]]
    expected = """
        x.. .. . ..
        xx. .. . ..
        xxx .. . ..
        xxx x. . ..
        xxx xx . ..
        xxx .. x ..
        ... .. . x.
        ... .. . .x
    """
    assert rule_of(packed) == [matrix(expected)]


def test_one_prefix_and_two_branches_padded_left() -> None:
    packed = pack([TREE], pad_id=99, side="left", multiple_of=4)
    assert packed.input_ids.tolist() == [[99, 99, 10, 11, 12, 20, 21, 30]]
    assert packed.record.tolist() == [[-1, -1, 0, 0, 0, 0, 0, 0]]
    assert packed.depth[0, 2:].tolist() == [0, 1, 2, 3, 4, 3]
    assert packed.hidden_index.tolist() == [[4, 5], [4, 0]]
    expected = """
        x. ... .. .
        .x ... .. .
        .. x.. .. .
        .. xx. .. .
        .. xxx .. .
        .. xxx x. .
        .. xxx xx .
        .. xxx .. x
    """
    assert rule_of(packed) == [matrix(expected)]


def test_two_records_in_one_row_and_one_in_the_next() -> None:
    packed = pack([TREE, SINGLE, SINGLE], rows=[[0, 1], [2]])
    assert packed.input_ids.tolist() == [[10, 11, 12, 20, 21, 30, 40, 50, 51], [40, 50, 51, 0, 0, 0, 0, 0, 0]]
    assert packed.record.tolist() == [[0, 0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0] + [PADDING] * 6]
    assert packed.position_ids[0].tolist() == [0, 1, 2, 3, 4, 3, 0, 1, 2]
    # One entry a branch, in the order of the trees; the second row begins at 9 of the flattened hidden states.
    assert packed.hidden_index.tolist() == [[2, 3], [2, 0], [6, 7], [9, 10]]
    assert packed.targets.tolist() == [[20, 21], [30, 0], [50, 51], [50, 51]]
    expected = """
        x.. .. . . ..
        xx. .. . . ..
        xxx .. . . ..
        xxx x. . . ..
        xxx xx . . ..
        xxx .. x . ..
        ... .. . x ..
        ... .. . x x.
        ... .. . x xx
    """
    assert rule_of(packed)[0] == matrix(expected)


def test_a_window_is_counted_in_the_plain_row() -> None:
    """The second branch lies far from the prefix in the shared row and next to it in its own."""
    packed = pack([TREE])
    expected = """
        x.. .. .
        xx. .. .
        .xx .. .
        ..x x. .
        ... xx .
        ..x .. x
    """
    assert rule_of(packed, window=2) == [matrix(expected)]


def test_a_block_sees_both_ways_within_its_record() -> None:
    tree = Tree(ids(1, 2, 2, 3), (ids(4), ids(5)), block=ids(-1, 0, 0, -1))
    packed = pack([tree, tree], rows=[[0, 1]])
    assert packed.block.tolist() == [[-1, 0, 0, -1, -1, -1, -1, 1, 1, -1, -1, -1]]
    expected = """
        x... . . .... . .
        xxx. . . .... . .
        xxx. . . .... . .
        xxxx . . .... . .
        xxxx x . .... . .
        xxxx . x .... . .
        .... . . x... . .
        .... . . xxx. . .
        .... . . xxx. . .
        .... . . xxxx . .
        .... . . xxxx x .
        .... . . xxxx . x
    """
    assert rule_of(packed) == [matrix(expected)]


def test_a_window_cuts_a_block_backwards_alone() -> None:
    """As Gemma 3 has it: (block or causal) and window, where the window looks back only."""
    tree = Tree(ids(2, 2, 2), (ids(4),), block=ids(0, 0, 0))
    expected = """
        xxx .
        xxx .
        .xx .
        ..x x
    """
    assert rule_of(pack([tree]), window=2) == [matrix(expected)]


def test_an_additive_mask_is_zero_or_the_lowest_finite_number() -> None:
    mask = additive_mask(torch.tensor([[[True, False], [True, True]]]), torch.bfloat16)
    lowest = torch.finfo(torch.bfloat16).min
    assert mask.dtype == torch.bfloat16 and mask.tolist() == [[[[0.0, lowest], [0.0, 0.0]]]]


def test_positions_of_the_model_are_cut_and_laid_side_by_side() -> None:
    """Three rows, of which an image takes less than its tokens; the second tree counts 0, 1, 2."""
    rope = torch.tensor([[0, 1, 1, 1, 3, 4], [0, 1, 1, 2, 3, 4], [0, 1, 2, 1, 3, 4]])
    packed = pack([Tree(ids(1, 2, 2, 2), (ids(8, 9), ids(7)), positions=rope), SINGLE], rows=[[0, 1]])
    assert packed.position_ids.shape == (3, 1, 10)
    assert packed.position_ids[:, 0].tolist() == [
        [0, 1, 1, 1, 3, 4, 3, 0, 1, 2],
        [0, 1, 1, 2, 3, 4, 3, 0, 1, 2],
        [0, 1, 2, 1, 3, 4, 3, 0, 1, 2],
    ]


def test_positions_must_cover_the_longest_branch() -> None:
    with pytest.raises(ValueError, match="cover 4 tokens of 5"):
        pack([Tree(ids(1, 2), (ids(3, 4, 5),), positions=torch.arange(4)[None])])


def test_fields_are_kept_on_prefixes_and_zero_elsewhere() -> None:
    typed = Tree(ids(1, 2), (ids(3),), fields={"token_type_ids": ids(0, 1)})
    packed = pack([typed, SINGLE], side="left")
    assert packed.fields["token_type_ids"].tolist() == [[0, 1, 0], [0, 0, 0]]


def test_the_plain_layout_has_one_branch_a_tree() -> None:
    rope = torch.arange(5)[None]
    plain = Tree(TREE.prefix, TREE.branches, positions=rope, fields={"kind": ids(1, 0, 0)}, block=ids(0, 0, -1)).plain()
    assert [len(tree) for tree in plain] == [5, 4]
    assert [[branch.tolist() for branch in tree.branches] for tree in plain] == [[[20, 21]], [[30]]]
    packed = pack(plain)
    assert packed.record.tolist() == [[0] * 5, [0] * 4 + [PADDING]]
    assert packed.segment[0].tolist() == [0, 0, 0, 1, 1] and packed.block[1].tolist() == [0, 0, -1, -1, -1]


def test_rows_are_filled_first_fit_in_decreasing_length() -> None:
    assert fill_rows([2, 9, 4, 3, 7], capacity=10) == [[1], [3, 4], [0, 2]]
    assert fill_rows([12, 3], capacity=10) == [[0], [1]]  # longer than a row: a row of its own


# --- any trees ------------------------------------------------------------------------------------------------------


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
        fields={"kind": torch.from_numpy(values.integers(0, 3, prefix))},
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
                packed.fields["kind"][row, at], torch.cat([tree.fields["kind"], torch.zeros_like(answer)])
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
