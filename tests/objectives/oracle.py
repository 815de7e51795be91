"""The published losses once more: record by record, in 60 digits, straight from the formulas of the papers.

Nothing of the package is used here. A formula takes the numbers of one record and raises :class:`LeftOut` where one of
its answers is missing; a loss is the mean over the records that are left, or sees the whole step.
Gradients come from moving the policy's numbers a little; ``still`` is a text as it was before, for stopped gradients.
"""

# ruff: noqa: E741 - w and l are the log-ratios of the papers
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import mpmath

mp = mpmath.mp.clone()
mp.dps = 60
log, exp, log1p = mp.log, mp.exp, mp.log1p
Number = Any
Parameters = SimpleNamespace


class LeftOut(Exception):
    """A record that a loss is not taken of."""


@dataclass
class Text:
    """One answer under one media variant, token by token: policy, reference, data, and further statistics."""

    p: list[Number]
    r: list[Number]
    a: list[Number]
    marks: list[bool]
    kl: list[Number]
    entropy: list[Number]
    squares: list[Number]
    logit: list[Number]
    logit_ref: list[Number]
    still: Text | None = None

    def __len__(self) -> int:
        return len(self.p)


@dataclass
class Record:
    """Answers by name (``chosen``, ``2/crop``), ratings and labels by candidate."""

    texts: dict[str, Text]
    scores: dict[int, float] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Text:
        candidate, slash, media = name.partition("/")
        name = {"0": "chosen", "1": "rejected"}.get(candidate, candidate) + slash + media
        if name not in self.texts:
            raise LeftOut
        return self.texts[name]

    def candidates(self) -> list[tuple[int, Text]]:
        """All candidates under clean media, by number."""
        names = {"chosen": 0, "rejected": 1} | {str(k): k for k in range(2, 9)}
        return sorted(((names[name], text) for name, text in self.texts.items() if name in names), key=lambda c: c[0])


Formula = Callable[[Record, Parameters], Number]
Loss = Callable[[Sequence[Record], Parameters], Number]


def sg(text: Text) -> Text:
    return text.still or text


def ls(z: Number) -> Number:
    return -log1p(exp(-z))


def S(z: Number) -> Number:
    return 1 / (1 + exp(-z))


def P(t: Text) -> Number:
    return mp.fsum(a * p for a, p in zip(t.a, t.p, strict=True))


def R(t: Text) -> Number:
    return mp.fsum(a * (p - r) for a, p, r in zip(t.a, t.p, t.r, strict=True))


def size(t: Text) -> Number:
    return mp.fsum(t.a)


def K(t: Text) -> Number:
    return mp.fsum(t.kl)


def marked_R(t: Text, marked: Number, unmarked: Number = 1) -> tuple[Number, Number]:
    """The weighted sum over marked and unmarked tokens, and the sum of the weights."""
    g = [a * (marked if m else unmarked) for a, m in zip(t.a, t.marks, strict=True)]
    return mp.fsum(a * (p - r) for a, p, r in zip(g, t.p, t.r, strict=True)), mp.fsum(g)


def any_marked(e: Record) -> Record:
    """The record, if one of the two answers has a mark: where marked tokens alone count, others are left out."""
    if not any(e["chosen"].marks + e["rejected"].marks):
        raise LeftOut
    return e


def head(t: Text, other: Text, tail: Number) -> Number:
    """R with the tokens beyond the shorter answer weighted."""
    shorter = min(len(t), len(other))
    return mp.fsum(
        a * (p - r) * (1 if n < shorter else tail) for n, (a, p, r) in enumerate(zip(t.a, t.p, t.r, strict=True))
    )


def mean(records: Sequence[Record], formula: Callable[[Record], Number]) -> Number:
    """Over the records that have what the formula reads; 0 where none has."""
    values = []
    for record in records:
        try:
            values.append(formula(record))
        except LeftOut:
            continue
    return mp.fsum(values) / len(values) if values else mp.mpf(0)


def dpo(beta: Number, better: str = "chosen", worse: str = "rejected") -> Callable[[Record], Number]:
    return lambda e: -ls(beta * (R(e[better]) - R(e[worse])))


def anchor(beta: Number, name: str = "chosen", sign: int = 1, delta: Number = 0) -> Callable[[Record], Number]:
    return lambda e: -ls(sign * (beta * R(e[name]) - delta))


def nll(e: Record) -> Number:
    return -P(e["chosen"]) / size(e["chosen"])


def token_mean(records: Sequence[Record]) -> Number:
    chosen = [e.texts["chosen"] for e in records if "chosen" in e.texts]
    return -mp.fsum(map(P, chosen)) / mp.fsum(map(size, chosen)) if chosen else mp.mpf(0)


def exo(z: Number, eps: Number) -> Number:
    return S(z) * (ls(z) - log(1 - eps)) + S(-z) * (ls(-z) - log(eps))


def disco(z: Number, tau: Number) -> Number:
    m = S(z / tau)
    return -(1 - m) * ls(z) + m * exp(-z)


def power(x: Number, alpha: Number) -> Number:
    return (exp((alpha - 1) * x) - 1) / (alpha - 1)


def odds(t: Text) -> Number:
    a = P(t) / size(t)
    return a - log(1 - exp(a))


def rated(e: Record) -> Number:
    gap = mp.mpf(e.scores[0]) - mp.mpf(e.scores[1])
    if math.isnan(gap) or gap < 0:
        raise LeftOut
    return gap


def severity(e: Record, cap: Number = 10) -> tuple[Number, Number]:
    values = [-e.scores[0], -e.scores[1]]
    if not all(value >= 0 for value in values):
        raise LeftOut
    return mp.mpf(min(values[0], cap)), mp.mpf(min(values[1], cap))


def token_dpo(beta: Number, alpha: Number) -> Callable[[Record], Number]:
    def formula(e: Record) -> Number:
        w, l = e["chosen"], e["rejected"]
        return -ls(beta * (R(w) - R(l)) - alpha * beta * (K(l) - K(sg(w))))

    return formula


def wpo_weight(t: Text) -> Number:
    return exp(mp.fsum(p - log(q) for p, q in zip(sg(t).p, sg(t).squares, strict=True)) / len(t))


def visual(t: Text, corrupted: Text, a: Number, sign: int) -> Number:
    """TPO's reward: c = a + sigmoid(+-s) of the logits, against the reference's."""
    c = [a + S(sign * (x - y)) for x, y in zip(t.logit, corrupted.logit, strict=True)]
    c_ref = [a + S(sign * (x - y)) for x, y in zip(t.logit_ref, corrupted.logit_ref, strict=True)]
    rows = zip(t.a, t.p, t.r, c, c_ref, strict=True)
    return mp.fsum(w * (p - r + log(x / y)) for w, p, r, x, y in rows)


def guided(e: Record, name: str, gamma: Number) -> Number:
    t, blind = e[name], sg(e[f"{name}/none"])
    return gamma * P(t) - (gamma - 1) * P(blind) - (P(t) - R(t))


def segment(e: Record, beta: Number, gamma: Number) -> Number:
    (w, of_w), (l, of_l) = marked_R(e["chosen"], gamma), marked_R(e["rejected"], gamma)
    return -ls(beta * (w / of_w - l / of_l))


PAIRS: dict[str, Callable[[Number, Number, Parameters], Number]] = {
    "dpo_sigmoid": lambda w, l, c: -ls(c.beta * (w - l)),
    "token_weighted_dpo": lambda w, l, c: -ls(c.beta * (w - l)),
    "cdpo": lambda w, l, c: -(1 - c.eps) * ls(c.beta * (w - l)) - c.eps * ls(-c.beta * (w - l)),
    "robust_dpo": lambda w, l, c: (
        (-(1 - c.eps) * ls(c.beta * (w - l)) + c.eps * ls(-c.beta * (w - l))) / (1 - 2 * c.eps)
    ),
    "ipo_sum": lambda w, l, c: (w - l - 1 / (2 * c.tau)) ** 2,
    "hinge": lambda w, l, c: max(mp.mpf(0), 1 - c.beta * (w - l)),
    "dpop": lambda w, l, c: -ls(c.beta * (w - l - c.lam * max(mp.mpf(0), -w))),
    "exo_pair": lambda w, l, c: exo(c.beta * (w - l), c.eps),
    "discopop": lambda w, l, c: disco(c.beta * (w - l), c.tau),
    "fdpo_js": lambda w, l, c: -ls(c.beta * (ls(w) - ls(l))),
    "fdpo_forward_kl": lambda w, l, c: -ls(c.beta * (exp(-l) - exp(-w))),
    "fdpo_alpha": lambda w, l, c: -ls(c.beta * (power(w, c.alpha) - power(l, c.alpha))),
}
"""Functions of the two log-ratios alone; a record that lacks an answer is left out as a whole."""

RECORDS: dict[str, Formula] = {
    "ipo_avg": lambda e, c: (
        (R(e["chosen"]) / size(e["chosen"]) - R(e["rejected"]) / size(e["rejected"]) - 1 / (2 * c.tau)) ** 2
    ),
    "simpo": lambda e, c: (
        -ls(c.beta * P(e["chosen"]) / size(e["chosen"]) - c.beta * P(e["rejected"]) / size(e["rejected"]) - c.gamma)
    ),
    "sigmoid_norm": lambda e, c: (
        -ls(c.beta * (R(e["chosen"]) / size(e["chosen"]) - R(e["rejected"]) / size(e["rejected"])))
    ),
    "r_dpo": lambda e, c: (
        -ls(c.beta * (R(e["chosen"]) - R(e["rejected"])) + c.alpha * (len(e["chosen"]) - len(e["rejected"])))
    ),
    "ld_dpo": lambda e, c: (
        -ls(c.beta * (head(e["chosen"], e["rejected"], c.alpha) - head(e["rejected"], e["chosen"], c.alpha)))
    ),
    "mm_dpo": lambda e, c: -ls(c.beta * (1 + c.w_ * (1 - exp(-c.k * rated(e)))) * (R(e["chosen"]) - R(e["rejected"]))),
    "hsa_dpo": lambda e, c: -ls(c.beta * (severity(e)[0] * R(e["chosen"]) - severity(e)[1] * R(e["rejected"]))),
    "tdpo2": lambda e, c: token_dpo(c.beta, c.alpha)(e),
    "wpo": lambda e, c: min(1, wpo_weight(e["chosen"]) * wpo_weight(e["rejected"])) * dpo(c.beta)(e),
    "seq_forward_kl": lambda e, c: mp.fsum(a * k for a, k in zip(e["chosen"].a, e["chosen"].kl, strict=True)),
    "sft_nll_seq_mean": lambda e, c: nll(e),
    "ddpo_segment": lambda e, c: segment(e, c.beta, c.gamma),
    "sentinel": lambda e, c: (
        -ls(c.beta * (marked_R(any_marked(e)["chosen"], 1, 0)[0] - marked_R(e["rejected"], 1, 0)[0]))
    ),
    "tpo_visual_anchored": lambda e, c: (
        -ls(
            c.beta
            * (
                visual(e["chosen"], e[f"chosen/{c.media}"], c.a, 1)
                - visual(e["rejected"], e[f"rejected/{c.media}"], c.a, -1)
            )
        )
    ),
    "cond_pref": lambda e, c: dpo(c.beta, "chosen", f"chosen/{c.media}")(e),
    "anchor_chosen": lambda e, c: -ls(c.beta * R(e["chosen"]) - c.delta),
    "anchor_rejected": lambda e, c: -ls(c.delta - c.beta * R(e["rejected"])),
    "povid_paper": lambda e, c: -ls(c.alpha * R(e["chosen"]) - c.b1 * R(e["rejected"]) - c.b2 * R(e["2"])),
    "vdpo_guided": lambda e, c: -ls(c.beta * (guided(e, "chosen", c.gamma) - guided(e, "rejected", c.gamma))),
    "chip_single_sigmoid": lambda e, c: (
        -ls(
            c.beta
            * (
                R(e["chosen"])
                - R(e["rejected"])
                + R(e["chosen"])
                - R(e[f"chosen/{c.media}"])
                - c.tok_beta * (K(e["rejected"]) - K(sg(e["chosen"])))
            )
        )
    ),
}
"""Functions of the answers of one record."""


def odpo(e: Record, c: Parameters) -> Number:
    if rated(e) == 0:
        raise LeftOut
    return -ls(c.beta * (R(e["chosen"]) - R(e["rejected"])) - c.alpha * log(rated(e)))


RECORDS["odpo_offset"] = odpo
