"""SDPA in pieces gives what SDPA with the whole mask gives, in values and gradients, and multiplies fewer pairs."""

import random
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from mmdpo.branches import additive_mask, attention_rule
from mmdpo.forward.split_attention import SHORTEST, split_sdpa, with_pieces

MODULE = SimpleNamespace(num_key_value_groups=2, is_causal=True)


def rows(layouts: list[list[tuple[int, list[int]]]], *, left: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """`record`, `segment` and `depth` of rows; a layout lists trees as (prefix, lengths of branches)."""
    made = []
    for trees in layouts:
        record, segment, depth = [-1] * left, [0] * left, [0] * left
        for number, (prefix, branches) in enumerate(trees):
            spans = [(0, 0, prefix), *((k + 1, prefix, length) for k, length in enumerate(branches))]
            for branch, start, length in spans:
                record += [number] * length
                segment += [branch] * length
                depth += range(start, start + length)
        made.append((record, segment, depth))
    longest = max(len(record) for record, _, _ in made)
    fills = (-1, 0, 0)
    return tuple(
        torch.tensor([row[n] + [fill] * (longest - len(row[n])) for row in made]) for n, fill in enumerate(fills)
    )


def masked(record: Tensor, segment: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """The additive mask in float64, with its pieces where it has some, and the rule."""
    allowed = attention_rule(record, segment, depth)
    return with_pieces(additive_mask(allowed, torch.float64), allowed, record, segment), allowed


def outputs(function, mask: Tensor, seed: int = 0) -> list[Tensor]:
    """The function's output and the gradients of its queries, keys and values."""
    generator = torch.Generator().manual_seed(seed)
    batch, length = mask.shape[0], mask.shape[-1]
    shapes = [(batch, heads, length, 8) for heads in (4, 2, 2)]
    given = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    found, _ = function(MODULE, *given, mask, dropout=0.0, scaling=0.3)
    weights = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    return [found, *torch.autograd.grad((found * weights).sum(), given)]


LAYOUTS = {
    "one pair": [[(60, [40, 50])]],
    "short branches are one piece": [[(60, [3, 5, 7, 2])]],
    "eight answers": [[(40, [33 + 3 * k for k in range(8)])]],
    "prefixes of other lengths": [[(30, [50, 60])], [(90, [40, 35])], [(64, [33])]],
    "several records a row": [[(30, [40, 40]), (20, [35, 50])], [(50, [60])]],
    "prefix alone in one row": [[(100, [])], [(20, [40])]],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_pieces_are_the_whole(layout: list[list[tuple[int, list[int]]]]) -> None:
    mask, _ = masked(*rows(layout))
    assert mask.mmdpo_pieces.after
    for split, dense in zip(outputs(split_sdpa, mask), outputs(sdpa_attention_forward, mask), strict=True):
        torch.testing.assert_close(split, dense, rtol=0, atol=1e-12)


def test_pieces_of_drawn_rows_are_the_whole() -> None:
    draws = random.Random(0)
    for seed in range(25):
        layout = [
            [(draws.randint(1, 90), [draws.randint(1, 80) for _ in range(draws.randint(1, 5))]) for _ in range(trees)]
            for trees in draws.choices((1, 1, 2), k=draws.randint(1, 4))
        ]
        mask, _ = masked(*rows(layout))
        assert hasattr(mask, "mmdpo_pieces")
        for split, dense in zip(
            outputs(split_sdpa, mask, seed), outputs(sdpa_attention_forward, mask, seed), strict=True
        ):
            torch.testing.assert_close(split, dense, rtol=0, atol=1e-12)


def test_answers_are_not_multiplied_with_each_other() -> None:
    """Two answers of 40 after 60: 40 x 100 pairs each, where the whole mask has 140 x 140."""
    mask, allowed = masked(*rows([[(60, [40, 40])]]))
    assert [tuple(piece.mask.shape) for piece in mask.mmdpo_pieces.after] == [(1, 1, 40, 100)] * 2
    computed = 60 * 61 // 2 + sum(piece.mask.numel() for piece in mask.mmdpo_pieces.after)
    assert int(allowed.sum()) <= computed == 9830  # of 19600


def test_a_record_that_does_not_see_the_prefix_is_not_multiplied_with_it() -> None:
    mask, _ = masked(*rows([[(40, [40]), (40, [40])]]))
    assert [piece.prefix for piece in mask.mmdpo_pieces.after] == [True, False, False]
    assert [piece.first for piece in mask.mmdpo_pieces.after] == [0, 1, 1]


@pytest.mark.parametrize(
    ("layout", "left"),
    [([[(80, [])]], 0), ([[(40, [40])]], 1)],
    ids=["no branch", "padding on the left"],
)
def test_what_does_not_begin_with_a_prefix_stays_whole(layout: list[list[tuple[int, list[int]]]], left: int) -> None:
    mask, _ = masked(*rows(layout, left=left))
    assert not hasattr(mask, "mmdpo_pieces")
    for split, dense in zip(outputs(split_sdpa, mask), outputs(sdpa_attention_forward, mask), strict=True):
        assert torch.equal(split, dense)


def test_pieces_are_not_shorter_than_they_may_be() -> None:
    mask, _ = masked(*rows([[(50, [5, 40, 3, 60, 2])]]))
    assert min(mask.mmdpo_pieces.lengths[1:]) >= SHORTEST
    assert sum(mask.mmdpo_pieces.lengths) == mask.shape[-1]
