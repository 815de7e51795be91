"""Random optimizer steps, once as plain numbers for the oracle and once as a score table."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from mmdpo.views import ScoreTable, View
from objectives.oracle import Number, Record, Text, mp
from objectives.tables import NAN, Answer, table

Mode = Literal["usual", "same", "far", "missing", "ties", "unrated"]
MODES: tuple[Mode, ...] = ("usual", "same", "far", "missing", "ties", "unrated")
MOVED = {"p": "logp", "kl": "token_kl", "logit": "logit", "entropy": "entropy"}
"""The policy's numbers of a text, and the columns of the table that they are."""


@dataclass(frozen=True)
class Step:
    """Some records, their table, and which row is which answer."""

    records: list[Record]
    table: ScoreTable
    rows: list[tuple[int, str]]


def draw(seed: int, views: Sequence[View], mode: Mode, farthest: float = 1e4, severity: bool = False) -> Step:
    """A step that has the answers that some views name.

    Args:
        seed: Of everything.
        views: What a loss reads.
        mode: ``same``: the policy is the reference; ``far``: log-ratios up to ``farthest``; ``missing``: answers,
            ratings and labels are missing; ``ties``: equal ratings, equal lengths, equal log-probabilities;
            ``unrated``: no ratings.
        farthest: Largest log-ratio in nats.
        severity: Ratings are those of data where lower is better.
    """
    rng = random.Random(f"{seed} {mode}")
    records, answers = [], []
    for n in range(rng.randint(3, 5)):
        record = _record(rng, views, mode, farthest)
        count = 9
        record.scores = {k: _score(rng, mode, severity) for k in range(count)}
        if mode == "missing" and rng.random() < 0.3:
            record.scores[rng.randrange(3)] = NAN
        if not severity and rng.random() < 0.7:  # most pairs are in order
            record.scores[0], record.scores[1] = sorted((record.scores[0], record.scores[1]), reverse=True)
        record.labels = {0: 1, 1: -1} | {k: rng.choice((1, -1, 0)) for k in range(2, count)}
        records.append(record)
        answers += [(n, name, _row(n, name, record)) for name in record.texts]
    rng.shuffle(answers)
    return Step(records, table([answer for *_, answer in answers]), [(n, name) for n, name, _ in answers])


def _record(rng: random.Random, views: Sequence[View], mode: Mode, farthest: float) -> Record:
    """Answers of one record: a candidate has the same tokens under all media."""
    names = {str(view) for view in views}
    if "every" in names:
        names |= {str(View(k)) for k in range(rng.randint(2, 8))}
        names.remove("every")
    texts: dict[str, Text] = {}
    bodies: dict[str, Text] = {}
    for name in sorted(names):
        candidate = name.partition("/")[0]
        shape = bodies.setdefault(candidate, _text(rng, mode, farthest))
        fresh = _text(rng, mode, farthest, len(shape))
        if mode == "ties" and rng.random() < 0.5:  # another answer of the record has the same log-probabilities
            first = next(iter(bodies.values()))
            fresh = replace(fresh, p=list(first.p), r=list(first.r))
        texts[name] = replace(fresh, a=shape.a, marks=shape.marks)
        if mode == "missing" and rng.random() < 0.15:
            del texts[name]
    return Record(texts)


def _text(rng: random.Random, mode: Mode, farthest: float, length: int | None = None) -> Text:
    length = length or (4 if mode == "ties" else rng.choice((1, 2, 3, rng.randint(1, 60))))
    tokens = range(length)
    p = [-rng.expovariate(1.0) - 1e-3 for _ in tokens]
    r = [min(-1e-6, value + rng.gauss(0, 1.0) / length**0.5) for value in p]
    if mode == "same":
        r = list(p)
    if mode == "far":
        gap = rng.choice((1.0, -1.0)) * farthest * rng.choice((1.0, 0.3, 0.01)) * rng.uniform(0.8, 1)
        p, r = (p, [v - gap / length for v in p]) if gap > 0 else ([v + gap / length for v in r], r)
    plain = rng.random() < 0.5
    a = [1.0 if plain else rng.choice((1.0, 0.5, 2.0, 0.0)) for _ in tokens]
    return Text(
        p=p,
        r=r,
        a=[1.0, *a[1:]],
        marks=[rng.random() < 0.4 for _ in tokens],
        kl=[rng.expovariate(3.0) for _ in tokens],
        entropy=[rng.uniform(0, 3) for _ in tokens],
        squares=[rng.uniform(0.05, 1) for _ in tokens],
        logit=[rng.gauss(5, 3) for _ in tokens],
        logit_ref=[rng.gauss(5, 3) for _ in tokens],
    )


def _score(rng: random.Random, mode: Mode, severity: bool) -> float:
    if mode == "unrated":
        return NAN
    if severity:
        return -rng.choice((0.0, 1.0, rng.uniform(0, 15)))
    return float(rng.randint(0, 2)) if mode == "ties" else rng.uniform(0, 5)


def _row(n: int, name: str, record: Record) -> Answer:
    text = record.texts[name]
    candidate = View.parse(name).candidate
    return Answer(
        n,
        name,
        text.p,
        text.r,
        weight=text.a,
        marks=text.marks,
        score=record.scores.get(candidate, NAN),
        label=record.labels.get(candidate, 0),
        statistics={
            "token_kl": text.kl,
            "logit": text.logit,
            "entropy": text.entropy,
            "sum_squared_probability": text.squares,
        },
        ref_statistics={"logit": text.logit_ref},
    )


def moved(step: Step, seed: int) -> tuple[dict[str, torch.Tensor], list[list[Record]]]:
    """A direction in the space of the policy's numbers, and the records moved a little along it, both ways."""
    rng = random.Random(seed)
    tiny = mp.mpf(10) ** -20
    direction = {column: torch.zeros_like(step.table.logp) for column in MOVED.values()}
    forth = [replace(record, texts={}) for record in step.records]
    back = [replace(record, texts={}) for record in step.records]
    for row, (n, name) in enumerate(step.rows):
        text = step.records[n].texts[name]
        up, down = {}, {}
        for what, column in MOVED.items():
            values: list[Number] = getattr(text, what)
            steps = [rng.uniform(-1, 1) for _ in values]
            direction[column][row, : len(values)] = torch.tensor(steps, dtype=torch.float64)
            up[what] = [value + tiny * own for value, own in zip(values, steps, strict=True)]
            down[what] = [value - tiny * own for value, own in zip(values, steps, strict=True)]
        forth[n].texts[name] = replace(text, **up, still=text)
        back[n].texts[name] = replace(text, **down, still=text)
    return direction, [forth, back]
