"""What is printed of a loss is what is trained: its formula, its settings, its paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmdpo.objectives import make_objective
from mmdpo.objectives.objective import Objective
from mmdpo.objectives.presets import PRESETS
from mmdpo.objectives.terms import Pair
from mmdpo.report.card import write_card
from mmdpo.report.provenance import symbols
from mmdpo.run import RunFolder

ALONE = [name for name, preset in PRESETS.items() if len(preset.terms) == 1]


@pytest.mark.parametrize("name", ALONE)
def test_a_published_loss_of_one_term_has_its_formula(name: str) -> None:
    (entry,) = make_objective({name: {"weight": 2.0}}).describe().values()
    assert (entry["formula"], entry["source"]) == (PRESETS[name].formula, PRESETS[name].source)
    assert entry["preset"] == name and "weight=2.0" in entry["settings"]


def test_parts_have_their_own_formula_and_the_paper_of_the_whole() -> None:
    described = make_objective("mdpo").describe()
    assert {name: entry["formula"] for name, entry in described.items()} == {
        "mdpo.dpo": "sigmoid_loss(beta (R(chosen) - R(rejected)))",
        "mdpo.visual": "sigmoid_loss(beta (R(chosen) - R(chosen/crop)))",
        "mdpo.anchor": "sigmoid_loss(sign (beta R(chosen) - shift))",
    }
    assert {entry["source"] for entry in described.values()} == {PRESETS["mdpo"].source}
    assert {entry["preset_formula"] for entry in described.values()} == {"dpo + cond_pref + anchor_chosen"}


FORMULAS: list[tuple[dict[str, Any], str]] = [
    ({"simpo": {"link": "hinge"}}, "hinge_loss(beta (p(chosen)/|chosen| - p(rejected)/|rejected|) - 1)"),
    ({"pair": {"margin": -0.5, "media": "crop"}}, "sigmoid_loss(beta (R(chosen/crop) - R(rejected/crop)) + 0.5)"),
    ({"pair": {"marked": 2, "length_margin": 0.1}}, "(beta (R'(chosen) - R'(rejected)) + 0.1 (|chosen| - |rejected|))"),
    ({"pair": {"tail": 0.5}}, "beta (R'(chosen) - R'(rejected))"),
    ({"pair": {"transform": "jensen_shannon"}}, "beta (jensen_shannon(R(chosen)) - jensen_shannon(R(rejected)))"),
    ({"pair": {"penalty": 3}}, "beta (R(chosen) - R(rejected) - 3 max(0, -R(chosen)))"),
    ({"pair": {"better_scale": 2, "worse_scale": 0, "plus": {"2": -0.5}}}, "beta (2 R(chosen) - 0.5 R(2))"),
    ({"pair": {"better_scale": 0}}, "beta (-R(rejected))"),
    (
        {"tdpo": {"reference": False}},
        "sigmoid_loss(beta (p(chosen) - p(rejected)) - alpha beta (K(rejected) - sg K(chosen)))",
    ),
    ({"drift": {"per": "sum", "estimator": "k2"}}, "sum_t [d^2 / 2], d = log p - log r of the token, tokens of chosen"),
    (
        {"likelihood": {"per": "token", "row": "1"}},
        "-mean over all tokens of the step: log p(token), tokens of rejected",
    ),
    ({"consistency": {"second": ["1", "2"]}}, "((R(chosen) - R(partner)) - (R(rejected) - R(2)))^2"),
    ({"point": {"row": "2/crop", "link": "bounded"}}, "bounded_loss(sign (beta R(2/crop) - shift))"),
]


@pytest.mark.parametrize(("config", "formula"), FORMULAS)
def test_formulas_say_what_is_set(config: dict[str, Any], formula: str) -> None:
    (entry,) = make_objective(config).describe().values()
    assert formula in entry["formula"]


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"simpo": {}}, "beta=2.0 gamma=1.0 reference=false reduction=mean margin=1.0"),
    ({"simpo": {"link": "hinge"}}, "beta=2.0 reference=false reduction=mean link=hinge margin=1.0"),
    ({"dpo": {}}, "beta=0.1"),
    ({"cdpo": {"eps": 0.2}}, "beta=0.1 eps=0.2 link={name: sigmoid, label_smoothing: 0.2}"),
    ({"sft": {}}, "per=token"),
    ({"likelihood": {}}, ""),
    (
        {"pair": {"plus": {"2": -1}, "weight": {"name": "warmup"}}},
        "beta=0.1 weight=warmup plus={'2': -1.0}",
    ),
]


@pytest.mark.parametrize(("config", "settings"), SETTINGS)
def test_settings_are_what_differs(config: dict[str, Any], settings: str) -> None:
    (entry,) = make_objective(config).describe().values()
    assert entry["settings"] == settings


def test_terms_that_were_made_by_hand_have_no_published_loss() -> None:
    entry = Objective({"mine": Pair(beta=0.2)}).describe()["mine"]
    assert entry["preset"] is None and entry["source"] == Pair.source and entry["settings"] == "beta=0.2"


def test_the_manifest_and_the_model_card_have_them(tmp_path: Path) -> None:
    config = {"model": {"path": "org/base-7b"}, "data": {"path": "pairs"}}
    with RunFolder.create(tmp_path / "run", config=config, command=["mmdpo", "train"], data_fingerprint="f00d") as run:
        run.note(objective=make_objective({"simpo": {}}).describe())
    card = write_card(tmp_path / "run").read_text(encoding="utf-8")
    (row,) = (line for line in card.splitlines() if line.startswith("| simpo |"))
    assert PRESETS["simpo"].formula.replace("|", "\\|") in row and PRESETS["simpo"].source in row
    assert "beta=2.0 gamma=1.0 reference=false" in row
    assert "`p`: log-probability" in card and "minus that under the reference" not in card


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        ("-ls(beta (w - l))", ["R(y)", "w`, `l", "ls"]),
        ("sigmoid_loss(beta (R'(chosen) - R'(rejected)))", ["R(y)", "prime"]),
        ("-ls(beta p(yw)/|yw| - gamma)", ["p`", "yw`, `yl", "|y|", "ls"]),
        ("-mean over all chosen tokens of the optimizer step", []),
        ("-ls(beta (R(yw|m) - R(yw|m~)))", ["R(y)", "yw`, `yl", "ls", "m`, `m~"]),
    ],
)
def test_symbols_that_occur_are_explained_and_no_others(formula: str, said: list[str]) -> None:
    found = symbols([formula])
    assert len(found) == len(said)
    assert all(part in meaning.partition(":")[0] for part, meaning in zip(said, found, strict=True))
