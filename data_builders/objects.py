"""Captions judged by the objects that are there: `mmdpo build objects`.

`mode: rank` compares captions of one picture by CHAIR; `mode: inject` makes a wrong caption of a true one
(`data_builders.injection`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from pydantic import Field, model_validator

from data_builders.base import Builder, Work
from data_builders.injection import KINDS, Injector, Kind
from data_builders.object_rows import Caption, captions_of, pictured
from data_builders.object_sources import ImageObjects, Objects, ObjectsSource
from data_builders.splits import seeded_order
from data_builders.spool import Spool
from data_builders.table_config import UnusableError, absence_note, checked_media
from mmdpo.evals.base import Answer, Sample
from mmdpo.media import Media
from mmdpo.records import Candidate, Record, user_message
from mmdpo.registry import builders

_EXACT = 1e-9


class ObjectsConfig(ObjectsSource):
    """Configuration of `mmdpo build objects`; docs/data.md explains each key.

    Args:
        mode: `rank` compares captions, `inject` makes wrong ones.
        pairing: Of ranked captions: one pair with the largest margin, all pairs, or one list, best first.
        min_margin: Smallest distance of two scores; equal ones are never paired.
        keep_recall: Share of the objects that the worse caption finds, which the better one has to find too: a caption
            is not better because it says less.
        kinds: How often each kind of change is made, where a caption has a place for it.
    """

    mode: Literal["rank", "inject"]
    pairing: Literal["best_worst", "all", "list"] = "best_worst"
    min_margin: float = Field(0.1, ge=0.0, le=1.0)
    keep_recall: float = Field(1.0, ge=0.0, le=1.0)
    kinds: dict[Kind, float] = Field(default_factory=lambda: dict.fromkeys(KINDS, 1.0))

    @model_validator(mode="after")
    def _possible(self) -> ObjectsConfig:
        if self.mode == "rank" and not self.data:
            raise ValueError("mode rank compares captions: data names their table")
        if not any(self.kinds.values()) or any(not 0 <= weight < float("inf") for weight in self.kinds.values()):
            raise ValueError("kinds are weights from 0 on, and one of them has to be above 0")
        return self


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


@builders.register("objects")
class ObjectCaptions(Builder[ObjectsConfig]):
    """Pairs or lists of captions by the objects that are there, or wrong captions made of true ones."""

    Config = ObjectsConfig
    sound_reasons = ("duplicate_row", "no_objects", "single_caption", "no_margin", "not_selected", "no_place")

    def media_root(self, config: ObjectsConfig) -> Any:
        """Folder that the records' media paths are relative to."""
        return config.root

    def records(self, config: ObjectsConfig, work: Work) -> Iterator[Record]:
        """See `Builder.records`."""
        objects = Objects(config)
        spool = Spool(work.scratch / "captions.jsonl", Caption.to_json, lambda values: Caption(*values))
        spool.extend(captions_of(config, objects, work))
        media = {key: objects.media(objects.images[key]) for key in dict.fromkeys(caption.image for caption in spool)}
        checked = checked_media(media.values(), config, work)
        absent = dict[str, bool]()
        injector = Injector(objects, config.kinds, config.seed)
        for part in spool.parts(lambda caption: caption.image):
            groups: dict[tuple[str, str], list[Caption]] = defaultdict(list)
            for caption in part:
                item = checked[media[caption.image]]
                if isinstance(item, Media):
                    groups[caption.image, caption.prompt].append(caption)
                else:
                    work.ledger.set_aside(item.kind, caption.row, media[caption.image].name, message=item.what)
            for (key, _), captions in groups.items():
                item = checked[media[key]]
                assert isinstance(item, Media)
                image, distinct = objects.images[key], _distinct(captions, work)
                if config.mode == "inject":
                    made = _injected(distinct, image, injector, work)
                else:
                    made = _ranked(_judged(distinct, image, objects, work), config, work)
                for record in made:
                    absent[item.identity] = item.sha256 is None
                    yield pictured(record, item, config)
        work.notes += absence_note(absent)
        work.quality |= {"source": config.source}
        if config.mode == "inject":
            work.quality["injections"] = injector.account()


def _distinct(captions: Sequence[Caption], work: Work) -> list[Caption]:
    first: dict[str, Caption] = {}
    for caption in captions:
        earlier = first.setdefault(" ".join(caption.text.casefold().split()), caption)
        if earlier is not caption:
            work.ledger.set_aside("duplicate_row", caption.row, message=f"the words of row {earlier.row}")
    return list(first.values())


def judge(caption: Caption, image: ImageObjects, objects: Objects) -> Judged:
    """What CHAIR finds in a caption."""
    sample = Sample(image.id, caption.prompt, {"images": [image.file_name]}, sorted(image.present), image.id)
    counts = objects.chair.item(image.id, sample, Answer(image.id, caption.text)).counts
    return Judged(caption, int(counts["mentions"]), int(counts["wrong_mentions"]), int(counts["found"]))


def _judged(captions: Sequence[Caption], image: ImageObjects, objects: Objects, work: Work) -> list[Judged]:
    """The captions that name an object."""
    kept = []
    for caption in captions:
        judged = judge(caption, image, objects)
        if judged.named:
            kept.append(judged)
        else:
            work.ledger.set_aside(
                "no_objects", caption.row, caption.text, message="it names nothing that is looked for"
            )
    return kept


def may_be_paired(better: Judged, worse: Judged, min_margin: float, keep_recall: float) -> bool:
    """Whether one caption is better by so much, and finds enough of what the other one finds."""
    margin = better.score - worse.score
    return margin > _EXACT and margin >= min_margin - _EXACT and better.found >= keep_recall * worse.found - _EXACT


def _ranked(judged: Sequence[Judged], config: ObjectsConfig, work: Work) -> Iterator[Record]:
    """The pairs or the list of one picture; captions that are in none go to the ledger."""
    order = sorted(judged, key=lambda one: (-one.score, -one.found, seeded_order(config.seed, one.caption.text)))
    pairs = [pair for pair in combinations(order, 2) if may_be_paired(*pair, config.min_margin, config.keep_recall)]
    rankings: list[tuple[Judged, ...]] = list(pairs)
    if config.pairing == "best_worst":
        rankings = sorted(rankings, key=lambda pair: pair[1].score - pair[0].score)[:1]  # sorting keeps ties in order
    elif config.pairing == "list":
        rankings = _lists(order, config)
    used = {one.caption.row for ranking in rankings for one in ranking}
    could = {one.caption.row for pair in pairs for one in pair}
    for one in judged:
        row = one.caption.row
        if row in used:
            work.ledger.use(row)
        elif len(judged) == 1:
            work.ledger.set_aside("single_caption", row, one.score)
        else:
            work.ledger.set_aside("not_selected" if row in could else "no_margin", row, one.score)
    for ranking in rankings:
        yield Record(
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


def _lists(order: Sequence[Judged], config: ObjectsConfig) -> list[tuple[Judged, ...]]:
    """One list in which each caption may be paired with each that follows; empty where there are no two."""
    kept: list[Judged] = []
    for one in order:
        if all(may_be_paired(better, one, config.min_margin, config.keep_recall) for better in kept):
            kept.append(one)
    return [tuple(kept)] if len(kept) > 1 else []


def _injected(captions: Sequence[Caption], image: ImageObjects, injector: Injector, work: Work) -> Iterator[Record]:
    """A pair of each caption and a wrong one made of it."""
    others = Counter(image.captions) + Counter(caption.text for caption in captions)
    for caption in captions:
        try:
            change = injector.inject(caption.text, image, list(others))
        except UnusableError as problem:
            work.ledger.set_aside(problem.reason, caption.row, problem.value, message=problem.message)
            continue
        work.ledger.use(caption.row)
        yield Record(
            id="",
            prompt=(user_message(caption.prompt),),
            candidates=(
                Candidate(caption.text, source=caption.source, spans=(change.true_span,)),
                Candidate(change.text, source=f"injected {change.kind}", spans=(change.false_span,)),
            ),
            meta={"builder": "objects", "mode": "inject", "kind": change.kind, "rows": [caption.row], **change.told},
        )
