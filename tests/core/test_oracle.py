"""Log-probabilities of every answer token equal `log_softmax` of the model's own logits on the plain, unpadded row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration, MistralConfig, Qwen2Config

from core.oracle import Layout, Setup, Side, oracle_logprobs, setup, varied_records
from mmdpo.branches import additive_mask
from mmdpo.collate import Batch
from mmdpo.forward import attention
from mmdpo.models.families import facts_of
from mmdpo.scoring import score
from tiny import CORE, FAMILIES, exact_float64
from tiny.base import build_model

RECORDS = varied_records()
RECURRENT = {"qwen3_5"}
BRANCHING = [name for name in CORE if name not in RECURRENT]

LAYOUTS: list[tuple[Layout, int]] = [("shared", 1), ("shared", 3), ("plain", 1)]
every_layout = pytest.mark.parametrize(("layout", "records_per_row"), LAYOUTS, ids=["shared", "three a row", "plain"])
every_side = pytest.mark.parametrize("side", ["right", "left"])
every_attention = pytest.mark.parametrize("attention", ["sdpa", "eager"])
every_branching = pytest.mark.parametrize("name", BRANCHING)


def build(name: str, dtype: torch.dtype = torch.float64, attention: str = "sdpa", **options: Any) -> Setup:
    tiny = FAMILIES[name](dtype=dtype, attn_implementation=attention)
    return setup(tiny, **options)


def both(built: Setup) -> tuple[list[Tensor], list[Tensor], Batch]:
    """Our log-probabilities and the oracle's, answer by answer."""
    batch = built.collator(list(enumerate(RECORDS)))
    with torch.no_grad():
        ours = score(built.tiny.model, batch)
    assert (ours[~batch["mask"]] == 0).all()
    rows = [row[mask] for row, mask in zip(ours, batch["mask"], strict=True)]
    return rows, expected_of(built, batch), batch


_expected: dict[Any, list[Tensor]] = {}


def expected_of(built: Setup, batch: Batch) -> list[Tensor]:
    """The oracle's side, computed once for the cases that differ in layout alone."""
    config = built.tiny.model.config
    key = (built.tiny.name, built.tiny.model.dtype, config._attn_implementation, built.collator.views)
    if key not in _expected:
        with torch.no_grad():
            _expected[key] = oracle_logprobs(built, RECORDS, batch)
    return _expected[key]


def difference(ours: list[Tensor], expected: list[Tensor]) -> float:
    assert len(ours) == len(expected)
    return max((a - b).abs().max().item() for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize(
    ("name", "layout", "records_per_row"),
    [(name, *layout) for name in CORE for layout in LAYOUTS if name in BRANCHING or layout[0] == "plain"],
)
@every_attention
@every_side
def test_float64_is_exact(name: str, attention: str, side: Side, layout: Layout, records_per_row: int) -> None:
    built = build(name, attention=attention, side=side, layout=layout, records_per_row=records_per_row)
    with exact_float64():
        ours, expected, batch = both(built)
    assert len(expected) == 10 and len({len(answer) for answer in expected}) >= 5
    assert len(batch["input_ids"]) == {("shared", 1): 4, ("shared", 3): 2, ("plain", 1): 10}[layout, records_per_row]
    assert difference(ours, expected) < 1e-9


@pytest.mark.parametrize("name", CORE)
@every_attention
@every_side
def test_float32_is_close(name: str, attention: str, side: Side) -> None:
    layout: Layout = "plain" if name in RECURRENT else "shared"
    ours, expected, _ = both(build(name, torch.float32, attention, side=side, layout=layout))
    relative = max(abs((a.sum() - b.sum()) / b.sum()).item() for a, b in zip(ours, expected, strict=True))
    assert relative < 1e-4
    assert difference(ours, expected) < 1e-3


@every_branching
@every_layout
def test_media_variants_are_scored_with_their_own_pixels(name: str, layout: Layout, records_per_row: int) -> None:
    built = build(name, layout=layout, records_per_row=records_per_row, candidates=2, variants=("clean", "blank"))
    with exact_float64():
        ours, expected, batch = both(built)
    assert difference(ours, expected) < 1e-9
    # The record without an image has no blank view; the three others have one for each of two candidates.
    assert batch["media_index"].sum() == 6
    clean, blank = (ours[n] for n in range(len(ours)) if batch["example"][n] == 0 and batch["candidate"][n] == 0)
    assert (clean - blank).abs().max() > 1e-2


def test_scores_pass_through_a_wrapper_unchanged() -> None:
    """Any module that calls the model, as DDP's and PEFT's do, gives the same."""
    built = build("llava")
    batch = built.collator(list(enumerate(RECORDS)))

    class Wrapper(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.module(*args, **kwargs)

    with torch.no_grad():
        assert torch.equal(score(Wrapper(built.tiny.model), batch), score(built.tiny.model, batch))


# --- power: every part of the rule matters on these records ---------------------------------------------------------


def causal_alone(batch: Batch, *_: Any) -> Tensor:
    """What a model makes of the shared row when nobody tells it about branches."""
    length = batch["input_ids"].shape[1]
    allowed = torch.ones(len(batch["input_ids"]), length, length, dtype=torch.bool).tril()
    return additive_mask(allowed, torch.float64)


@every_branching
def test_a_causal_mask_over_the_shared_row_is_wrong(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build(name)
    monkeypatch.setattr(attention, "row_masks", causal_alone)
    ours, expected, _ = both(built)
    assert difference(ours, expected) > 0.1


@pytest.mark.parametrize("missing", ["window", "block"])
def test_gemma_needs_window_and_blocks(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build("gemma3")
    facts = facts_of(built.tiny.model)
    assert facts.window is not None and facts.family.two_way == "runs"
    without = replace(facts, window=None) if missing == "window" else replace(facts, two_way="none")
    built.tiny.model.mmdpo_scoring.facts = without
    ours, expected, _ = both(built)
    assert difference(ours, expected) > 0.1


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_positions_of_the_row_are_wrong(name: str) -> None:
    """Branches laid side by side without restarting their positions."""
    built = build(name)
    batch = built.collator(list(enumerate(RECORDS)))
    expected = expected_of(built, batch)
    positions = batch["position_ids"]
    batch["position_ids"] = torch.arange(positions.shape[-1]).expand_as(positions)
    with torch.no_grad():
        ours = score(built.tiny.model, batch)
    rows = [row[mask] for row, mask in zip(ours, batch["mask"], strict=True)]
    assert difference(rows, expected) > 0.1


def test_qwen3_5_has_a_reason_for_plain_rows() -> None:
    built = build("qwen3_5")
    reason = facts_of(built.tiny.model).plain_reason
    assert reason is not None and "linear_attention" in reason
    ours, expected, _ = both(built)  # the shared layout, which the reason forbids
    assert difference(ours, expected) > 0.1


@every_branching
def test_no_other_family_has_a_reason_for_plain_rows(name: str) -> None:
    assert facts_of(FAMILIES[name]().model).plain_reason is None


# --- facts that no tiny family has ----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("layer_types", [None, ["sliding_attention", "full_attention", "sliding_attention"]])
def test_windows_of_other_language_models(side: Side, layer_types: list[str] | None) -> None:
    """Mistral has one window for all layers and takes one mask; Qwen2 may mix, and takes a mask by layer type."""
    tiny = FAMILIES["llava"]()
    text = tiny.model.config.text_config.to_dict()
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    fields = {name: text[name] for name in (*kept, "num_key_value_heads", "max_position_embeddings", "pad_token_id")}
    if layer_types is None:
        config: Any = MistralConfig(**fields, sliding_window=8)
    else:
        config = Qwen2Config(**fields, sliding_window=8, use_sliding_window=True, layer_types=layer_types)
    model = build_model(
        LlavaForConditionalGeneration,
        LlavaConfig(
            text_config=config,
            vision_config=tiny.model.config.vision_config,
            image_token_index=tiny.model.config.image_token_id,
            image_seq_length=tiny.model.config.image_seq_length,
        ),
        seed=0,
        dtype=torch.float64,
        attn_implementation="sdpa",
    )
    model.generation_config.eos_token_id = tiny.model.generation_config.eos_token_id
    built = setup(replace(tiny, model=model), side=side, records_per_row=2)
    facts = facts_of(model)
    assert facts.window == 8 and facts.plain_reason is None
    batch = built.collator(list(enumerate(RECORDS)))
    with exact_float64(), torch.no_grad():
        ours, expected = score(model, batch), oracle_logprobs(built, RECORDS, batch)
    rows = [row[mask] for row, mask in zip(ours, batch["mask"], strict=True)]
    assert difference(rows, expected) < 1e-9
    model.mmdpo_scoring.facts = replace(facts, window=None)  # power: the window binds on these records
    with torch.no_grad():
        wide = score(model, batch)
    assert difference([row[mask] for row, mask in zip(wide, batch["mask"], strict=True)], expected) > 0.1
