"""Captions of one picture compared by the objects that they name: pairs and lists, capped and balanced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from pydantic import Field

from data_builders.base import Ledger
from data_builders.object_rows import Caption
from data_builders.object_sources import ImageObjects, Objects, ObjectsSource
from data_builders.rating.pairing import balanced, widest
from data_builders.splits import seeded_order
from mmdpo.evals.base import Answer, Sample
from mmdpo.records import Candidate, Record, user_message

_EXACT = 1e-9


class RankingRules(ObjectsSource):
    """Which captions become records.

    Args:
        pairing: Of ranked captions: one pair with the largest margin, all pairs, or one list, best first.
        min_margin: Smallest distance of two scores; equal ones are never paired.
        keep_recall: Share of the objects that the worse caption finds, which the better one has to find too: a caption
            is not better because it says less.
        max_pairs_per_image: Cap over all prompts of a picture; those with the largest margin stay.
        balance_length: Leave out pairs, those with the smallest margins first, until the longer answer is chosen as
            often as the shorter one.
    """

    pairing: Literal["best_worst", "all", "list"] = "best_worst"
    min_margin: float = Field(0.1, ge=0.0, le=1.0)
    keep_recall: float = Field(1.0, ge=0.0, le=1.0)
    max_pairs_per_image: int | None = Field(None, ge=1)
    balance_length: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """A caption with how many objects it names, how many of them are absent, and how many different ones it finds."""

    caption: Caption
    named: int
    wrong: int
    found: int

    @property
    def score(self) -> float:
        """Share of the named objects that are there: 1 - chair_i of this caption."""
        return 1.0 - self.wrong / self.named


Ranked = tuple[Judged, ...]
"""Captions of one picture and prompt, best first."""


def judge(caption: Caption, image: ImageObjects, objects: Objects) -> Judged:
    """What CHAIR finds in a caption."""
    sample = Sample(image.id, caption.prompt, {"images": [image.file_name]}, sorted(image.present), image.id)
    counts = objects.chair.item(image.id, sample, Answer(image.id, caption.text)).counts
    return Judged(caption, int(counts["mentions"]), int(counts["wrong_mentions"]), int(counts["found"]))


def may_be_paired(better: Judged, worse: Judged, rules: RankingRules) -> bool:
    """Whether one caption is better by so much, and finds enough of what the other one finds."""
    margin = better.score - worse.score
    finds_enough = better.found >= rules.keep_recall * worse.found - _EXACT
    return margin > _EXACT and margin >= rules.min_margin - _EXACT and finds_enough


def ranked(pictures: Mapping[str, Sequence[Sequence[Judged]]], rules: RankingRules, ledger: Ledger) -> list[Ranked]:
    """The pairs or lists of some pictures; captions that are in none go to the ledger.

    Args:
        pictures: By picture, the captions of each prompt.
        rules: What becomes a record.
        ledger: Gets every caption.
    """
    made: list[Ranked] = []
    could: set[int] = set()
    for groups in pictures.values():
        proposed = [one for group in groups for one in _proposed(group, rules, could)]
        proposed.sort(key=lambda one: _strongest(one, rules.seed))
        made += proposed[: rules.max_pairs_per_image]
    kept = balanced(made, _lengths, lambda one: _strongest(one, rules.seed)) if rules.balance_length else made
    used, unbalanced = ({one.caption.row for ranking in some for one in ranking} for some in (kept, made))
    for group in (group for groups in pictures.values() for group in groups):
        for one in group:
            row = one.caption.row
            if row in used:
                ledger.use(row)
            elif len(group) == 1:
                ledger.set_aside("single_caption", row, one.score)
            elif row in unbalanced:
                ledger.set_aside("length_balance", row, one.score)
            else:
                ledger.set_aside("not_selected" if row in could else "no_margin", row, one.score)
    return kept


def ranking_record(ranking: Ranked) -> Record:
    """The record of a ranking, without its picture."""
    return Record(
        id="",
        prompt=(user_message(ranking[0].caption.prompt),),
        candidates=tuple(
            Candidate(one.caption.text, score=round(one.score, 6), source=one.caption.source) for one in ranking
        ),
        higher_is_better=True,
        meta={
            "builder": "objects",
            "mode": "rank",
            "margin": ranking[0].score - ranking[-1].score,
            "chair": [{"named": one.named, "wrong": one.wrong, "found": one.found} for one in ranking],
            "rows": [one.caption.row for one in ranking],
        },
    )


def _proposed(judged: Sequence[Judged], rules: RankingRules, could: set[int]) -> list[Ranked]:
    """The rankings of one picture and prompt; ``could`` gets the rows of all captions that may be paired."""
    order = sorted(judged, key=lambda one: (-one.score, -one.found, seeded_order(rules.seed, one.caption.text)))
    pairs: list[Ranked] = [pair for pair in combinations(order, 2) if may_be_paired(*pair, rules)]
    could |= {one.caption.row for pair in pairs for one in pair}
    if rules.pairing == "best_worst":
        return widest(pairs, lambda pair: pair[0].score - pair[-1].score)
    return _lists(order, rules) if rules.pairing == "list" else pairs


def _lists(order: Sequence[Judged], rules: RankingRules) -> list[Ranked]:
    """One list in which each caption may be paired with each that follows; empty where there are no two."""
    kept: list[Judged] = []
    for one in order:
        if all(may_be_paired(better, one, rules) for better in kept):
            kept.append(one)
    return [tuple(kept)] if len(kept) > 1 else []


def _lengths(ranking: Ranked) -> tuple[int, int]:
    return len(ranking[0].caption.text.split()), len(ranking[-1].caption.text.split())


def _strongest(ranking: Ranked, seed: int) -> tuple[float, str]:
    """Largest margin first."""
    texts = (one.caption.text for one in ranking)
    return -round(ranking[0].score - ranking[-1].score, 9), seeded_order(seed, ranking[0].caption.image, *texts)
