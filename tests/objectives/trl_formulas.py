"""The losses of docs/objectives_trl.md in which TRL differs, as formulas of sums over answers, and those sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdpo.views import MISMATCHED
from objectives.trl_sides import Built, padded


@dataclass(frozen=True)
class Numbers:
    """What formulas speak of, from the model's own logits on plain rows; each [M], in nats.

    Args:
        p_chosen: Log-probability of the chosen answer under the policy; p_rejected, r_chosen, r_rejected likewise.
        n_chosen: Tokens of the chosen answer; n_rejected likewise.
        p_prompt: Log-probability of the chosen row's prompt after its first token.
        n_prompt: Tokens of it.
        likely: WPO's weight of the pair, without a cap.
        kl: Log-ratio of the mismatched answer that we draw.
        kl_chosen: Log-ratio of the one that TRL puts beside the chosen answer; kl_rejected likewise.
    """

    p_chosen: Tensor
    p_rejected: Tensor
    r_chosen: Tensor
    r_rejected: Tensor
    n_chosen: Tensor
    n_rejected: Tensor
    p_prompt: Tensor
    n_prompt: Tensor
    likely: Tensor
    kl: Tensor
    kl_chosen: Tensor
    kl_rejected: Tensor

    @property
    def w(self) -> Tensor:
        """Log-ratio of the chosen answer."""
        return self.p_chosen - self.r_chosen

    @property
    def l(self) -> Tensor:  # noqa: E743  (its name in every paper)
        """Log-ratio of the rejected answer."""
        return self.p_rejected - self.r_rejected

    def part(self, rows: slice) -> Numbers:
        """Those of some records."""
        return Numbers(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def numbers_of(model: Any, built: Built) -> Numbers:
    """The numbers of the records under a model of PEFT's, whose reference is the adapter switched off."""
    answers = [built.ids[n, side] for side in (0, 1) for n in range(len(built.records))]
    drawn = [built.ids[n, MISMATCHED] for n in range(len(built.records))]
    everything = zip([*built.records] * 5, [*answers, *drawn, *answers[-1:], *answers[:-1]], strict=True)
    rows = padded(built.tiny, list(everything))
    answer = rows.pop("completion_mask")[:, 1:]
    prompt = rows["attention_mask"][:, 1:] - answer
    logp = model(**rows).logits[:, :-1].log_softmax(-1)
    tokens = logp.gather(-1, rows["input_ids"][:, 1:, None])[..., 0]
    likely = ((tokens - (2 * logp).logsumexp(-1)) * answer).sum(1).detach() / answer.sum(1)
    with model.disable_adapter(), torch.no_grad():
        theirs = model(**rows).logits[:, :-1].log_softmax(-1).gather(-1, rows["input_ids"][:, 1:, None])[..., 0]
    p, r, n = ((values * answer).sum(1).chunk(5) for values in (tokens, theirs, torch.ones_like(tokens)))
    return Numbers(
        *(*p[:2], *r[:2], *n[:2]),
        p_prompt=(tokens * prompt).sum(1).chunk(5)[0],
        n_prompt=prompt.sum(1).chunk(5)[0],
        likely=(likely.chunk(5)[0] + likely.chunk(5)[1]).exp(),
        kl=(p[2] - r[2]).detach(),
        kl_chosen=(p[3] - r[3]).detach(),
        kl_rejected=(p[4] - r[4]).detach(),
    )


def logistic(z: Tensor) -> Tensor:
    return -F.logsigmoid(z)


def log_odds(p: Tensor) -> Tensor:
    return p - torch.log1p(-p.exp())


def nll_of_records(of: Numbers) -> Tensor:
    """Mean over records of the mean over their tokens."""
    return -(of.p_chosen / of.n_chosen).mean()


def nll_of_tokens(of: Numbers) -> Tensor:
    """Mean over all chosen tokens."""
    return -of.p_chosen.sum() / of.n_chosen.sum()


def odds_ratio(of: Numbers) -> Tensor:
    return logistic(log_odds(of.p_chosen / of.n_chosen) - log_odds(of.p_rejected / of.n_rejected)).mean()


def kto(of: Numbers, kl: Tensor) -> Tensor:
    z0 = kl.mean().clamp(min=0)
    return torch.cat([1 - torch.sigmoid(of.w - z0), 1 - torch.sigmoid(z0 - of.l)]).mean()


def bco(of: Numbers, delta: Tensor | float) -> Tensor:
    return (logistic(of.w - delta) + logistic(delta - of.l)).mean()


Formula = Callable[[Numbers], Tensor]
PAPER_AND_TRL: dict[str, tuple[Formula, Formula]] = {
    "cdpo": (
        lambda of: (0.9 * logistic(0.2 * (of.w - of.l)) + 0.1 * logistic(-0.2 * (of.w - of.l))).mean(),
        lambda of: logistic(0.2 * (of.w - of.l)).mean(),
    ),
    "bco_pair": (lambda of: bco(of, torch.cat([of.w, of.l]).mean().detach()), lambda of: bco(of, 0.0)),
    "wpo": (
        lambda of: (of.likely.clamp(max=1) * logistic(0.2 * (of.w - of.l))).mean(),
        lambda of: (of.likely * logistic(0.2 * (of.w - of.l))).mean(),
    ),
    "rpo_nll": (
        lambda of: logistic(0.2 * (of.w - of.l)).mean() + 0.5 * nll_of_records(of),
        lambda of: logistic(0.2 * (of.w - of.l)).mean() + 0.5 * nll_of_tokens(of),
    ),
    "fdpo_js": (
        lambda of: logistic(2 * (F.logsigmoid(of.w / of.n_chosen) - F.logsigmoid(of.l / of.n_rejected))).mean(),
        lambda of: logistic(
            2 * ((math.log(2) + F.logsigmoid(of.w)) / of.n_chosen - (math.log(2) + F.logsigmoid(of.l)) / of.n_rejected)
        ).mean(),
    ),
    "kto": (lambda of: kto(of, of.kl), lambda of: kto(of, torch.cat([of.kl_chosen, of.kl_rejected]))),
    "cpo": (
        lambda of: logistic(0.2 * (of.p_chosen - of.p_rejected)).mean() + nll_of_records(of),
        lambda of: logistic(0.2 * (of.p_chosen - of.p_rejected)).mean() + nll_of_tokens(of),
    ),
    "slic_hf": (
        lambda of: (1 - of.p_chosen + of.p_rejected).clamp(min=0).mean() - 0.1 * of.p_chosen.mean(),
        lambda of: (1 - of.p_chosen + of.p_rejected).clamp(min=0).mean() + 0.1 * nll_of_tokens(of),
    ),
    "orpo": (
        lambda of: nll_of_records(of) + 0.5 * odds_ratio(of),
        lambda of: -(of.p_chosen + of.p_prompt).sum() / (of.n_chosen + of.n_prompt).sum() + 0.5 * odds_ratio(of),
    ),
}
"""What the paper says and what TRL 1.16 computes, of the rows under "Different", in the page's order."""
WHOLE: dict[str, Formula] = {
    "sft_nll_token_mean": nll_of_tokens,
    "aot_paired": lambda of: logistic(
        0.2 * ((of.p_chosen - of.p_rejected).sort().values - (of.r_chosen - of.r_rejected).sort().values)
    ).mean(),
    "aot_unpaired": lambda of: logistic(0.2 * (of.w.sort().values - of.l.sort().values)).mean(),
    "kto": lambda of: kto(of, of.kl),
    "dpo_sigmoid": lambda of: logistic(0.2 * (of.w - of.l)).mean(),
}
"""The rows under "Over two micro-batches": we take the formula of the step, TRL the mean of it over micro-batches."""
