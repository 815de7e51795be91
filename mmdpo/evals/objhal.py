"""Object HalBench: which COCO objects does a detailed answer name that are not in the image?

Paper: Yu et al., "RLHF-V: Towards Trustworthy MLLMs via Behavior Alignment from Fine-grained Correctional Human
    Feedback", CVPR 2024 (arXiv:2312.00849), after the measure of Rohrbach et al., EMNLP 2018.
Official code: github.com/RLHF-V/RLHF-V, research use; its data CC BY-NC 4.0, COCO's annotations CC BY 4.0.
Official rule: CHAIR's scan for names (`shared.objects`), by RLHF-V's own table of names. Without GPT every word
    is read as WordNet's lemma of a noun, and repeats count. With GPT a model lists the objects of an answer; of each,
    pairs of words that are a name are taken, or else its nouns side by side; a name counts once in an answer. Present
    are the objects annotated and those that the reference captions name, read without GPT.
    response_hallucination = answers with an absent object / answers with any object; object_hallucination = mentions of
    absent objects / mentions; recall = different present objects named / present objects; chair_s = answers with an
    absent object / answers; words = pieces between single spaces / answers.
Known quirks: with GPT an answer of at most three words names nothing; "men" and "vases" are never found; line breaks
    part no words; "Assistant:" is cut out. The script divides by zero where no answer names an object, and stops where
    a reply of GPT holds no list; here such an answer names nothing, and a flag counts it.
Here the objects that a judge or a given function lists are read without spaCy: determiners and small numbers are left
    out, then an object is the pairs in it or the name that it is as a whole ("wooden table" is none).
Data: JSON ``{image_id: [objects]}``, a folder of COCO annotations, or JSON lines with ``captions`` and ``instances``.
    The 300 prompts are not needed to score: an answer's image says which objects are present.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from mmdpo.errors import DataError
from mmdpo.evals.base import Answer, Item, Metric, Sample
from mmdpo.evals.chair import PROMPT as DESCRIBE
from mmdpo.evals.chair import Chair
from mmdpo.evals.judging.replies import prompted
from mmdpo.evals.judging.verdicts import AskingBenchmark
from mmdpo.evals.shared.coco import CocoImage, image_id, read_captions, read_coco
from mmdpo.evals.shared.files import read_rows
from mmdpo.evals.shared.noun_lemmas import noun_lemma
from mmdpo.evals.shared.object_captions import caption_notes
from mmdpo.evals.shared.objects import Mention, ObjectNames
from mmdpo.evals.shared.options import check_file_name, check_function, file_name
from mmdpo.evals.stats import ratio
from mmdpo.evals.text import tokens
from mmdpo.registry import benchmarks

ASK = """A model was asked about an image and answered. List every object that the answer says is visible in the image.

Question: {question}
Answer: {answer}

Take only objects that the answer names, by their names alone: no colours, numbers, materials or other properties. \
Reply with a JSON list of strings and nothing else, such as ["dog", "traffic light"]; with [] if there are none."""
"""What a judge is asked; the wording is ours."""

_FIELDS = {"question": "the question", "answer": "the model's answer"}
_DETERMINERS = frozenset(
    ["a", "an", "another", "few", "many", "one", "several", "some", "the", "two", "three", "four", "five", "six"]
)
_FENCED = re.compile(r"```(?:json)?\s(.*?)```", re.DOTALL)
_SHORT = 3
"""An answer of at most this many words names nothing where a judge lists the objects."""


class ListedNames(ObjectNames):
    """Names of objects, also as they stand in a list."""

    def listed(self, phrases: Iterable[str]) -> list[Mention]:
        """The objects in a list of phrases such as "two traffic lights", each name once."""
        found: dict[str, None] = {}
        for phrase in phrases:
            words = [noun_lemma(token, self.words) for token in tokens(phrase.lower())]
            while words and words[0] in _DETERMINERS:
                words = words[1:]
            found |= dict.fromkeys(self._joined(words) or [" ".join(words)])
        kept = [name for name in found if name != "seat" or "toilet" not in found]
        return [Mention(name, self.category_of[name]) for name in kept if name in self.category_of]

    def _joined(self, words: Sequence[str]) -> list[str]:
        """The names of two words in a phrase, from left to right; a word is part of one at most."""
        names, start = [], 0
        while start < len(words):
            pair = self._pairs.get(" ".join(words[start : start + 2]))
            names += [pair] if pair else []
            start += 2 if pair else 1
        return names


@benchmarks.register("objhal")
@dataclass(frozen=True)
class ObjectHalBench(AskingBenchmark):
    """Objects named in detailed answers.

    Args:
        synonyms: Table of names (`ObjectNames.load`), officially synonyms_refine.txt; None is our own.
        prompt: What the model is asked.
        judge: Lists the objects of an answer; None reads the words without it.
        judge_prompt: File with what the judge is asked, with places {question} and {answer}.
        noun_extractor: From an answer to its objects, in the place of a judge.
        image_name: File name of an image, made from its ``{id}``; None takes what the data say.
    """

    synonyms: str | Path | None = None
    prompt: str = DESCRIBE
    noun_extractor: Callable[[str], Sequence[str]] | None = None
    image_name: str | None = None
    name = "objhal"
    max_new_tokens = 512
    id_keys = ("image_id", "image")
    text_keys = ("text", "answer", "caption")
    one_answer_each = False
    own_prompt = ASK
    prompt_fields = _FIELDS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_function(self.name, "noun_extractor", self.noun_extractor)
        check_file_name("image_name", self.image_name)

    @property
    def rule(self) -> str:
        """How objects are found, and the table where it is not our own."""
        how = ["given noun extractor"] if self.noun_extractor else prompted(self.judge, self.judge_prompt) or ["lemma"]
        return "; ".join([*how, *([f"synonyms {Path(self.synonyms).name}"] if self.synonyms else [])])

    @cached_property
    def names(self) -> ListedNames:
        """The table of names in use."""
        return cast(ListedNames, ListedNames.load(None if self.synonyms is None else Path(self.synonyms)))

    def sample_id(self, raw: Any) -> str:
        """The bare id, as for `mmdpo.evals.chair.Chair`."""
        return image_id(raw)

    def samples(self, data: Path) -> list[Sample]:
        """One sample per image of a table, of JSON lines or of a folder of COCO annotations."""
        if data.is_dir():
            return [self._sample(each, image) for each, image in read_coco(data).items()]
        if data.name.endswith((".jsonl", ".jsonl.gz")):
            rows = enumerate(read_rows(data), 1)
            return [self._sample(*_image_of_row(row, f"image {number} of {str(data)!r}")) for number, row in rows]
        table = Chair(synonyms=self.synonyms).samples(data)
        return [self._sample(each.id, CocoImage(each.media["images"][0], set(each.target))) for each in table]

    def read_answers(self, path: Path) -> list[Answer]:
        """The answers in JSON lines, a JSON list, or the form ``{"imgToEval": {id: {caption}}}``."""
        return self.answers(read_captions(path), str(path))

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Finds the objects that an answer names and those of them that are absent."""
        text = _plain(answer.text)
        mentions = self._mentions(text, answer.question or sample.prompt)
        present = set(sample.target)
        named = {mention.category for mention in mentions or ()}
        wrong = [mention.word for mention in mentions or () if mention.category not in present]
        counts = {
            "answers": 1.0,
            "answers_with_objects": float(bool(mentions)),
            "wrong_answers": float(bool(wrong)),
            "mentions": float(len(mentions or ())),
            "wrong_mentions": float(len(wrong)),
            "present": float(len(present)),
            "found": float(len(present & named)),
            "words": float(len(text.split(" "))),
        }
        return Item(
            id=item_id,
            group=sample.group,
            raw=answer.text,
            parsed=None if mentions is None or not text else [mention.category for mention in mentions],
            label=list(sample.target),
            correct=None,
            counts=counts,
            details={
                "prompt": sample.prompt,
                "image": sample.media["images"][0],
                "objects": [mention.word for mention in mentions or ()],
                "hallucinated": wrong,
            },
        )

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """response_hallucination, object_hallucination, recall, chair_s and words."""
        named, absent = "answers that name an absent object", "named objects that are not there"
        return [
            _rate("response_hallucination", "wrong_answers", "answers_with_objects", "Object HalBench, answers", named),
            _rate("object_hallucination", "wrong_mentions", "mentions", "Object HalBench, objects", absent),
            ratio("recall", "found", "present", role="coverage"),
            _rate("chair_s", "wrong_answers", "answers", "CHAIR_s", named),
            ratio("words", "words", "answers", bounds=(0.0, math.inf), better="neither", label="Words per answer"),
        ]

    def notes(self, items: Sequence[Item]) -> list[str]:
        """Counts replies of the judge that hold no list, further answers of one image, objects without a name."""
        lost = sum(item.parsed is None and bool(_plain(item.raw)) for item in items)
        flag = f"no_list: {lost} replies of the judge hold no JSON list; their answers count as naming nothing"
        return [*([flag] if lost else []), *caption_notes(items, self.names)]

    def _mentions(self, text: str, question: str) -> list[Mention] | None:
        """The objects in an answer; None if the judge's reply holds no list."""
        if self.noun_extractor is None and self.judge is None:
            return self._read(text)
        if len(text.split()) <= _SHORT:
            return []
        if self.noun_extractor is not None:
            return self.names.listed(self.noun_extractor(text))
        phrases = list_of_reply(self.ask({"question": question, "answer": text}))
        return None if phrases is None else self.names.listed(phrases)

    def _read(self, text: str) -> list[Mention]:
        """The rule without GPT."""
        return self.names.mentions([noun_lemma(token, self.names.words) for token in tokens(text.lower())])

    def _sample(self, given_id: str, image: CocoImage) -> Sample:
        objects = {self.names.category_of.get(name, name) for name in image.categories}
        objects |= {mention.category for caption in image.captions for mention in self._read(caption)}
        sample_id = self.sample_id(given_id)
        file = file_name(self.image_name, sample_id, image.file_name)
        return Sample(sample_id, self.prompt, {"images": [file]}, sorted(objects), sample_id)


def _rate(name: str, part: str, whole: str, label: str, meaning: str) -> Metric:
    return ratio(name, part, whole, better="lower", label=label, meaning=meaning, role="hallucination")


def list_of_reply(reply: str) -> list[str] | None:
    """The list in a judge's reply: the whole of it or its last line, as in the official script, or a fenced block.

    The official script asks again where it finds none, and stops after a hundred times; here that is None.
    """
    for text in (reply, reply.strip().split("\n")[-1], *_FENCED.findall(reply)):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, list) and all(isinstance(phrase, str) for phrase in value):
            return value
    return None


def _plain(answer: str) -> str:
    return answer.replace("Assistant:", "").strip()


def _image_of_row(row: Mapping[str, Any], place: str) -> tuple[str, CocoImage]:
    """Id and annotations of an image in a row."""
    given_id, image = row.get("id", row.get("image_id", row.get("image"))), row.get("image")
    captions, names = _texts(row.get("captions")), _texts(row.get("instances"), "category")
    if not isinstance(given_id, int | str) or not isinstance(image, str) or captions is None or names is None:
        raise DataError(
            f"{place} lacks id, image, captions or instances: {str(row)[:200]}",
            why="Objects could be missed, and naming them would then count as hallucination.",
            fix='Write {"id": "1", "image": "1.jpg", "captions": ["A dog."], "instances": [{"category": "cat"}]}.',
        )
    return str(given_id), CocoImage(image, set(names), captions)


def _texts(value: Any, key: str | None = None) -> list[str] | None:
    """The texts in a list, or under a key of its entries; None if it is none, or some of them are no text."""
    entries = value if isinstance(value, list) else [None]
    found = [entry.get(key) if isinstance(entry, dict) else None for entry in entries] if key else entries
    texts = [text for text in found if isinstance(text, str)]
    return texts if len(texts) == len(found) else None
