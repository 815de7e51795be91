"""The start-up check: a layout is used only where it gives the model's own log-probabilities."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.oracle import picture, record
from mmdpo.config import parse_config
from mmdpo.encoding.example import Encoder
from mmdpo.errors import ModelError, ParityError
from mmdpo.models import families
from mmdpo.models.families import Family
from mmdpo.objectives import make_objective
from mmdpo.parity import choose_layout
from mmdpo.policy import LoadedModel
from mmdpo.runs.training import train
from tiny import CORE, FAMILIES
from training.common import encoder_of, loaded_model, run_settings, saved_inputs

VIEWS = make_objective({"dpo": {}, "blind": {"term": "dpo", "media": "blank"}}).views
RECORDS = [
    record("long", "Is there a cat? " * 4, ["A cat on a mat.", "No, two dogs."], picture(1)),
    record("two", "Compare.", ["Yes.", "Not the same images."], picture(2, 40, 20), picture(3)),
    record("text", "Say something.", ["There is a red bird.", "No"]),
]


def prepared(family: str) -> tuple[LoadedModel, Encoder]:
    loaded = loaded_model(family)
    return loaded, encoder_of(loaded)


def test_a_model_whose_numbers_are_not_numbers_is_refused() -> None:
    loaded, encoder = prepared("llava")
    with torch.no_grad():
        loaded.inner.model.language_model.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        choose_layout(loaded.inner, encoder, RECORDS, VIEWS)


@pytest.mark.parametrize("family", [name for name in CORE if name != "qwen3_5"])
def test_the_shared_layout_agrees_and_is_taken(family: str) -> None:
    loaded, encoder = prepared(family)
    decision = choose_layout(loaded.inner, encoder, RECORDS, VIEWS)
    assert decision.layout == "shared"
    assert decision.difference < 1e-4
    assert "equal to the model's own logits" in decision.reason


def test_recurrent_layers_get_plain_rows_with_the_reason() -> None:
    loaded, encoder = prepared("qwen3_5")
    decision = choose_layout(loaded.inner, encoder, RECORDS, VIEWS)
    assert decision.layout == "plain"
    assert "linear_attention" in decision.reason
    assert decision.difference < 1e-4


@pytest.fixture
def gemma_without_its_two_way_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nobody had known that Gemma 3's image tokens see each other in both directions."""
    monkeypatch.setitem(families.FAMILIES, "gemma3", Family())


@pytest.mark.usefixtures("gemma_without_its_two_way_blocks")
def test_a_missing_fact_falls_back_to_plain_rows_and_says_so() -> None:
    loaded, encoder = prepared("gemma3")
    decision = choose_layout(loaded.inner, encoder, RECORDS, VIEWS)
    assert decision.layout == "plain"
    assert "the shared layout differs by" in decision.reason
    assert decision.difference <= decision.tolerance


@pytest.mark.usefixtures("gemma_without_its_two_way_blocks")
def test_a_layout_that_is_forced_and_wrong_stops_the_run() -> None:
    loaded, encoder = prepared("gemma3")
    with pytest.raises(ParityError, match="the shared layout differs by") as caught:
        choose_layout(loaded.inner, encoder, RECORDS, VIEWS, wanted="shared")
    assert "layout: plain" in caught.value.fix


@pytest.mark.usefixtures("gemma_without_its_two_way_blocks")
def test_the_fallback_is_kept_in_the_manifest(tmp_path: Path) -> None:
    inputs = saved_inputs(tmp_path, RECORDS, build=FAMILIES["gemma3"])
    run = train(parse_config(run_settings(inputs, train={"max_steps": 1})), tmp_path / "run")
    decision = json.loads((run / "manifest.json").read_text())["decisions"]["layout"]
    assert decision["value"] == "plain"
    assert "the shared layout differs by" in decision["reason"]


def test_a_window_that_the_model_does_not_have_is_found() -> None:
    loaded, encoder = prepared("llava")
    state = loaded.inner.mmdpo_scoring
    state.facts = replace(state.facts, window=3, layer_types=frozenset({"sliding_attention"}))
    with pytest.raises(ParityError):
        choose_layout(loaded.inner, encoder, RECORDS, VIEWS, wanted="shared")


def test_half_precision_is_judged_by_its_own_noise() -> None:
    loaded = loaded_model("llava", dtype=torch.bfloat16)
    decision = choose_layout(loaded.inner, encoder_of(loaded), RECORDS, VIEWS)
    assert decision.layout == "shared"
    assert 0 < decision.difference <= decision.tolerance


def test_the_check_leaves_the_model_as_it_was() -> None:
    loaded, encoder = prepared("llava")
    loaded.model.train()
    loaded.inner.mmdpo_scoring.layout = "plain"
    weights = {name: p.detach().clone() for name, p in loaded.model.named_parameters()}
    state = torch.get_rng_state()
    choose_layout(loaded.inner, encoder, RECORDS, VIEWS)
    assert loaded.inner.training
    assert loaded.inner.mmdpo_scoring.layout == "plain"
    assert torch.get_rng_state().equal(state)
    assert all(p.equal(weights[name]) for name, p in loaded.model.named_parameters())
