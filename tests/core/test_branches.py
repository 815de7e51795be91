"""Packing and the attention rule: rows and matrices written by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmdpo.branches import PADDING, Packed, Tree, additive_mask, attention_rule, fill_rows, pack


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


def test_fields_are_kept_on_prefixes_their_last_value_is_on_answers_and_zero_on_padding() -> None:
    typed = Tree(ids(1, 2), (ids(3), ids(4)), fields={"token_type_ids": ids(0, 1, 5)})
    packed = pack([typed, SINGLE], side="left")
    assert packed.fields["token_type_ids"].tolist() == [[0, 1, 5, 5], [0, 0, 0, 0]]


def test_fields_of_further_dimensions_are_padded_to_the_largest() -> None:
    one = Tree(ids(1), (ids(2),), fields={"seen": torch.tensor([[1], [2]])})
    two = Tree(ids(1), (ids(2), ids(3)), fields={"seen": torch.tensor([[3, 4], [5, 6]])})
    packed = pack([one, two])
    assert packed.fields["seen"].tolist() == [[[1, 0], [2, 0], [0, 0]], [[3, 4], [5, 6], [5, 6]]]


def test_the_plain_layout_has_one_branch_a_tree() -> None:
    rope = torch.arange(5)[None]
    plain = Tree(
        TREE.prefix, TREE.branches, positions=rope, fields={"kind": ids(1, 0, 0, 0)}, block=ids(0, 0, -1)
    ).split(1)
    assert [len(tree) for tree in plain] == [5, 4]
    assert [[branch.tolist() for branch in tree.branches] for tree in plain] == [[[20, 21]], [[30]]]
    packed = pack(plain)
    assert packed.record.tolist() == [[0] * 5, [0] * 4 + [PADDING]]
    assert packed.segment[0].tolist() == [0, 0, 0, 1, 1] and packed.block[1].tolist() == [0, 0, -1, -1, -1]


def test_rows_are_filled_first_fit_in_decreasing_length() -> None:
    assert fill_rows([2, 9, 4, 3, 7], capacity=10) == [[1], [3, 4], [0, 2]]
    assert fill_rows([12, 3], capacity=10) == [[0], [1]]  # longer than a row: a row of its own
