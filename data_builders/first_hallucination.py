"""Pairs that go apart at the first wrong sentence: `mmdpo build first_hallucination`.

Of a caption the sentences before the first one that names an absent object are kept. Both answers begin with them; the
rejected one ends with the wrong sentence, the chosen one with a right sentence of another caption of the same picture.
Only these two are marked, so that losses that read marks leave the shared beginning out (SENTINEL, Peng et al. 2025,
arXiv 2507.12455).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import model_validator

from data_builders.base import Builder, Work
from data_builders.object_rows import Caption, captions_of, pictured, pictures_of
from data_builders.object_sources import ImageObjects, Objects, ObjectsSource
from data_builders.splits import seeded_order
from data_builders.tables.config import absence_note, checked_media
from data_builders.tables.spool import Spool
from mmdpo.media import Media
from mmdpo.records import Candidate, Record, user_message
from mmdpo.records.marks import sentences  # where a sentence ends; abbreviations and initials are known there
from mmdpo.registry import builders

_SAME_WORDS = 0.5  # more of the words of two sentences in both: they say nearly the same
_MOST_LENGTHS = 2.0  # a continuation is at most so many times as long as the other: length must not tell them apart


class FirstHallucinationConfig(ObjectsSource):
    """Configuration of `mmdpo build first_hallucination`; docs/data.md explains each key.

    Args:
        continuation: What the chosen answer goes on with. `same_object`: a right sentence of another caption that names
            an object which the wrong sentence names too, or which is there; `any`: any right sentence of another one.
    """

    continuation: Literal["same_object", "any"] = "same_object"

    @model_validator(mode="after")
    def _has_captions(self) -> FirstHallucinationConfig:
        if not self.data:
            raise ValueError("data names the table of captions")
        return self


@dataclass(frozen=True, slots=True)
class Split:
    """A caption cut into sentences.

    Args:
        caption: The caption.
        spans: Its sentences.
        named: The categories that each names.
        wrong: Number of the first sentence that names an absent object; None where none does.
    """

    caption: Caption
    spans: tuple[tuple[int, int], ...]
    named: tuple[frozenset[str], ...]
    wrong: int | None

    def sentence(self, number: int) -> str:
        """One sentence."""
        return self.caption.text[slice(*self.spans[number])]


@builders.register("first_hallucination")
class FirstHallucination(Builder[FirstHallucinationConfig]):
    """Pairs with the same beginning that go apart at the first sentence that names an absent object."""

    Config = FirstHallucinationConfig
    sound_reasons = ("duplicate_row", "no_hallucination", "no_continuation")

    def media_root(self, config: FirstHallucinationConfig) -> Any:
        """Folder that the records' media paths are relative to."""
        return config.root

    def records(self, config: FirstHallucinationConfig, work: Work) -> Iterator[Record]:
        """See `Builder.records`."""
        objects = Objects(config)
        spool = Spool(work.scratch / "captions.jsonl", Caption.to_json, lambda values: Caption(*values))
        spool.extend(captions_of(config, objects, work))
        media = pictures_of(spool, objects, config, work)
        checked = checked_media(media.values(), config, work)
        absent, places = dict[str, bool](), Counter[int]()
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
                for record in _pairs(captions, objects.images[key], objects, config, work):
                    places[record.meta["sentence"]] += 1
                    absent[item.identity] = item.sha256 is None
                    yield pictured(record, item, config)
        work.notes += absence_note(absent)
        work.quality |= {"source": config.source, "first_wrong_sentence": {str(n): places[n] for n in sorted(places)}}


def cut(caption: Caption, image: ImageObjects, objects: Objects) -> Split:
    """A caption cut into sentences, with what each of them names."""
    spans, named = tuple(sentences(caption.text)), objects.named(caption.text)
    inside = tuple(frozenset(name.category for name in named if start <= name.start < end) for start, end in spans)
    wrong = next((number for number, found in enumerate(inside) if found - image.present), None)
    return Split(caption, spans, inside, wrong)


def _pairs(
    captions: Sequence[Caption], image: ImageObjects, objects: Objects, config: FirstHallucinationConfig, work: Work
) -> Iterator[Record]:
    """The pairs of one picture and prompt; each caption is the rejected answer of at most one."""
    first: dict[str, Split] = {}
    for caption in captions:
        split = cut(caption, image, objects)
        earlier = first.setdefault(caption.text, split)
        if earlier is not split:
            work.ledger.set_aside("duplicate_row", caption.row, message=f"as row {earlier.caption.row}")
    splits = list(first.values())
    used: set[int] = set()
    reasons: dict[int, tuple[str, str]] = {}
    beginnings: dict[str, int] = {}
    for split in splits:
        row = split.caption.row
        if split.wrong is None:
            reasons[row] = "no_hallucination", "and no pair needs a sentence of it"
            continue
        beginning = split.caption.text[: split.spans[split.wrong][1]]
        found = _continuation(split, splits, image, config)
        if beginnings.setdefault(beginning, row) != row:
            reasons[row] = "duplicate_row", f"up to its first wrong sentence as row {beginnings[beginning]}"
        elif found is None:
            wrong = split.sentence(split.wrong)
            reasons[row] = "no_continuation", f"no other caption has a right sentence in place of {wrong!r}"
        else:
            used |= {row, found[0].caption.row}
            yield _record(split, split.wrong, *found, image)
    for split in splits:
        row = split.caption.row
        if row in used:
            work.ledger.use(row)
        else:
            work.ledger.set_aside(reasons[row][0], row, message=reasons[row][1])


def _continuation(
    split: Split, splits: Sequence[Split], image: ImageObjects, config: FirstHallucinationConfig
) -> tuple[Split, int] | None:
    """A right sentence of another caption, from about the same place; None where there is none.

    It says nothing that the beginning says already, and is about as long as the wrong one.
    """
    assert split.wrong is not None
    said = [_words(split.sentence(number)) for number in range(split.wrong)]
    told = frozenset[str]().union(*split.named[: split.wrong])
    length = len(split.sentence(split.wrong).split())
    found: list[tuple[tuple[int, str], Split, int]] = []
    for other in splits:
        if other.caption.text == split.caption.text:
            continue
        for number, named in enumerate(other.named):
            text = other.sentence(number)
            words = len(text.split())
            is_like = length <= _MOST_LENGTHS * words and words <= _MOST_LENGTHS * length
            is_new = not any(_alike(_words(text), before) for before in said)
            opens = (number == 0) == (split.wrong == 0)  # a first sentence introduces the picture, others go on
            is_right = not named - image.present and is_like and is_new and opens
            is_about_it = bool(named & split.named[split.wrong] or named - told)
            if is_right and (config.continuation == "any" or is_about_it):
                key = (abs(number - split.wrong), seeded_order(config.seed, split.caption.text, text))
                found.append((key, other, number))
    if not found:
        return None
    _, other, number = min(found, key=lambda one: one[0])
    return other, number


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


def _alike(words: frozenset[str], others: frozenset[str]) -> bool:
    """Whether two sentences say nearly the same: most of the words of the two are in both."""
    return len(words & others) > _SAME_WORDS * len(words | others)


def _record(split: Split, wrong: int, other: Split, number: int, image: ImageObjects) -> Record:
    start = split.spans[wrong][0]
    prefix = split.caption.text[:start]
    endings = [other.sentence(number), split.sentence(wrong)]
    sources = [other.caption.source, split.caption.source]
    return Record(
        id="",
        prompt=(user_message(split.caption.prompt),),
        candidates=tuple(
            Candidate(prefix + ending, source=source, spans=((start, start + len(ending)),))
            for ending, source in zip(endings, sources, strict=True)
        ),
        meta={
            "builder": "first_hallucination",
            "sentence": wrong + 1,
            "absent": sorted(split.named[wrong] - image.present),
            "rows": [other.caption.row, split.caption.row],
        },
    )
