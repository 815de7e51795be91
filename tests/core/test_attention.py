"""FlexAttention's form of the branch rule, and records that share rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers.integrations import flex_attention as integration

from core.oracle import Setup, oracle_logprobs, record, setup, varied_records
from mmdpo.branches import attention_rule
from mmdpo.errors import ConfigError, ModelError
from mmdpo.forward.attention import RowMasks, check_attention, dense_attention, row_masks
from mmdpo.models.families import facts_of
from mmdpo.models.load import load_pretrained
from mmdpo.parity import to_model
from mmdpo.scoring import score
from tiny import FAMILIES

FLEX = {"": "sdpa", "text_config": "flex_attention"}
RECORDS = varied_records()


@pytest.fixture
def not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention's own eager form: the same maths without half a minute of compiling."""
    monkeypatch.setattr(integration, "WrappedFlexAttention", lambda training: lambda: flex_attention)


def built(name: str, **options: Any) -> Setup:
    return setup(FAMILIES[name](attn_implementation=FLEX), **options)


@pytest.mark.parametrize("name", ["llava", "gemma3", "internvl"])
@pytest.mark.parametrize("records_per_row", [1, "fit"])
@torch.no_grad()
def test_block_masks_are_the_rule(name: str, records_per_row: Any) -> None:
    one = built(name, records_per_row=records_per_row)
    batch = one.collator(list(enumerate(RECORDS)))
    facts = facts_of(one.tiny.model)
    assert batch["input_ids"].shape[1] % 128 == 0
    masks = row_masks(batch, facts, torch.float32)
    place = (batch["record"], batch["segment"], batch["depth"])
    kinds: dict[str, Any] = {"full_attention": (masks, None)}
    if isinstance(masks, dict):
        kinds = {k: (mask, facts.window if k == "sliding_attention" else None) for k, mask in masks.items()}
    for mask, window in kinds.values():
        assert isinstance(mask, BlockMask)
        rows, length = place[0].shape
        index = torch.meshgrid(torch.arange(rows), torch.arange(length), torch.arange(length), indexing="ij")
        dense = mask.mask_mod(index[0], torch.zeros_like(index[0]), index[1], index[2])
        block = None if facts.two_way == "none" else batch["block"]
        assert torch.equal(dense, attention_rule(*place, block, window))
        skipped = mask.to_dense()[:, 0].repeat_interleave(128, 1).repeat_interleave(128, 2) == 0
        assert not bool((dense & skipped).any())


@pytest.mark.slow
@pytest.mark.usefixtures("not_compiled")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("name", "records_per_row"), [("llava", 1), ("llava", "fit"), ("gemma3", 1)])
@torch.no_grad()
def test_flex_gives_the_models_own_logprobs(name: str, records_per_row: Any) -> None:
    one = built(name, records_per_row=records_per_row)
    batch = one.collator(list(enumerate(RECORDS)))
    found = score(one.tiny.model, batch)
    with dense_attention(one.tiny.model):
        expected = oracle_logprobs(one, RECORDS, batch)
    for values, mask, own in zip(found, batch["mask"], expected, strict=True):
        torch.testing.assert_close(values[mask], own, atol=1e-4, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_the_compiled_kernel_gives_them_too() -> None:
    one = built("llava", records_per_row="fit")
    batch = one.collator(list(enumerate(RECORDS)))
    found = score(one.tiny.model, batch)
    with dense_attention(one.tiny.model):
        expected = oracle_logprobs(one, RECORDS, batch)
    for values, mask, own in zip(found, batch["mask"], expected, strict=True):
        torch.testing.assert_close(values[mask], own, atol=1e-4, rtol=0)


def test_masks_are_built_once_for_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    one = setup(FAMILIES["llava"]())
    made: list[Any] = []

    def counted(*given: Any) -> Any:
        made.append(given)
        return row_masks(*given)

    monkeypatch.setattr("mmdpo.forward.attention.row_masks", counted)
    first, second = (one.collator(list(enumerate(RECORDS[start:]))) for start in (0, 2))
    for batch in (first, first, second, second, first):
        score(one.tiny.model, batch)
    assert len(made) == 3
    masks = RowMasks()
    assert masks.of(first, facts_of(one.tiny.model), torch.float32).shape[0] == len(first["input_ids"])


def test_fitted_rows_hold_what_plain_rows_hold() -> None:
    """Four records of different lengths: no row is longer than the longest record, and every answer is there."""
    alone, fitted = (setup(FAMILIES["llava"](), records_per_row=n) for n in (1, "fit"))
    records = [*RECORDS, record("a", "Why?", ["No"]), record("b", "What is it?", ["Yes", "A car"])]
    one, two = (built.collator(list(enumerate(records))) for built in (alone, fitted))
    assert one["input_ids"].shape[1] == two["input_ids"].shape[1]
    assert len(two["input_ids"]) < len(one["input_ids"])
    assert int((one["record"] >= 0).sum()) == int((two["record"] >= 0).sum())
    rows = (two["hidden_index"][:, 0] // two["input_ids"].shape[1]).tolist()
    assert rows == sorted(rows)  # answers follow each other as the rows do: chunks of rows are stretches of answers
    told = [sorted(map(tuple, batch["identity"].tolist())) for batch in (one, two)]
    assert told[0] == told[1]
    with torch.no_grad():
        values = [score(built.tiny.model, batch) for built, batch in ((alone, one), (fitted, two))]
    for n, identity in enumerate(one["identity"].tolist()):
        own = [m for m, row in enumerate(two["identity"].tolist()) if row == identity]
        same = [values[1][m][two["mask"][m]] for m in own]
        assert any(torch.allclose(values[0][n][one["mask"][n]], found, atol=1e-5) for found in same)


def test_a_family_that_has_no_flex_attention_says_so(tmp_path: Path) -> None:
    tiny = FAMILIES["qwen2_5_vl"]()
    tiny.model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="Qwen2_5_VLTextModel cannot take attention: flex"):
        load_pretrained(str(tmp_path), attention="flex")


def test_flex_is_for_the_language_model_and_trains_on_no_cpu() -> None:
    model = FAMILIES["llava"](attn_implementation=FLEX).model
    assert model.config.vision_config._attn_implementation == "sdpa"
    facts = facts_of(model)
    assert facts.flex and not facts_of(FAMILIES["llava"]().model).flex
    check_attention(facts, torch.device("cpu"), trains=False)
    check_attention(facts, torch.device("cuda"), trains=True)
    with pytest.raises(ConfigError, match="on a CPU"):
        check_attention(facts, torch.device("cpu"), trains=True)
    with dense_attention(model):
        assert model.config.get_text_config()._attn_implementation == "sdpa"
    assert model.config.get_text_config()._attn_implementation == "flex_attention"


@pytest.mark.gpu
def test_flex_has_the_gradients_of_sdpa() -> None:
    """Compiled kernels on a GPU, records packed: the same gradients of the same weights."""
    found = []
    for attention in (FLEX, "sdpa"):
        one = setup(FAMILIES["llava"](attn_implementation=attention), records_per_row="fit")
        one.tiny.model.cuda()
        batch = to_model(one.collator(list(enumerate(RECORDS))), one.tiny.model)
        score(one.tiny.model, batch).sum().backward()
        found.append({name: p.grad for name, p in one.tiny.model.named_parameters() if p.grad is not None})
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[0][name], gradient, atol=1e-3, rtol=1e-3)
