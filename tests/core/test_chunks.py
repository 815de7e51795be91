"""A batch cut into rows, and answers cut into several rows of one prefix, score as the whole batch does."""

from __future__ import annotations

import pytest
import torch

from core.oracle import varied_records
from mmdpo.collate import Collator
from mmdpo.encoding.example import Encoder
from mmdpo.forward.batch_rows import split_rows
from mmdpo.models.families import facts_of
from mmdpo.policy import encode_once
from mmdpo.scoring import score
from mmdpo.views import View
from tiny import FAMILIES

VIEWS = [View(0), View(1), View(2), View(3), View(0, "blank")]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
@pytest.mark.parametrize("per_row", [None, 1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_chunks_score_as_the_whole(family: str, per_row: int | None, size: int) -> None:
    tiny = FAMILIES[family]()
    facts = facts_of(tiny.model)
    encode_once(tiny.model, facts)
    encoder = Encoder(tiny.processor, facts, tiny.stop_ids)
    examples = list(enumerate(varied_records()))
    whole = Collator(encoder, VIEWS)(examples)
    cut = Collator(encoder, VIEWS, branches_per_row=per_row)(examples)
    assert torch.equal(whole["targets"], cut["targets"])
    assert len(cut["input_ids"]) > len(whole["input_ids"]) or per_row is None
    with torch.no_grad():
        expected = score(tiny.model, whole)
        found = torch.zeros_like(expected)
        rows = []
        for part, answers in split_rows(cut, size):
            assert len(part["input_ids"]) <= size
            tiny.model.mmdpo_scoring.features.clear()
            found[answers] = score(tiny.model, part)
            rows += answers.tolist()
    assert rows == list(range(len(expected)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
