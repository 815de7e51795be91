"""Property: whatever the lengths, images, answers and padding, branches equal plain rows in log-probs and gradients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmdpo.branches import Tree, pack
from mmdpo.collate import two_way_blocks
from mmdpo.encoding.example import Encoder
from mmdpo.models.families import facts_of
from mmdpo.policy import encode_once
from mmdpo.scoring import score
from tiny import FAMILIES, Tiny, exact_float64

Side = Literal["right", "left"]
IMAGE_TOKENS, IMAGE_SIZE, POOL = 9, 24, 5
"""Tokens and pixels of an image of LLaVA and Gemma 3, and how many images there are (so that some are drawn twice)."""


@dataclass(frozen=True)
class Shape:
    """One record: length of the text before each image and after the last, the images, the answers' lengths."""

    texts: tuple[int, ...]
    images: tuple[int, ...]
    answers: tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A batch of records."""

    shapes: tuple[Shape, ...]
    rows: list[list[int]]
    side: Side
    seed: int


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    length = st.integers(1, draw(st.sampled_from([5, 30, 300])))
    images = draw(st.lists(st.integers(0, POOL - 1), max_size=4))
    texts = draw(st.lists(st.integers(1, 20), min_size=len(images), max_size=len(images)))
    return Shape((*texts, draw(length)), tuple(images), tuple(draw(st.lists(length, min_size=1, max_size=8))))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    records = tuple(draw(st.lists(shapes(), min_size=1, max_size=3)))
    per_row = draw(st.integers(1, len(records)))
    rows = [list(range(at, min(at + per_row, len(records)))) for at in range(0, len(records), per_row)]
    return Case(records, rows, draw(st.sampled_from(["right", "left"])), draw(st.integers(0, 2**32 - 1)))


@lru_cache
def built(name: str) -> tuple[Tiny, Encoder]:
    tiny = FAMILIES[name](dtype=torch.float64)
    facts = facts_of(tiny.model)
    encode_once(tiny.model, facts)
    return tiny, Encoder(tiny.processor, facts, tiny.stop_ids)


@lru_cache
def pixels(index: int) -> Tensor:
    return torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(index)).double()


def trees_of(case: Case, tiny: Tiny, encoder: Encoder) -> list[Tree]:
    """Random ordinary ids, placeholders where the images are."""
    generator = np.random.default_rng(case.seed)
    ordinary = np.setdiff1d(np.arange(len(tiny.tokenizer)), tiny.tokenizer.all_special_ids)
    placeholder = np.full(IMAGE_TOKENS, tiny.model.config.image_token_id)

    def text(length: int) -> Any:
        return generator.choice(ordinary, length)

    trees = []
    for shape in case.shapes:
        parts = [text(shape.texts[0])]
        for length in shape.texts[1:]:
            parts += [placeholder, text(length)]
        prefix = torch.from_numpy(np.concatenate(parts))
        answers = tuple(torch.from_numpy(text(length)) for length in shape.answers)
        trees.append(Tree(prefix, answers, block=two_way_blocks(prefix, encoder)))
    return trees


def batch_of(case: Case, trees: list[Tree]) -> dict[str, Any]:
    packed = pack(trees, side=case.side, rows=case.rows)
    used = [image for shape in case.shapes for image in shape.images]
    distinct = sorted(set(used))
    entry = {
        "units": [{"pixel_values": pixels(image)} for image in distinct],
        "keys": [str(image) for image in distinct],
        "items": [1] * len(distinct),
        "lengths": [1] * len(distinct),
        "tokens": [None] * len(distinct),
        "names": [f"image {image}" for image in distinct],
        "order": [distinct.index(image) for image in used],
        "rows": [0] * len(used),
    }
    return vars(packed) | {"layout": "shared", "media": {"image": entry} if used else {}}


def oracle(tiny: Tiny, case: Case, trees: list[Tree]) -> list[Tensor]:
    found = []
    for shape, tree in zip(case.shapes, trees, strict=True):
        for answer in tree.branches:
            ids = torch.cat([tree.prefix, answer])[None]
            row: dict[str, Tensor] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if shape.images:
                row["pixel_values"] = torch.cat([pixels(image) for image in shape.images])
            if tiny.name == "gemma3":
                row["token_type_ids"] = (ids == tiny.model.config.image_token_id).long()
            predicting = tiny.model(**row).logits[0, -len(answer) - 1 : -1]
            found.append(predicting.log_softmax(-1).gather(1, answer[:, None])[:, 0])
    return found


def gradient_of(tiny: Tiny, value: Tensor) -> Tensor:
    value.backward()
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in tiny.model.parameters()])
    tiny.model.zero_grad(set_to_none=True)
    return flat


def check(name: str, case: Case) -> None:
    tiny, encoder = built(name)
    trees = trees_of(case, tiny, encoder)
    batch = batch_of(case, trees)
    with exact_float64():
        ours = score(tiny.model, batch)
        expected = oracle(tiny, case, trees)
        for row, mask, answer in zip(ours, batch["mask"], expected, strict=True):
            assert (row[mask] - answer).abs().max() < 1e-9
        weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(case.seed)).double()
        theirs = torch.stack([(row[: len(a)] * a).sum() for row, a in zip(weights, expected, strict=True)]).sum()
        gradients = gradient_of(tiny, (ours * weights).sum()), gradient_of(tiny, theirs)
    assert (gradients[0] - gradients[1]).norm() <= 1e-9 * gradients[1].norm()


options = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.too_slow]}
both_rules = pytest.mark.parametrize("name", ["llava", "gemma3"])


@both_rules
@settings(max_examples=6, **options)
@given(case=cases())
def test_branches_equal_plain_rows(name: str, case: Case) -> None:
    check(name, case)


@pytest.mark.slow
@both_rules
@settings(max_examples=50, **options)
@given(case=cases())
def test_branches_equal_plain_rows_many_times(name: str, case: Case) -> None:
    check(name, case)
