"""CHAIR: which objects does a caption name that are not in the image?

Paper: Rohrbach et al., "Object Hallucination in Image Captioning", EMNLP 2018 (arXiv:1809.02156).
Official code: github.com/LisaAnne/Hallucination, BSD-2-Clause; recall from Maxlinn/CHAIR-metric-standalone; the data
    are COCO annotations, CC BY 4.0.
Official rule: words in the singular; pairs such as "traffic light" joined; names mapped to categories by a synonym
    table. chair_i = mentions of absent objects / all mentions, repeats counted; chair_s = captions with such a mention
    / all captions; recall = different present objects named / present objects. Present are the objects annotated and
    those that the reference captions name.
Two lineages differ by up to a point: `pattern`, the original, takes singulars from the library of that name, here from
    a table of its output; `lemma`, that of OPERA and most papers since 2023, takes WordNet lemmas by part of speech,
    here from rules without a tagger (see `LEMMA_READINGS`). docs/evals.md has their numbers on real captions.
Known quirks: with `pattern` "bus" is never found, "buses" is; "seat" is dropped beside "toilet"; names of three words
    are never joined; an image may have several captions, and each counts. The script divides by zero where no caption
    names an object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.base import Answer, Sample
from mmdpo.evals.shared.coco import image_id, read_captions, read_coco
from mmdpo.evals.shared.files import read_json
from mmdpo.evals.shared.object_captions import ObjectCaptions
from mmdpo.evals.shared.objects import ObjectNames
from mmdpo.evals.shared.options import check_choice, check_file_name, check_function, file_name
from mmdpo.evals.text import singular, tokens
from mmdpo.registry import benchmarks

LINEAGES = ("lemma", "pattern")
PROMPT = "Please describe this image in detail."
"""The prompt of most published LLaVA-type results; a shorter one names fewer objects and lowers both rates."""

LEMMA_READINGS: Mapping[str, str] = {
    "biking": "bike",
    "boating": "boat",
    "canoeing": "canoe",
    "kayaking": "kayak",
    "seated": "seat",
    "skateboarding": "skateboard",
    "skiing": "ski",
    "snowboarding": "snowboard",
    "tied": "tie",
    "vases": "vas",
}
"""What WordNet's lemmas read where a singular would not: verbs ("a person seated" names a seat), and "vas", which is
shorter than "vase". The tagger's other choices are not followed: "potted" is an adjective here."""


@benchmarks.register("chair")
@dataclass(frozen=True)
class Chair(ObjectCaptions):
    """Objects named in captions.

    Args:
        lineage: How words become singular, ``lemma`` or ``pattern``.
        synonyms: Table of names (`ObjectNames.load`); None is our own for the 80 COCO categories.
        singulars: Table of the singulars of `pattern`, JSON ``{"singular_of": {token: singular}}``.
        prompt: What the model is asked.
        lemmatize: Takes the place of the rules of the lemma lineage: from a caption to its lower-case lemmas.
        image_name: File name of an image, made from its ``{id}``, such as ``COCO_val2014_{id:0>12}.jpg``; None takes
            what the data say.
        media: What the captions describe, as the list of a record is called; ``audios`` for sounds.
        at_recall: Also gives the rates at this recall (`mmdpo.evals.coverage`).
        at_objects: Also gives the rates at this number of mentions per caption.
    """

    lineage: str = "lemma"
    synonyms: str | Path | None = None
    singulars: str | Path | None = None
    prompt: str = PROMPT
    lemmatize: Callable[[str], Sequence[str]] | None = None
    image_name: str | None = None
    media: str = "images"
    name = "chair"
    id_keys = ("image_id", "image")
    text_keys = ("caption", "text", "answer")

    def __post_init__(self) -> None:
        fix = "lemma is the default; pattern is the original and needs --singulars."
        check_choice(self.name, "lineage", self.lineage, LINEAGES, fix)
        if (self.lineage == "pattern") != (self.singulars is not None):
            raise ConfigError(
                f"lineage {self.lineage!r} with singulars {str(self.singulars)!r}",
                why="The pattern lineage takes every singular from a table, the lemma lineage none.",
                fix="Give --lineage pattern and --singulars FILE together.",
            )
        check_function(self.name, "lemmatize", self.lemmatize)
        check_file_name("image_name", self.image_name)
        if self.lineage == "pattern" and self.lemmatize is not None:
            raise ConfigError(
                "lineage 'pattern' with a lemmatizer",
                why="It would never be called: the pattern lineage takes every singular from its table.",
                fix="Hand a lemmatizer to the lemma lineage.",
            )
        _ = self.targets  # says at once if a level cannot be reached

    @property
    def rule(self) -> str:
        """Lineage, and the tables and tools where they are not our own."""
        tables = {"synonyms": self.synonyms, "singulars": self.singulars}
        parts = [self.lineage, *(f"{name} {Path(path).name}" for name, path in tables.items() if path)]
        tools = ["given lemmatizer"] if self.lemmatize else []
        return "; ".join([*parts, *tools, *(str(target) for target in self.targets)])

    @cached_property
    def names(self) -> ObjectNames:
        """The table of names in use."""
        return ObjectNames.load(None if self.synonyms is None else Path(self.synonyms))

    def samples(self, data: Path) -> list[Sample]:
        """One sample per image of a JSON file ``{image_id: [objects]}`` or a folder of COCO annotations."""
        if data.is_dir():
            return self._coco_samples(data)
        table = read_json(data)
        if not isinstance(table, dict) or not table:
            raise DataError(
                f"{str(data)!r} is no table of images",
                why="Objects are looked up by image.",
                fix='Write {"image_id": ["dog", "car"]}, or give a folder with COCO instances and captions.',
            )
        return [self._sample(image, entry, str(data)) for image, entry in table.items()]

    def sample_id(self, raw: Any) -> str:
        """The bare id: 42 for 42, "000000000042.jpg" and "COCO_val2014_000000000042.jpg"."""
        return image_id(raw)

    def read_answers(self, path: Path) -> list[Answer]:
        """The captions of JSON lines, a JSON list, or the official form ``{"imgToEval": {id: {caption}}}``."""
        return self.answers(read_captions(path), str(path))

    @property
    def modality(self) -> str:
        """What the captions describe, as the list of a record is called."""
        return self.media

    def base_words(self, text: str) -> list[str]:
        """The words of a caption in the singular, as the lineage has it."""
        if self.lemmatize is not None:
            return list(self.lemmatize(text))
        words = tokens(text.lower())
        if self.lineage == "pattern":
            # A word that the table lacks is none of CHAIR's; the empty string is in no table of names.
            return [self._pattern_singulars.get(word, "") for word in words]
        return [LEMMA_READINGS.get(word) or singular(word, self.names.words) for word in words]

    @cached_property
    def _pattern_singulars(self) -> Mapping[str, str]:
        path = Path(str(self.singulars))
        table = read_json(path)
        table = table.get("singular_of", table) if isinstance(table, dict) else None
        if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
            raise DataError(
                f"{str(path)!r} is no table of singulars",
                why="The pattern lineage needs the singular of every word.",
                fix='Write {"singular_of": {"dogs": "dog"}}.',
            )
        return table

    def _sample(self, image: str, entry: Any, origin: str, file: str | None = None) -> Sample:
        if not isinstance(entry, list) or not all(isinstance(name, str) for name in entry):
            raise DataError(
                f"image {image!r} of {origin} has no list of object names: {str(entry)[:80]}",
                why="Every object that its captions name would count as hallucinated.",
                fix="Write a list of names, which may be empty.",
            )
        objects = sorted({str(self.names.category_of.get(name, name)) for name in entry})
        sample_id = self.sample_id(image)
        shown = file_name(self.image_name, sample_id, file or image)
        return Sample(sample_id, self.prompt, {self.media: [shown]}, objects, sample_id)

    def _coco_samples(self, folder: Path) -> list[Sample]:
        """Objects that are annotated, and those that the reference captions name by this same rule."""
        samples = []
        for image, annotated in read_coco(folder).items():
            named = (self.names.mentions(self.base_words(caption)) for caption in annotated.captions)
            objects = annotated.categories | {mention.category for mentions in named for mention in mentions}
            samples.append(self._sample(image, sorted(objects), str(folder), annotated.file_name))
        return samples
