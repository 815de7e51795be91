"""Captions judged by the objects that are there: `mmdpo build objects`.

`mode: rank` compares captions of one picture by CHAIR; `mode: inject` makes a wrong caption of a true one
(`data_builders.injection`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from data_builders.base import Builder, Work
from data_builders.injection import KINDS, Injector, Kind
from data_builders.object_ranking import Judged, RankingRules, judge, ranked, ranking_record
from data_builders.object_rows import Caption, captions_of, pictured, pictures_of
from data_builders.object_sources import ImageObjects, Objects
from data_builders.tables.config import UnusableError, absence_note, checked_media
from data_builders.tables.spool import Spool
from mmdpo.media import Media
from mmdpo.records import Candidate, Record, user_message
from mmdpo.registry import builders


class ObjectsConfig(RankingRules):
    """Configuration of `mmdpo build objects`; docs/data.md explains each key.

    Args:
        mode: `rank` compares captions, `inject` makes wrong ones.
        kinds: How often each kind of change is made, where a caption has a place for it.
    """

    mode: Literal["rank", "inject"]
    kinds: dict[Kind, float] = Field(default_factory=lambda: dict.fromkeys(KINDS, 1.0))

    @model_validator(mode="after")
    def _possible(self) -> ObjectsConfig:
        if self.mode == "rank" and not self.data:
            raise ValueError("mode rank compares captions: data names their table")
        if not any(self.kinds.values()) or any(not 0 <= weight < float("inf") for weight in self.kinds.values()):
            raise ValueError("kinds are weights from 0 on, and one of them has to be above 0")
        return self


@builders.register("objects")
class ObjectCaptions(Builder[ObjectsConfig]):
    """Pairs or lists of captions by the objects that are there, or wrong captions made of true ones."""

    Config = ObjectsConfig
    sound_reasons = (
        *("duplicate_row", "no_objects", "single_caption", "no_margin", "not_selected", "length_balance"),
        "no_place",
    )

    def media_root(self, config: ObjectsConfig) -> Any:
        """Folder that the records' media paths are relative to."""
        return config.root

    def records(self, config: ObjectsConfig, work: Work) -> Iterator[Record]:
        """See `Builder.records`."""
        objects = Objects(config)
        spool = Spool(work.scratch / "captions.jsonl", Caption.to_json, lambda values: Caption(*values))
        spool.extend(captions_of(config, objects, work))
        media = pictures_of(spool, objects, config, work)
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
            for record, key in _made(groups, objects, injector, config, work):
                item = checked[media[key]]
                assert isinstance(item, Media)
                absent[item.identity] = item.sha256 is None
                yield pictured(record, item, config)
        work.notes += absence_note(absent)
        work.quality |= {"source": config.source}
        if config.mode == "inject":
            work.quality["injections"] = injector.account()


def _made(
    groups: Mapping[tuple[str, str], Sequence[Caption]],
    objects: Objects,
    injector: Injector,
    config: ObjectsConfig,
    work: Work,
) -> Iterator[tuple[Record, str]]:
    """The records of some pictures, each with the key of its picture."""
    judged: dict[str, list[list[Judged]]] = defaultdict(list)
    for (key, _), captions in groups.items():
        image, distinct = objects.images[key], _distinct(captions, work)
        if config.mode == "inject":
            yield from ((record, key) for record in _injected(distinct, image, injector, work))
        else:
            judged[key].append(_judged(distinct, image, objects, work))
    for ranking in ranked(judged, config, work.ledger):
        yield ranking_record(ranking), ranking[0].caption.image


def _distinct(captions: Sequence[Caption], work: Work) -> list[Caption]:
    first: dict[str, Caption] = {}
    for caption in captions:
        earlier = first.setdefault(" ".join(caption.text.casefold().split()), caption)
        if earlier is not caption:
            work.ledger.set_aside("duplicate_row", caption.row, message=f"the words of row {earlier.row}")
    return list(first.values())


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
