"""The oracle's losses over lists, labels and whole steps, and those that are sums of several means."""

# ruff: noqa: E741 - w and l are the log-ratios of the papers
from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from objectives.oracle import (
    PAIRS,
    RECORDS,
    LeftOut,
    Loss,
    Number,
    P,
    Parameters,
    R,
    Record,
    S,
    Text,
    anchor,
    dpo,
    exp,
    log,
    ls,
    mean,
    mp,
    nll,
    odds,
    segment,
    sg,
    token_dpo,
    token_mean,
)


def graded(e: Record, beta: Number, needs_scores: bool = False) -> list[tuple[Number, Number, Number]]:
    """Grade, reward and stopped reward of each candidate; left out where there is nothing to compare."""
    candidates = e.candidates()
    scores = [e.scores[k] for k, _ in candidates]
    unrated = all(math.isnan(score) for score in scores)
    if unrated and not needs_scores:
        scores = [-float(place) for place in range(len(scores))]
    if len(scores) < 2 or any(math.isnan(score) for score in scores) or len(set(scores)) == 1:
        raise LeftOut
    return [(mp.mpf(score), beta * R(t), beta * R(sg(t))) for score, (_, t) in zip(scores, candidates, strict=True)]


def plackett_luce(entries: Sequence[tuple[Number, Number, Number]], top: int = 99) -> Number:
    """Each candidate that is better than some wins against those; ties are never compared."""
    total = mp.mpf(0)
    for grade, s, _ in entries:
        worse = [other for its, other, _ in entries if its < grade]
        if worse and sum(its > grade for its, _, _ in entries) < top:
            total += log(exp(s) + mp.fsum(map(exp, worse))) - s
    return total


def softmax(values: Sequence[Number]) -> list[Number]:
    total = mp.fsum(map(exp, values))
    return [exp(value) / total for value in values]


def infonca(e: Record, c: Parameters) -> Number:
    entries = graded(e, c.beta, needs_scores=True)
    targets = softmax([grade / c.tau for grade, _, _ in entries])
    total = log(mp.fsum(exp(s) for _, s, _ in entries))
    return -mp.fsum(t * (s - total) for t, (_, s, _) in zip(targets, entries, strict=True))


def nca(e: Record, c: Parameters) -> Number:
    entries = graded(e, c.beta, needs_scores=True)
    targets = softmax([grade / c.tau for grade, _, _ in entries])
    return -mp.fsum(t * ls(s) + ls(-s) / len(entries) for t, (_, s, _) in zip(targets, entries, strict=True))


def ordered_pairs(entries: Sequence[tuple[Number, Number, Number]]) -> list[tuple[int, int]]:
    numbers = range(len(entries))
    return [(i, j) for i in numbers for j in numbers if entries[i][0] > entries[j][0]]


def lipo(e: Record, c: Parameters) -> Number:
    entries = graded(e, c.beta, needs_scores=True)
    by_reward = sorted(range(len(entries)), key=lambda i: -entries[i][2])
    rank = {i: place + 1 for place, i in enumerate(by_reward)}
    total = mp.mpf(0)
    for i, j in ordered_pairs(entries):
        gain = abs(mp.mpf(2) ** entries[i][0] - mp.mpf(2) ** entries[j][0])
        discount = abs(1 / log(1 + rank[i]) - 1 / log(1 + rank[j]))
        total -= gain * discount * ls(entries[i][1] - entries[j][1])
    return total


def all_pairs(e: Record, c: Parameters, penalty: int = 0) -> Number:
    entries = graded(e, c.beta)
    best = max(grade for grade, _, _ in entries)
    pairs = ordered_pairs(entries)
    values = (
        -ls(entries[i][1] - entries[j][1]) - penalty * (entries[i][0] == best) * entries[i][1] / c.beta
        for i, j in pairs
    )
    return mp.fsum(values) / len(pairs)


def labelled(records: Sequence[Record]) -> list[tuple[int, int, Text]]:
    """Number of the record, label, and text of every answer with a label."""
    return [
        (n, e.labels[k], text) for n, e in enumerate(records) for k, text in e.candidates() if e.labels.get(k, 0) != 0
    ]


def rewards_seen(records: Sequence[Record], c: Parameters) -> list[Number]:
    return [c.beta * R(sg(text)) for _, _, text in labelled(records)]


def bco_delta(records: Sequence[Record], c: Parameters) -> Number:
    """A number, or the mean of all rewards up to now; ``before`` holds those of earlier steps."""
    if c.delta != "running":
        return c.delta
    seen = [*getattr(c, "before", []), *rewards_seen(records, c)]
    return mp.fsum(seen) / len(seen) if seen else 0


def bco_sum(records: Sequence[Record], c: Parameters) -> Number:
    delta = bco_delta(records, c)
    return mp.fsum(-ls(label * (c.beta * R(t) - delta)) for _, label, t in labelled(records))


def bco_pair(records: Sequence[Record], c: Parameters) -> Number:
    return bco_sum(records, c) / max(1, len({n for n, _, _ in labelled(records)}))


def bco_unpaired(records: Sequence[Record], c: Parameters) -> Number:
    return bco_sum(records, c) / max(1, len(labelled(records)))


def kto(records: Sequence[Record], c: Parameters, z0: Number | None = None) -> Number:
    if z0 is None:
        others = [R(sg(e.texts["mismatched"])) for e in records if "mismatched" in e.texts]
        z0 = max(mp.mpf(0), mp.fsum(others) / len(others)) if others else 0
    answers = labelled(records)
    values = (
        c.lam_d * (1 - S(c.beta * (R(t) - z0))) if label > 0 else c.lam_u * (1 - S(c.beta * (z0 - R(t))))
        for _, label, t in answers
    )
    return mp.fsum(values) / max(1, len(answers))


def both(records: Sequence[Record]) -> list[tuple[Text, Text]]:
    return [(e["chosen"], e["rejected"]) for e in records if {"chosen", "rejected"} <= set(e.texts)]


def aot_paired(records: Sequence[Record], c: Parameters) -> Number:
    pairs = both(records)
    policy = sorted(P(w) - P(l) for w, l in pairs)
    reference = sorted(P(w) - R(w) - P(l) + R(l) for w, l in pairs)
    return -mp.fsum(ls(c.beta * (x - y)) for x, y in zip(policy, reference, strict=True)) / max(1, len(pairs))


def aot_unpaired(records: Sequence[Record], c: Parameters) -> Number:
    pairs = both(records)
    chosen, rejected = sorted(R(w) for w, _ in pairs), sorted(R(l) for _, l in pairs)
    return -mp.fsum(ls(c.beta * (x - y)) for x, y in zip(chosen, rejected, strict=True)) / max(1, len(pairs))


def beta_dpo(records: Sequence[Record], c: Parameters) -> Number:
    pairs = both(records)
    if not pairs:
        return mp.mpf(0)
    still = mp.fsum(R(sg(w)) - R(sg(l)) for w, l in pairs) / len(pairs)
    beta = max(c.beta * (1 + c.alpha * (still - c.m0)), mp.mpf("0.001"))
    return -mp.fsum(ls(beta * (R(w) - R(l))) for w, l in pairs) / len(pairs)


def symmpo(records: Sequence[Record], c: Parameters) -> Number:
    def consistency(e: Record) -> Number:
        first = R(e["chosen"]) - R(e["partner"])
        second = R(e["partner/swap"]) - R(e["chosen/swap"])
        return (first - second) ** 2

    pairs = mean(records, dpo(c.b2, "chosen", "partner")) + mean(records, dpo(c.b2, "partner/swap", "chosen/swap"))
    anchors = mean(records, anchor(c.b1)) + mean(records, anchor(c.b1, "partner/swap"))
    return mean(records, dpo(c.b1)) + c.lam * pairs + anchors + c.gam * mean(records, consistency)


def svco(records: Sequence[Record], c: Parameters) -> Number:
    steps = [
        ("chosen", "chosen/none"),
        ("chosen/none", "chosen/swap"),
        ("partner/swap", "partner/none"),
        ("partner/none", "partner"),
    ]
    return mp.fsum(mean(records, dpo(c.beta, better, worse)) for better, worse in steps)


def lpoi(records: Sequence[Record], c: Parameters) -> Number:
    def views(e: Record) -> Number:
        names = ["chosen", *(f"chosen/patch_mask:0.{share}" for share in (2, 4, 6, 8))]
        rewards = [c.beta * R(e[name]) for name in names]
        return mp.fsum(log(mp.fsum(map(exp, rewards[k:]))) - rewards[k] for k in range(4))

    return mean(records, dpo(c.beta)) + mean(records, views) + mean(records, anchor(c.beta))


def opa(records: Sequence[Record], c: Parameters) -> Number:
    conditional = mean(records, dpo(c.beta, "0", f"0/{c.media}")) + mean(records, dpo(c.beta, "1", f"1/{c.media}"))
    return mean(records, dpo(c.beta, "0", "2")) + mean(records, dpo(c.beta, "1", "2")) + c.copo * conditional


def chip(records: Sequence[Record], c: Parameters) -> Number:
    return (
        mean(records, dpo(c.beta, "chosen", f"chosen/{c.media}"))
        + mean(records, dpo(c.beta))
        + c.lam * mean(records, lambda e: segment(e, c.beta, c.gamma))
        + c.gam * mean(records, token_dpo(c.beta, mp.mpf("0.5")))
    )


def _sum_over_pairs(name: str) -> Loss:
    return lambda records, c: mean(records, lambda e: PAIRS[name](R(e["chosen"]), R(e["rejected"]), c))


def _sum_over_records(name: str) -> Loss:
    return lambda records, c: mean(records, lambda e: RECORDS[name](e, c))


def _over_lists(formula: Callable[[Record, Parameters], Number]) -> Loss:
    return lambda records, c: mean(records, lambda e: formula(e, c))


def _of_each_answer(w: Callable[[Number, Parameters], Number], l: Callable[[Number, Parameters], Number]) -> Loss:
    """Sums of a part of the chosen and a part of the rejected answer: each is a mean over the records that have it."""
    return lambda records, c: (
        mean(records, lambda e: w(R(e["chosen"]), c)) + mean(records, lambda e: l(R(e["rejected"]), c))
    )


LOSSES: dict[str, Loss] = {
    **{name: _sum_over_pairs(name) for name in PAIRS},
    **{name: _sum_over_records(name) for name in RECORDS},
    "nca_pair": _of_each_answer(lambda w, c: -ls(c.beta * w) - ls(-c.beta * w) / 2, lambda l, c: -ls(-c.beta * l) / 2),
    "apo_zero": _of_each_answer(lambda w, c: 1 - S(c.beta * w), lambda l, c: S(c.beta * l)),
    "apo_down": lambda B, c: (
        mean(B, lambda e: S(c.beta * R(e["chosen"])))
        + mean(B, lambda e: 1 - S(c.beta * (R(e["chosen"]) - R(e["rejected"]))))
    ),
    "sppo_hard": _of_each_answer(lambda w, c: (w - 1 / (2 * c.beta)) ** 2, lambda l, c: (l + 1 / (2 * c.beta)) ** 2),
    "slic_hf": lambda B, c: (
        mean(B, lambda e: max(mp.mpf(0), c.delta - P(e["chosen"]) + P(e["rejected"])))
        - c.lam * mean(B, lambda e: P(e["chosen"]))
    ),
    "orpo": lambda B, c: mean(B, nll) - c.lam * mean(B, lambda e: ls(odds(e["chosen"]) - odds(e["rejected"]))),
    "cpo": lambda B, c: mean(B, lambda e: -ls(c.beta * (P(e["chosen"]) - P(e["rejected"])))) + c.alpha * mean(B, nll),
    "rpo_nll": lambda B, c: mean(B, dpo(c.beta)) + c.alpha * mean(B, nll),
    "stic": lambda B, c: mean(B, dpo(c.beta)) - mean(B, lambda e: P(e["chosen"])) / 1024,
    "sft_nll_token_mean": lambda B, c: token_mean(B),
    "aot_paired": aot_paired,
    "aot_unpaired": aot_unpaired,
    "beta_dpo_batch": beta_dpo,
    "bco_pair": bco_pair,
    "bco_unpaired": bco_unpaired,
    "kto": kto,
    "apo_zero_unpaired": lambda B, c: kto(B, c, z0=mp.mpf(0)),
    "plackett_luce": _over_lists(lambda e, c: plackett_luce(graded(e, c.beta))),
    "plackett_luce_topk": _over_lists(lambda e, c: plackett_luce(graded(e, c.beta), c.topk)),
    "s_dpo": _over_lists(lambda e, c: plackett_luce(graded(e, c.beta), 1)),
    "infonca": _over_lists(infonca),
    "nca_listwise": _over_lists(nca),
    "lipo_lambda": _over_lists(lipo),
    "pairwise_all": _over_lists(all_pairs),
    "amp_multilevel": _over_lists(lambda e, c: all_pairs(e, c, penalty=1)),
    "mdpo": lambda B, c: (
        mean(B, dpo(c.beta))
        + mean(B, dpo(c.beta, "chosen", f"chosen/{c.media}"))
        + mean(B, anchor(c.beta, delta=c.delta))
    ),
    "rdpo_realign": lambda B, c: mean(B, dpo(c.beta)) + mean(B, dpo(c.beta, "chosen", f"chosen/{c.media}")),
    "povid_code": lambda B, c: (mean(B, dpo(c.beta)) + mean(B, dpo(c.beta, "chosen", "2"))) / 2,
    "mpo_internvl": lambda B, c: c.wp * mean(B, dpo(c.beta)) + c.wq * bco_pair(B, c) + c.wg * token_mean(B),
    "chip": chip,
    "symmpo": symmpo,
    "svco": svco,
    "lpoi": lpoi,
    "opa_dpo_core": opa,
}
