"""Files of presets, terms of a user, and what is said of mistakes in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmdpo import registry
from mmdpo.errors import ConfigError
from mmdpo.objectives import make_objective
from mmdpo.objectives.regular import Nll
from mmdpo.objectives.terms import Pair
from objectives.tables import Answer, loss_of, table


@pytest.fixture
def names() -> Iterator[None]:
    """Forgets what a test registers."""
    before = dict(registry.terms._entries)
    yield
    registry.terms._entries.clear()
    registry.terms._entries.update(before)


def loaded(folder: Path, text: str) -> None:
    path = folder / "losses.yaml"
    path.write_text(text, encoding="utf-8")
    registry.load_plugins([path])


@pytest.mark.usefixtures("names")
def test_a_file_of_presets(tmp_path: Path) -> None:
    loaded(
        tmp_path,
        """
careful:
  aliases: [careful_dpo]
  formula: "dpo + share nll, and pairs against the crop"
  source: here
  parameters: {beta: 0.3, share: 0.5, media: crop, lost: 0.25}
  terms:
    text: {term: dpo, beta: $beta}
    nll: {term: likelihood, weight: $share}
    views: {term: mdpo, beta: $beta, media: $media, anchor: null, weight: 2.0}
    third: {term: pair, worse: 2/$media, plus: {chosen/$media: -$lost}}
""",
    )
    found = make_objective(
        {"careful_dpo": {"beta": 0.4, "media": "blur", "nll": {"per": "token"}, "weight": 0.5}}
    ).terms
    assert found == {
        "careful_dpo.text": Pair(beta=0.4, weight=0.5),
        "careful_dpo.nll": Nll(per="token", weight=0.25),
        "careful_dpo.views.dpo": Pair(beta=0.4, weight=1.0),
        "careful_dpo.views.visual": Pair(beta=0.4, worse="chosen/blur", weight=1.0),
        "careful_dpo.third": Pair(worse="2/blur", plus={"chosen/blur": -0.25}, weight=0.5),
    }
    of = table([Answer(0, "chosen", [-1.0, -2.0], [-1.5, -3.0]), Answer(0, "rejected", [-2.0], [-1.0])])
    alone = {"careful": {"views": None, "third": None}}
    by_hand = {"dpo": {"beta": 0.3}, "nll": {"weight": 0.5}}
    assert loss_of(make_objective(alone), of).item() == loss_of(make_objective(by_hand), of).item()


@pytest.mark.usefixtures("names")
def test_parameters_within_a_text(tmp_path: Path) -> None:
    """In front, at the end, beside a number, several at once, and in the media of a preset inside."""
    loaded(
        tmp_path,
        """
inside:
  parameters: {who: rejected, share: 0.3, kind: patch_mask}
  terms:
    front: {term: pair, worse: $who/crop}
    beside: {term: pair, worse: "chosen/patch_mask:$share"}
    several: {term: pair, better: "$who/$kind:$share", plus: {"$who/blur": -1.0}}
    preset: {term: visual, media: "$kind:$share"}
""",
    )
    assert make_objective({"inside": {"who": "2", "share": 0.5}}).terms == {
        "inside.front": Pair(worse="2/crop"),
        "inside.beside": Pair(worse="chosen/patch_mask:0.5"),
        "inside.several": Pair(better="2/patch_mask:0.5", plus={"2/blur": -1.0}),
        "inside.preset": Pair(worse="chosen/patch_mask:0.5"),
    }


@pytest.mark.usefixtures("names")
def test_a_wrong_parameter_of_an_inner_preset_is_told_by_the_name_that_was_written(tmp_path: Path) -> None:
    loaded(tmp_path, "outer: {parameters: {pull: 0.1}, terms: {a: {term: ipo, tau: $pull}, b: {term: dpo}}}")
    with pytest.raises(ConfigError) as raised:
        make_objective({"outer": {"pull": -1}})
    assert raised.value.what == "loss.outer.pull is -1"
    with pytest.raises(ConfigError) as raised:
        make_objective({"outer": {"a": {"tau": -1}}})
    assert "tau is -1" in raised.value.what and "pull" not in raised.value.what


@pytest.mark.usefixtures("names")
def test_a_field_without_a_default_that_is_not_given() -> None:
    @registry.terms.register("strict")
    @dataclass(frozen=True, kw_only=True)
    class Strict(Pair):
        """A pair with a field that must be given."""

        how: float

    with pytest.raises(ConfigError) as raised:
        make_objective({"strict": {"beta": 0.2}})
    assert raised.value.what == "loss.strict.how is missing" and raised.value.why and raised.value.fix
    assert make_objective({"strict": {"how": 2}}).terms["strict"] == Strict(how=2.0)


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "is not a file of presets"),
        ("", "is not a file of presets"),
        ("a: {terms: {", "is not a file of presets"),
        ("a: {formulas: x, terms: {}}", "is not a file of presets"),
        ("a: {terms: {it: {beta: 1.0}}}", "does not say what its term 'it' is"),
        ("a: {terms: {it: {term: pair, beta: $beta}}}", "not those that its terms use: beta"),
        ("a: {parameters: {tau: 1}, terms: {it: {term: pair}}}", "not those that its terms use: tau"),
        ("dpo: {terms: {it: {term: pair}}}", "registered twice"),
    ],
)
def test_mistakes_in_a_file_of_presets(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        loaded(tmp_path, text)
    assert raised.value.why and raised.value.fix


@pytest.mark.usefixtures("names")
def test_presets_of_nothing_and_of_themselves(tmp_path: Path) -> None:
    loaded(
        tmp_path,
        """
nowhere: {terms: {it: {term: nothing}}}
itself: {terms: {it: {term: itself}, other: {term: dpo}}}
circle: {terms: {it: {term: round}}}
round: {aliases: [ring], terms: {it: {term: circle}}}
""",
    )
    for name, message in [
        ("nowhere", "unknown name 'nothing'"),
        ("itself", "made of itself: itself > itself"),
        ("circle", "made of itself: circle > round > circle"),
        ("ring", "made of itself: round > circle > round"),
    ]:
        with pytest.raises(ConfigError, match=message):
            make_objective(name)
