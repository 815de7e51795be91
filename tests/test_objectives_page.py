"""docs/objectives.md: computed parts are current, YAML is valid, and its other numbers and claims hold."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from core.oracle import picture, record
from mmdpo import registry
from mmdpo.config import parse_config
from mmdpo.encoding.companions import Companions
from mmdpo.extensions.loss_catalogue import catalogue
from mmdpo.extensions.scaffold import write_new
from mmdpo.objectives import make_objective
from mmdpo.objectives.listwise import Ranking
from mmdpo.objectives.media_pairs import GuidedPair
from mmdpo.objectives.presets import PRESETS
from mmdpo.records import Record
from mmdpo.training.objective_checks import objective_problems, usage
from objectives.tables import Answer, loss_of, table
from objectives_page import PAGE, rewritten

TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
OWN = [block for block in BLOCKS if "plugins:" in block]
FILES = [block for block in BLOCKS if block.startswith("# ")]


def test_what_is_computed_is_current() -> None:
    assert rewritten(TEXT) == TEXT, "run: python tests/objectives_page.py"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block not in OWN + FILES], ids=lambda block: block[:40])
def test_the_configurations_are_valid(block: str) -> None:
    config = valid(block)
    assert make_objective(config.loss).views


def valid(block: str) -> Any:
    return parse_config({"model": {"path": "playground"}, "data": {"path": "runs/pairs"}, **yaml.safe_load(block)})


def test_the_plugins_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.terms, "_entries", dict(registry.terms._entries))
    monkeypatch.setattr(registry, "_plugins", dict(registry._plugins))
    (block,), (presets,) = OWN, FILES
    (tmp_path / presets.split()[1]).write_text(presets, encoding="utf-8")
    write_new("loss", "steady", tmp_path / "losses")
    config = valid(block)
    registry.load_plugins([tmp_path / path for path in config.plugins])
    terms = make_objective(config.loss).terms
    assert list(terms) == ["careful.preference", "careful.likelihood", "steady"]
    assert terms["careful.likelihood"].weight == 0.5
    assert make_objective("careful_dpo").terms["careful_dpo.drift"].weight == 0.01


def test_what_the_examples_mean() -> None:
    """Those whose text says what they leave out or change."""
    by_first = {next(iter(yaml.safe_load(block)["loss"])): block for block in BLOCKS[:8] if "loss:\n" in block}
    mixed = make_objective(yaml.safe_load(by_first["mdpo"])["loss"])
    assert list(mixed.terms) == ["mdpo.dpo", "mdpo.visual"]
    assert list(map(str, mixed.views)) == ["chosen", "chosen/diffusion:250", "rejected"]
    assert mixed.terms["mdpo.visual"].weight == 2.0


def test_the_names_of_the_page_are_losses() -> None:
    """In the table of papers and code every `name` and `name: {...}` can be written down."""
    section = TEXT.partition("## Paper or code")[2].partition("\n## ")[0]
    names = re.findall(r"`([a-z_]+)`|`([a-z_]+: \{[^`]*\})`", section)
    assert len(names) > 15
    for alone, with_settings in names:
        if alone != "reduction":
            make_objective(alone or yaml.safe_load(with_settings))


def number(pattern: str) -> str:
    """What the page says where a pattern has its group."""
    (found,) = re.findall(pattern, TEXT)
    return str(found)


def test_denominators() -> None:
    of = table([Answer(0, "chosen", [-1.0] * 2), Answer(1, "chosen", [-0.25] * 8)])
    for per in ("sequence", "token", "sum"):
        value = loss_of(make_objective({"likelihood": {"per": per}}), of).item()
        assert number(rf"\| `{per}`[^|]*\| ([\d.]+) \|") == f"{value:g}"


def test_a_record_without_a_view_does_not_lower_the_mean() -> None:
    rows = [Answer(n, "chosen", [-1.0 - n], [-2.0]) for n in range(3)]
    hidden = [Answer(n, "chosen/crop", [-1.5], [-2.0]) for n in range(2)]
    objective = make_objective("visual")
    three, two = loss_of(objective, table(rows + hidden)), loss_of(objective, table(rows[:2] + hidden))
    assert three.item() == two.item()


def test_by_hand() -> None:
    dpo, both = 0.658759555549, 0.658759555549 + 0.673347 + 0.668460
    assert number(r"log\(1 \+ exp\(-0\.07\)\) = ([\d.]+)`") == f"{dpo:.5f}"
    assert number(r"add up to ([\d.]+)\.") == f"{both:.5f}"
    assert number(r"\| `dpo_sigmoid` \| [\d.]+ \| ([\d.]+) \|") == f"{dpo:.6g}"
    assert number(r"\| `mdpo` \| [\d.]+ \| ([\d.]+) \|") == f"{both:.6g}"


@pytest.mark.parametrize("name", ["plackett_luce", "s_dpo", "pairwise_all"])
def test_lists_of_two_are_dpo(name: str) -> None:
    of = table([Answer(0, "chosen", [-1.0], [-1.5]), Answer(0, "rejected", [-2.0], [-1.8])])
    dpo = loss_of(make_objective({"dpo": {"beta": 0.3}}), of).item()
    assert loss_of(make_objective({name: {"beta": 0.3}}), of).item() == pytest.approx(dpo, rel=1e-12)


def test_pitfall_of_a_guidance_of_zero() -> None:
    views = ("chosen", "rejected", "chosen/none", "rejected/none")
    of = table([Answer(0, view, [-1.0 - n, -0.5]) for n, view in enumerate(views)])
    gradients = [torch.autograd.grad(GuidedPair(gamma=g).losses(of).sum(), of.logp)[0] for g in (0.0, 1.0)]
    assert not gradients[0].any()
    (dpo,) = torch.autograd.grad(loss_of(make_objective("dpo"), of), of.logp)
    torch.testing.assert_close(gradients[1], dpo)


def test_pitfall_of_exponents() -> None:
    gap = float(number(r"a gap of (\d+) in units of reward"))
    naive = torch.log(1 + torch.exp(torch.tensor(gap)))
    assert naive.isinf()
    of = table([Answer(0, "chosen", [-gap]), Answer(0, "rejected", [-1.0], [-1.0])], dtype=torch.float32)
    of = replace(of, ref_logp=torch.zeros_like(of.logp).masked_fill(of.candidate[:, None] == 1, -1.0))
    assert Ranking(beta=1.0, top=1).losses(of).tolist() == [gap] == [float(number(r"where the loss is (\d+)\."))]


def test_pitfalls_of_arithmetic() -> None:
    length, width = map(int, re.findall(r"answers of (\d+) tokens padded to (\d+)", TEXT)[0])
    assert number(r"padded to \d+, ([\d.]+)% of what") == f"{100 * (width - length) / width:.1f}"
    found = re.findall(r"(-\d+) nats with token weights that sum to\s+(\d+) become (-\d+)", TEXT)
    nats, weights, product = map(float, found[0])
    assert nats * weights == product


def pairs(**fields: Any) -> list[Record]:
    made = [record(str(n), "What is here?", ["A star.", "A boat."], picture(n)) for n in range(3)]
    return [replace(each, **fields) for each in made]


def used(name: str, records: list[Record]) -> int:
    counts = usage(make_objective(name), records, Companions(records)).counts
    return min(counts.values())


@pytest.mark.parametrize("name", ["infonca", "nca", "lipo", "mm_dpo", "odpo"])
def test_needs_of_ratings(name: str) -> None:
    plain = pairs()
    rated = [
        replace(
            each,
            candidates=tuple(replace(c, score=2.0 - n) for n, c in enumerate(each.candidates)),
            higher_is_better=True,
        )
        for each in plain
    ]
    assert used(name, [*rated, *plain]) == 3
    assert used("hsa_dpo", rated) == 0
    lower = [
        replace(
            each,
            candidates=tuple(replace(c, score=1.0 + n) for n, c in enumerate(each.candidates)),
            higher_is_better=False,
        )
        for each in plain
    ]
    assert used("hsa_dpo", lower) == 3


@pytest.mark.parametrize("name", ["kto", "bco", "apo_zero_unpaired"])
def test_needs_of_labels(name: str) -> None:
    single = [
        replace(each, candidates=(replace(each.candidates[0], label=label),))
        for each, label in zip(pairs(), (True, False, None), strict=True)
    ]
    assert used(name, single) == 2
    assert used(name, pairs()) == 3


def test_needs_of_marks_media_and_partners() -> None:
    for name in ("ddpo", "chip", "sentinel"):
        (problem,) = objective_problems(make_objective(name), pairs())
        assert "mark" in problem.what
    without = [record(str(n), "What is here?", ["A star.", "A boat."]) for n in range(3)]
    assert used("visual", [*pairs(), *without]) == 3
    (problem,) = objective_problems(make_objective({"visual": {"media": "noise"}}), pairs())
    assert "'noise' is unknown for images" in problem.what
    assert used("realign", pairs()) == 3
    assert used("realign", pairs()[:1]) == 0
    assert used("povid", pairs()) == 0


def test_other_pages_count_the_losses_right() -> None:
    root = PAGE.parents[1]
    said = f"{len(PRESETS)} published"
    assert said in TEXT
    assert said in (root / "README.md").read_text(encoding="utf-8")
    changelog = " ".join((root / "CHANGELOG.md").read_text(encoding="utf-8").split())
    blocks = sum(entry.group == "building blocks" for entry in catalogue())
    assert said in changelog and f"made of {blocks} terms" in changelog
