"""Objectives without a gradient, or that would train the reverse of what they say, are refused; so are wrong shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from mmdpo.errors import ConfigError
from mmdpo.objectives import Objective, make_objective
from mmdpo.objectives.base import RatioTerm
from mmdpo.objectives.links import Bounded, Hinge, Link, Sigmoid, Square, saturated
from mmdpo.views import ScoreTable, View
from objectives.tables import Answer, loss_of, spread, table

WARMUP = {"name": "warmup", "weight": 0}
DEAD: list[tuple[dict[str, Any], str]] = [
    ({"pair": {"transform": "log_odds"}}, "set reference: false"),
    ({"aot_unpaired": {"transform": "log_odds"}}, "set reference: false"),
    ({"cond_pref": {"media": "clean"}}, "loss.cond_pref: better and worse are the same row"),
    ({"mdpo": {"media": "clean"}}, "loss.mdpo.visual: better and worse are the same row"),
    ({"opa": {"media": "clean"}}, "loss.opa.visual_truth: better and worse are the same row"),
    ({"pair": {"better": "0", "worse": "chosen"}}, "better and worse are the same row"),
    ({"pair": {"better": "chosen", "worse": "chosen/crop", "media": "crop"}}, "better and worse are the same row"),
    ({"pair": {"better_scale": 0, "worse_scale": 0, "plus": {"2": 0}}}, "both 0"),
    ({"dpo": {"weight": 0}}, "weight of every loss term is 0 (dpo)"),
    ({"dpo": {"weight": 0}, "nll": {"weight": WARMUP}}, "weight of every loss term is 0 (dpo, nll)"),
    ({"mdpo": {"weight": 0}}, "weight of every loss term is 0"),
    ({"dpo": {"weight": {"name": "linear", "end": 0}}}, "weight of every loss term is 0"),
    ({"dpo": {"weight": -1}}, "loss.dpo.weight is -1"),
    ({"dpo": {}, "nll": {"weight": -0.1}}, "loss.nll.weight is -0.1"),
    ({"mdpo": {"weight": -2}}, "loss.mdpo.dpo.weight is -2"),
    ({"dpo": {"weight": {"name": "linear", "end": -1}}}, "loss.dpo.weight is"),
    ({"dpo": {"weight": {"name": "warmup", "weight": -1}}}, "loss.dpo.weight is"),
    ({"ddpo": {"gamma": 0, "unmarked": 0}}, "marked and unmarked are both 0"),
    ({"kto": {"marked": 0, "unmarked": 0}}, "marked and unmarked are both 0"),
    ({"kto": {"lam_d": 0, "lam_u": 0}}, "desirable and undesirable are both 0"),
    ({"consistency": {"second": ["chosen", "partner"]}}, "the two margins are always the same"),
    ({"consistency": {"first": ["1", "rejected"], "second": ["2", "2"]}}, "the two margins are always the same"),
    ({"consistency": {"beta": 5.0}}, "loss.consistency.beta is unknown"),
    ({"plackett_luce": {"order": ["chosen"]}}, "two or more rows, each once"),
    ({"plackett_luce": {"order": ["chosen", "0", "1"]}}, "two or more rows, each once"),
    ({"infonca": {"order": ["chosen", "rejected"]}}, "ratings, which places are not"),
    ({"lipo": {"order": ["chosen", "rejected"]}}, "ratings, which places are not"),
]


@pytest.mark.parametrize(("config", "said"), DEAD)
def test_it_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make_objective(config)
    assert said in raised.value.what and raised.value.why and raised.value.fix


ALIVE: list[dict[str, Any]] = [
    {"pair": {"transform": "log_odds", "reference": False, "reduction": "mean"}},
    {"pair": {"better_scale": 0}},
    {"pair": {"worse_scale": 0, "better_scale": 0, "plus": {"1": -1}}},
    {"dpo": {"weight": 0}, "nll": {}},
    {"dpo": {"weight": {"name": "linear", "start": 1, "end": 0}}},
    {"dpo": {"weight": {"name": "warmup"}}},
    {"dpo": {"marked": 0}},
    {"kto": {"lam_d": 0}},
    {"pairwise_all": {"order": ["chosen", "rejected"]}},
]


@pytest.mark.parametrize("config", ALIVE)
def test_its_neighbours_have_a_gradient(config: dict[str, Any]) -> None:
    objective = make_objective(config)
    of = table(
        Answer(0, name, spread(-3), spread(-4), label=label)
        for name, label in (("chosen", 1), ("rejected", -1), ("mismatched", 0))
    )
    halfway, _ = objective(of, objective.counts(of), progress=0.5)
    (gradient,) = torch.autograd.grad(halfway, of.logp)
    assert gradient.any()


# --- saturation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        (Sigmoid(), [0, 0, 0, 1]),  # its slope is 1 at -30, and 1e-13 at 30
        (Hinge(), [0, 0, 1, 1]),
        (Square(tau=0.1), [0, 0, 0, 0]),
        (Bounded(), [1, 0, 0, 1]),
        (Sigmoid(label_smoothing=0.1), [0, 0, 0, 0]),
    ],
)
@torch.no_grad()
def test_saturated_is_where_a_link_is_flat(link: Link, expected: list[float]) -> None:
    assert saturated(link, torch.tensor([-30.0, 0.0, 2.0, 30.0])).tolist() == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pair": {"beta": 1.0}}, [0, 1]),
        ({"pair": {"beta": 1.0, "link": "bounded"}}, [1, 1]),
        ({"point": {"beta": 1.0, "link": "hinge"}}, [0, 1]),
        ({"feedback": {"beta": 1.0, "link": "sigmoid"}}, [0, 1]),
    ],
)
def test_terms_watch_their_own_links(config: dict[str, Any], expected: list[float]) -> None:
    of = table(
        answer
        for n, ratio in enumerate((-30.0, 30.0))
        for answer in (Answer(n, "chosen", spread(ratio - 40), spread(-40), label=1), Answer(n, "rejected", spread(-4)))
    )
    assert make_objective(config).watch(of)["saturated"].tolist() == expected


# --- one loss for each unit -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Averaged(RatioTerm):
    """A term that takes the mean itself, as the objective does once more."""

    keep: bool = False

    def views(self) -> tuple[View, ...]:
        return (self.view("chosen"),)

    def losses(self, table: ScoreTable) -> Tensor:
        (rows,) = self.rows(table)
        return self.ratio(table, rows).mean(0, keepdim=self.keep)


@pytest.mark.parametrize("keep", [True, False])
def test_a_mean_in_place_of_losses_is_refused(keep: bool) -> None:
    of = table(Answer(n, "chosen", spread(-3), spread(-4)) for n in range(2))
    objective = Objective({"mine": Averaged(keep=keep)})
    shape = r"\(1,\)" if keep else r"\(\)"
    with pytest.raises(ConfigError, match=rf"Averaged has the shape {shape}, for 2 records") as raised:
        loss_of(objective, of)
    assert raised.value.why and raised.value.fix
