"""`mmdpo ls losses`: every loss that is registered, as it is, in words and in YAML that means the same."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from mmdpo import registry
from mmdpo.cli import app
from mmdpo.errors import ConfigError
from mmdpo.extensions.loss_catalogue import CHOICES, GROUPS, catalogue, fields_of, loss_entry, pasted, ways
from mmdpo.objectives import Term, make_objective
from mmdpo.objectives.presets import PRESETS, Preset
from mmdpo.verbs.loss_listing import loss_blocks, loss_detail, markdown_tables

NAMES = [entry.name for entry in catalogue()]


def printed(blocks: object, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    for block in blocks:  # type: ignore[attr-defined]
        console.print(block, soft_wrap=False, crop=False, highlight=False)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def mmdpo(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_every_registered_name_is_listed_once() -> None:
    listed = [name for entry in catalogue() for name in (entry.name, *entry.aliases)]
    assert sorted(listed) == list(registry.terms)
    assert set(PRESETS) <= set(NAMES)


def test_groups_follow_from_what_is_read() -> None:
    groups = {entry.name: entry.group for entry in catalogue()}
    expected = {
        "dpo_sigmoid": "pairwise",
        "bco_pair": "pairwise",
        "plackett_luce": "listwise",
        "kto": "unpaired",
        "symmpo": "multimodal",
        "lpoi": "multimodal",
        "anchor_rejected": "regularisers",
        "sft_nll_token_mean": "regularisers",
        "pair": "building blocks",
    }
    assert {name: groups[name] for name in expected} == expected
    assert set(groups.values()) == set(GROUPS)


@pytest.mark.parametrize("name", NAMES)
def test_the_yaml_means_the_same_as_the_name(name: str) -> None:
    loss = yaml.safe_load(pasted(name))["loss"]
    assert list(make_objective(loss).terms.values()) == list(make_objective(name).terms.values())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in PRESETS])
def test_every_field_is_explained(name: str) -> None:
    fields = fields_of(registry.terms.get(name))
    assert [field.name for field in fields if not field.what] == []
    assert {field.name for field in fields} == set(loss_entry(name).parameters)
    assert registry.terms.get(name).formula and registry.terms.get(name).source


def test_every_way_is_explained() -> None:
    for field in CHOICES:
        for name, fields, what in ways(field):
            assert what, name
            assert all(setting.what for setting in fields), name


def test_facts_of_a_loss() -> None:
    entry = loss_entry("visual")
    assert (entry.name, entry.aliases) == ("cond_pref", ("visual", "conditional"))
    assert entry.parameters == {"beta": 0.1, "media": "crop"}
    assert entry.views == ("chosen", "chosen/crop")
    assert entry.needs == ("media",)
    kto = loss_entry("kto")
    assert kto.batch and kto.reference and "mismatched" in kto.views
    assert not loss_entry("simpo").reference
    assert loss_entry("tdpo").statistics == ("token_kl",)
    assert "marked tokens (data.marks)" in loss_entry("ddpo").needs
    assert loss_entry("povid").needs == ("3 candidates",)


@pytest.mark.parametrize("width", [80, 120])
def test_the_listing_fits_its_width_and_leaves_nothing_out(width: int) -> None:
    text = printed(loss_blocks(catalogue()), width)
    assert max(map(len, text.splitlines())) <= width
    for entry in catalogue():
        assert f"\n  {entry.name} " in text
    flat = " ".join(text.split())
    assert "mdpo dpo + cond_pref + anchor_chosen beta=0.1 delta=0.0 media=crop" in flat
    assert flat.count("building blocks:") == 1


def test_a_loss_in_detail() -> None:
    text = printed(loss_detail("mdpo"), 100)
    assert "  visual: {term: pair, beta: 0.1, worse: chosen/crop}\n" in text
    assert "mdpo.anchor  sigmoid_loss(sign (beta R(chosen) - shift))" in text
    flat = " ".join(text.split())
    assert "better chosen Row that is preferred, as candidate/media" in flat
    assert "robust [-(1 - e) log sigmoid(z) + e log sigmoid(-z)] / (1 - 2e)" in flat
    assert flat.count("Ways of link") == 1
    assert "shift 0.0 Reward at which the argument is 0." in flat


def test_yaml_is_never_cut(width: int = 40) -> None:
    text = printed(loss_detail("lpoi"), width)
    assert pasted("lpoi") in text


def test_the_command() -> None:
    rows = json.loads(mmdpo("ls", "losses", "--json"))
    assert [row["name"] for row in rows] == NAMES
    (row,) = json.loads(mmdpo("ls", "losses", "rdpo", "--json"))
    assert row["name"] == "rdpo_realign"
    assert row["terms"] == ["rdpo_realign.dpo", "rdpo_realign.visual"]
    assert "cond_pref" in mmdpo("ls", "losses")
    assert "Fields of pair" in mmdpo("ls", "losses", "dpo")
    assert [row["name"] for row in json.loads(mmdpo("ls", "benchmarks", "pope", "--json"))] == ["pope"]
    for words in (["losses", "mdpoo"], ["builders", "rating"]):
        error = CliRunner().invoke(app, ["ls", *words]).exception
        assert isinstance(error, ConfigError)
        assert "Did you mean" in error.why


def test_rows_of_the_markdown_have_as_many_cells_as_their_heads() -> None:
    rows = [line for line in markdown_tables(catalogue()).splitlines() if line.startswith("|")]
    assert len(rows) == len(NAMES) + 2 * len(GROUPS)
    assert {row.replace("\\|", "").count("|") for row in rows} == {6}


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.terms, "_entries", dict(registry.terms._entries))


@pytest.mark.usefixtures("own_registry")
def test_a_term_of_a_user_with_a_field_that_has_no_default() -> None:
    @registry.terms.register("strict", "severe")
    @dataclass(frozen=True, kw_only=True)
    class Strict(Term):
        """Is strict.

        Args:
            how: How strict,
                over two lines.
        """

        how: float

    entry = loss_entry("severe")
    assert (entry.group, entry.views) == ("building blocks", ())
    assert {entry.name, *entry.aliases} == {"strict", "severe"}
    (field,) = (field for field in fields_of(Strict) if field.name == "how")
    assert (field.required, field.what) == (True, "How strict, over two lines.")
    text = " ".join(printed([*loss_blocks(catalogue()), *loss_detail("strict")], 100).split())
    assert "how required How strict, over two lines." in text


@pytest.mark.usefixtures("own_registry")
def test_a_preset_of_presets() -> None:
    """Names of nested terms have no dots in the YAML."""
    terms = {"first": {"term": "mdpo"}, "second": {"term": "dpo", "weight": 0.5}}
    registry.terms.register("nested")(Preset(name="nested", terms=terms))
    loss = yaml.safe_load(pasted("nested"))["loss"]
    assert list(loss) == ["first_dpo", "first_visual", "first_anchor", "second"]
    assert list(make_objective(loss).terms.values()) == list(make_objective("nested").terms.values())
    assert loss_entry("nested").group == "multimodal"
