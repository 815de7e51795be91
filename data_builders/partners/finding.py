"""From records to partners: what they show, how similar that is, and which go together."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_builders.asking.prompt_sources import media_key
from data_builders.base import Work
from data_builders.care.near_copies import Look, looks
from data_builders.counterfactual_config import CounterfactualConfig
from data_builders.object_sources import Objects, ObjectsSource
from data_builders.partners.likeness import (
    Features,
    bags,
    codes,
    comparable,
    embeddings,
    in_order,
    matched,
    most_similar,
)
from data_builders.partners.partnering import Pairing, given_pairs
from data_builders.partners.scenes import Scene, Truth, present_in
from mmdpo.media import Media
from mmdpo.models.clip_score import ClipScore
from mmdpo.records import Record, prompt_text


class Partners:
    """Takes records, then finds their partners.

    Args:
        config: What makes two of them partners.
        work: Gets the account of every record, and the numbers.
    """

    def __init__(self, config: CounterfactualConfig, work: Work) -> None:
        self._config, self._work = config, work
        self._scenes: dict[str, Scene] = {}
        self._objects = None
        self._unpacked: Path | None = None
        if config.annotations is not None:
            names = ("annotations", "categories", "min_score", "synonyms")
            self._objects = Objects(ObjectsSource(**{name: getattr(config, name) for name in names}))

    def add(self, number: int, record: Record) -> None:
        """Takes a record whose media can be used."""
        key = media_key(record)
        if key not in self._scenes:
            media = {plural: tuple(map(self._light, items)) for plural, items in record.media.items()}
            scene = self._scenes[key] = Scene(media)
            scene.present = None if self._objects is None else present_in(scene.items, self._objects)
        question = zlib.crc32(prompt_text(record).casefold().encode("utf-8", "surrogatepass"))
        self._scenes[key].add(number, record.id, question, record.candidates[0].text, self._objects)

    def find(self) -> dict[int, dict[str, Any]]:
        """Row -> what a record's `meta` says of its partner; every other record that was taken is set aside."""
        scenes, config = list(self._scenes.values()), self._config
        seen = self._looks(scenes)
        if config.similar == "given":
            alike = given_pairs(scenes, config, self._work)
        else:
            groups = comparable(scenes)
            found = most_similar(self._features(scenes, seen), groups, config.neighbours, config.min_similarity)
            alike = in_order(found, list(self._scenes), config.seed)
        pairing = Pairing(scenes, seen, Truth(scenes, config.max_shared))
        for one, late in matched(alike, pairing.fits, one_way=config.one_way):
            pairing.join(one, late)
        pairing.account(alike, self._work.ledger)
        self._work.quality["partners"] = {"similar": config.similar, **pairing.numbers(alike)}
        return {row: {**told, "similar": config.similar} for row, told in pairing.made.items()}

    def _light(self, item: Media) -> Media:
        """An item without its bytes: those of embedded ones wait in a file."""
        if item.data is None:
            return item
        self._unpacked = self._work.scratch / "unpacked"
        self._unpacked.mkdir(exist_ok=True)
        path = self._unpacked / item.identity
        if not path.exists():
            path.write_bytes(item.data)
        return Media(item.path, item.identity)

    def _files(self, scenes: Sequence[Scene]) -> tuple[dict[Media, Media], Path | None]:
        """Every item as it can be opened, and from which folder."""
        items = dict.fromkeys(item for scene in scenes for item in scene.items)
        if self._unpacked is None:
            return {item: item for item in items}, self._config.opened[1]
        return {item: Media(item.identity, item.sha256) for item in items}, self._unpacked

    def _looks(self, scenes: Sequence[Scene]) -> list[list[Look] | None]:
        """The look of every picture of each scene; None for other media, and where one cannot be seen."""
        files, root = self._files([scene for scene in scenes if set(scene.media) == {"images"}])
        seen = {file: look for file, look in looks(files.values(), root) if look is not None}
        shown = [[seen.get(files.get(item, item)) for item in scene.items] for scene in scenes]
        unseen = sum(None in one and "images" in scene.media for one, scene in zip(shown, scenes, strict=True))
        if unseen:
            self._work.notes.append(
                f"the pictures of {unseen} of {len(scenes)} scenes cannot be opened: near copies of them are not told"
            )
        return [None if None in one else [look for look in one if look] for one in shown]

    def _features(self, scenes: Sequence[Scene], seen: Sequence[list[Look] | None]) -> Features:
        config = self._config
        if config.similar == "words":
            return bags([scene.told for scene in scenes])
        if config.similar == "objects":
            return bags([scene.present or () for scene in scenes])
        if config.similar == "look":
            return codes(seen)
        assert config.weights is not None
        files, root = self._files(scenes)
        return embeddings(scenes, files, ClipScore.load(config.model, config.weights), root, self._work)
