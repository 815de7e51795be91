"""The ``loss:`` section: names, presets and their parts, schedules, and every mistake's message."""

from __future__ import annotations

from typing import Any

import pytest

from mmdpo import registry
from mmdpo.errors import ConfigError
from mmdpo.objectives import make_objective
from mmdpo.objectives.links import Alpha, Hinge, Sigmoid
from mmdpo.objectives.listwise import AllPairs
from mmdpo.objectives.presets import PRESETS, Preset
from mmdpo.objectives.schedules import Linear, Warmup
from mmdpo.objectives.terms import Pair, Point
from mmdpo.views import View
from objectives.tables import Answer, loss_of, table


@pytest.mark.parametrize("config", ["dpo", {"dpo": {}}, {"dpo_sigmoid": {}}, {"mine": {"term": "dpo"}}])
def test_ways_to_say_dpo(config: Any) -> None:
    (term,) = make_objective(config).terms.values()
    assert term == Pair(beta=0.1)


def test_fields_of_a_preset_of_one_term() -> None:
    config = {"dpo": {"beta": 2, "reduction": "mean", "link": {"name": "hinge", "target": 0.5}, "weight": 3}}
    assert make_objective(config).terms == {"dpo": Pair(beta=2.0, reduction="mean", link=Hinge(target=0.5), weight=3.0)}


def test_a_link_may_be_a_name() -> None:
    fields = {"link": "hinge", "transform": {"name": "alpha", "alpha": 0.25}, "plus": {"2/crop": -1}}
    assert make_objective({"pair": fields}).terms["pair"] == Pair(
        link=Hinge(), transform=Alpha(alpha=0.25), plus={"2/crop": -1.0}
    )


def test_parts_of_a_preset() -> None:
    config = {"mdpo": {"beta": 0.2, "media": "blur:3", "visual": {"weight": 0.5}, "anchor": None, "weight": 2}}
    assert make_objective(config).terms == {
        "mdpo.dpo": Pair(beta=0.2, weight=2.0),
        "mdpo.visual": Pair(beta=0.2, worse="chosen/blur:3", weight=1.0),
    }


def test_two_entries_of_one_loss() -> None:
    objective = make_objective({"cond_pref": {}, "noise": {"term": "cond_pref", "media": "diffusion"}, "sft": None})
    assert list(objective.terms) == ["cond_pref", "noise"]
    assert objective.views == (View(0, "clean"), View(0, "crop"), View(0, "diffusion"))


def test_what_an_objective_needs() -> None:
    both = make_objective({"simpo": {}, "tpo": {}, "tdpo": {}})
    assert both.needs_reference and both.statistics == ("logit", "token_kl") and not both.coupled
    assert not make_objective({"simpo": {}, "orpo": {}}).needs_reference
    assert make_objective({"dpo": {}, "aot": {}}).coupled


def test_a_description_has_fields_formula_and_source() -> None:
    described = make_objective({"visual": {"beta": 0.2}, "povid_paper": None}).describe()
    assert set(described) == {"visual"}
    entry = described["visual"]
    assert entry["term"] == "Pair" and entry["worse"] == "chosen/crop" and entry["beta"] == 0.2
    assert entry["formula"] == "-ls(beta (R(yw|m) - R(yw|m~)))" == PRESETS["cond_pref"].formula
    assert "2406.11839" in entry["source"] and entry["link"] == {"name": "sigmoid", "label_smoothing": 0.0}


# --- schedules --------------------------------------------------------------------------------------------------------

PROGRESS = (0.0, 0.05, 0.1, 0.5, 1.0)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (0.5, [0.5] * 5),
        ({"name": "warmup"}, [0, 0.5, 1, 1, 1]),
        ({"name": "warmup", "weight": 3, "share": 1}, [0, 0.15, 0.3, 1.5, 3]),
        ({"name": "linear"}, PROGRESS),
        ({"name": "linear", "start": 2, "end": 1, "share": 0.5}, [2, 1.9, 1.8, 1, 1]),
    ],
)
def test_weights_over_a_run(weight: Any, expected: list[float]) -> None:
    objective = make_objective({"nll": {"weight": weight}})
    of = table([Answer(0, "chosen", [-1.0, -3.0])])
    counts = objective.counts(of)
    losses = [objective(of, counts, progress)[0].item() for progress in PROGRESS]
    assert losses == pytest.approx([2.0 * factor for factor in expected], rel=1e-12)
    assert [objective(of, counts, progress)[1]["nll"].item() for progress in PROGRESS] == [2.0] * 5


def test_a_weight_scales_the_gradient_and_terms_add_up() -> None:
    of = table([Answer(0, "chosen", [-1.0], [-2.0]), Answer(0, "rejected", [-2.0], [-1.0])])
    single = {name: loss_of(make_objective(name), of).item() for name in ("dpo", "nll")}
    both = loss_of(make_objective({"dpo": {"weight": 0.25}, "nll": {"weight": 4}}), of).item()
    assert both == pytest.approx(0.25 * single["dpo"] + 4 * single["nll"], rel=1e-12)


def test_schedules_of_one_term_of_several() -> None:
    schedule = {"name": "linear", "start": 1.0, "end": 0.0}
    terms = make_objective({"mdpo": {"visual": {"weight": schedule}}}).terms
    assert terms["mdpo.visual"].weight == Linear(start=1.0, end=0.0)
    assert make_objective({"dpo": {"weight": {"name": "warmup", "share": 0.2}}}).terms["dpo"].weight == Warmup(
        share=0.2
    )


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "what", "why"),
    [
        ({"dpoo": {}}, "unknown name 'dpoo' among the losses", "Did you mean 'dpo'"),
        ("dpo2", "unknown name 'dpo2'", "'dpo'"),
        ({"visual": {"term": "nlll"}}, "unknown name 'nlll'", "Did you mean 'nll'"),
        ({"dpo": {"term": None}}, "unknown name 'None'", ""),
        ({"dpo": None}, "no loss term", "nothing to train"),
        ({}, "no loss term", "nothing to train"),
        ({"mdpo": {"dpo": None, "visual": None, "anchor": None}}, "no loss term", "nothing to train"),
        ({"dpo": 0.1}, "loss.dpo is 0.1", "has fields"),
        ({"dpo": {"betta": 0.1}}, "loss.dpo.betta is unknown", "Did you mean 'beta'"),
        ({"mdpo": {"betta": 0.1}}, "loss.mdpo.betta is unknown", "Did you mean 'beta'"),
        ({"mdpo": {"visual": {"betta": 0.1}}}, "loss.mdpo.visual.betta is unknown", "Did you mean 'beta'"),
        ({"mdpo": {"visual": 0.5}}, "loss.mdpo.visual is 0.5", "It is a term of mdpo"),
        ({"dpo": {"beta": -0.1}}, "loss.dpo.beta is -0.1", "the rejected answer is preferred"),
        ({"dpo": {"beta": 0}}, "loss.dpo.beta is 0", "the loss is constant"),
        ({"dpo": {"beta": "much"}}, "loss.dpo.beta is 'much'", "valid number"),
        ({"dpo": {"beta": float("nan")}}, "loss.dpo.beta is nan", "finite"),
        ({"povid": {"b2": "much"}}, "parameter b2 of a loss is 'much'", "negative"),
        ({"cdpo": {"eps": 0.5}}, "loss.cdpo.eps is 0.5", "Input should be less than 0.5"),
        ({"dpo": {"link": {"name": "robust", "noise": 0.5}}}, "loss.dpo.link is", "noise: Input should be less than"),
        ({"ipo": {"tau": -1}}, "loss.ipo.tau is -1", "Input should be greater than 0"),
        ({"mine": {"term": "ipo", "tau": -1}}, "loss.mine.tau is -1", "Input should be greater than 0"),
        ({"mdpo": {"beta": 0}}, "loss.mdpo.beta is 0", "the loss is constant"),
        ({"mdpo": {"beta": 0.1, "visual": {"beta": 0}}}, "loss.mdpo.visual.beta is 0", "the loss is constant"),
        ({"mpo": {"wp": -1}}, "loss.mpo.wp is -1", "the reverse"),
        ({"dpo": {"link": "hing"}}, "loss.dpo.link is 'hing'", "'sigmoid', 'robust', 'hinge'"),
        ({"dpo": {"link": {"target": 2}}}, "loss.dpo.link is {'target': 2}", "Its name is missing"),
        ({"dpo": {"link": {"name": "hinge", "to": 2}}}, "loss.dpo.link is", "to: Unexpected"),
        ({"dpo": {"transform": "square"}}, "loss.dpo.transform is 'square'", "'reverse_kl'"),
        ({"dpo": {"weight": {"name": "warmup", "shar": 0.2}}}, "loss.dpo.weight is", "shar: Unexpected"),
        ({"dpo": {"weight": {"name": "linear", "share": 0}}}, "loss.dpo.weight is", "share: Input should be greater"),
        ({"dpo": {"weight": {"name": "cosine"}}}, "loss.dpo.weight is", "'linear', 'warmup'"),
        ({"mdpo": {"weight": {"name": "warmup"}}}, "loss.mdpo.weight is", "belongs to one term"),
        ({"dpo": {"reduction": "max"}}, "loss.dpo.reduction is 'max'", "'sum' or 'mean'"),
        ({"dpo": {"better": "choosen"}}, "loss.dpo: 'choosen' names no candidate", ""),
        ({"dpo": {"worse": "-1"}}, "loss.dpo: '-1' names no candidate", ""),
        ({"dpo": {"plus": {"thrid": 1}}}, "loss.dpo: 'thrid' names no candidate", ""),
        ({"nll": {"row": "every"}}, "loss.nll: 'every' is every answer", ""),
        ({"plackett_luce": {"order": ["chosen", "every/crop"]}}, "loss.plackett_luce: 'every/crop' is every", ""),
        ({"aot": {"transform": "jensen_shannon"}}, "loss.aot: a transform or a penalty", ""),
        ({"plackett_luce_topk": {"topk": 0}}, "loss.plackett_luce_topk.topk is 0", "greater than or equal to 1"),
        ({"beta_dpo": {"keep": 0}}, "loss.beta_dpo.keep is 0", "greater than 0"),
        ({"discopop": {"tau": 1.5}}, "loss.discopop.tau is 1.5", "Input should be less than or equal to 1"),
    ],
)
def test_mistakes_in_the_configuration(config: Any, what: str, why: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make_objective(config)
    assert what in raised.value.what and why in raised.value.why and raised.value.fix


def test_all_mistakes_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        make_objective({"dpo": {"beta": -1, "betta": 2}, "nlll": {}, "mdpo": {"media": 3, "delta": "x"}})
    for part in ("loss.dpo.beta", "loss.dpo.betta", "nlll", "loss.mdpo.delta"):
        assert part in str(raised.value)


# --- what ships -------------------------------------------------------------------------------------------------------


def test_every_preset_says_what_it_is() -> None:
    for name, preset in PRESETS.items():
        assert preset.formula and preset.source, name
        assert all(registry.terms.get(other) is preset for other in (name, *preset.aliases))
        assert make_objective(name).terms == make_objective({name: dict(preset.parameters)}).terms


def test_parameters_reach_their_terms() -> None:
    """Every parameter changes a term; another value is found there."""
    for name, preset in PRESETS.items():
        for key, default in preset.parameters.items():
            other = {"media": "blur", "topk": 3}.get(key, 0.125)
            changed = make_objective({name: {key: other}}).terms
            assert changed != make_objective(name).terms, f"{name}.{key}"
            assert default != other


def test_shipped_terms() -> None:
    assert make_objective("amp").terms["amp"] == AllPairs(beta=0.1, anchor=1.0)
    assert make_objective("anchor_rejected").terms["anchor_rejected"] == Point(row="rejected", sign=-1, link=Sigmoid())
    assert isinstance(registry.terms.get("dpo"), Preset)
