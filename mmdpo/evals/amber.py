"""AMBER: descriptions, and yes/no questions about existence, attributes and relations, of the same 1,004 images.

Paper: Wang et al., "AMBER: An LLM-free Multi-dimensional Benchmark for MLLMs Hallucination Evaluation", 2023
    (arXiv:2311.07397).
Official code: github.com/junyangwang0410/AMBER, Apache-2.0; its annotations likewise.
Official rule, descriptions: nouns that are on a list of 418 words, repeats counted (`shared.amber_words`). A noun
    is right if it, or an association of it, is present, or if a word vector (spaCy's en_core_web_lg) has a present word
    within a similarity above 0.8. chair = wrong nouns / nouns; cover = present objects named / present objects; hal =
    descriptions with a wrong noun / descriptions; cog = expected but absent objects named / such objects.
Official rule, questions: an answer is exactly "Yes" or exactly "No", anything else is wrong. No is the positive class.
    f1 = 2 P R / (P + R + 0.0001), for existence + 0.001. The AMBER score, (1 - chair + f1) / 2, is from the paper.
Known quirks: a noun with a capital is lost, but "TV" is not; "men", "leaves" and "sunglasses" are never found; the nine
    safe words stay in chair's denominator; an object that stands twice in the annotations is covered once at most; a
    word that is associated with one present object and names another covers the first only. An object that
    relation.json lacks stops the script, and here too. The script starts its denominators at 0.001 and rounds
    precision and recall before f1: `official_numbers` has what it prints.
Other rules: `amber_questions.PARSERS`. lmms-eval takes en_core_web_md or _sm for the similarity; VLMEvalKit scores the
    questions alone.
Data: the folder ``data`` of the official repository: annotations.json, relation.json, safe_words.txt, query/.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmdpo.errors import DataError
from mmdpo.evals.base import Answer, Benchmark, Item, Metric, Result, Sample
from mmdpo.evals.pope import SAID
from mmdpo.evals.shared.amber_questions import (
    MEASURES,
    PARSERS,
    QUESTIONS,
    counts,
    epsilon,
    metric_name,
    question_metrics,
)
from mmdpo.evals.shared.amber_words import AmberWords, Similarity, read_similarity
from mmdpo.evals.shared.files import read_rows, required_texts
from mmdpo.evals.shared.options import check_choice, check_function
from mmdpo.evals.stats import Array, Sums, Table, ratio
from mmdpo.jsonfiles import write_json
from mmdpo.registry import benchmarks

KINDS: Mapping[str, str] = {
    "generative": "generative",
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
    "relation": "relation",
}
"""What the annotations call a kind of question -> what it is called here."""

TASKS: Mapping[str, tuple[str, ...]] = {
    "all": ("generative", *QUESTIONS[""]),
    "generative": ("generative",),
    "discriminative": QUESTIONS[""],
    **{task: QUESTIONS[task] for task in ("existence", "attribute", "relation")},
}
"""Name of a task -> the kinds of questions in it."""

_QUERY = 'A query looks like {"id": 1, "image": "AMBER_1.jpg", "query": "Describe this image."}.'
_Judged = tuple[list[str] | str | None, bool | None, dict[str, float], dict[str, Any]]
"""What was read, whether it is right, what it adds to the sums, and what is worth auditing."""


@benchmarks.register("amber")
@dataclass(frozen=True)
class Amber(Benchmark):
    """Hallucinated objects in descriptions, and yes/no questions.

    Args:
        similarity: What tells near synonyms: a file (`amber_words.read_similarity`) or a function of two words; None
            takes words as similar only to themselves and their associations.
        parser: How an answer to a question is read, a name in `amber_questions.PARSERS`.
        task: Which questions, a name in `TASKS`.
        suffix: Put after every yes/no question, such as " Please answer Yes or No."; officially nothing.
        noun_extractor: From a description to its nouns in the singular, in the place of our own rule.
    """

    similarity: str | Path | Similarity | None = None
    parser: str = "official"
    task: str = "all"
    suffix: str = ""
    noun_extractor: Callable[[str], Sequence[str]] | None = None
    name = "amber"
    yes_no = True
    max_new_tokens = 512
    id_keys = ("id", "question_id")
    text_keys = ("response", "text", "answer")

    def __post_init__(self) -> None:
        check_choice(self.name, "parser", self.parser, PARSERS, "The default is official.")
        check_choice(self.name, "task", self.task, TASKS, "The default is all.")
        check_function(self.name, "noun_extractor", self.noun_extractor)

    @property
    def rule(self) -> str:
        """The parser, what stands in for word vectors, and whose nouns are taken."""
        given = self.similarity
        near = "no similarity" if given is None else "given similarity" if callable(given) else Path(given).name
        return "; ".join([self.parser, near, *(["given noun extractor"] if self.noun_extractor else [])])

    @cached_property
    def _similarity(self) -> Similarity | None:
        given = self.similarity
        return given if given is None or callable(given) else read_similarity(Path(given))

    def samples(self, data: Path) -> list[Sample]:
        """The questions in the official data folder that belong to the task."""
        words = AmberWords.load(data, self._similarity)
        queries = _queries(data)
        samples = []
        for number, row in enumerate(read_rows(data / "annotations.json"), 1):
            kind = KINDS.get(str(row.get("type")))
            if kind is None or not isinstance(row.get("id"), int | str) or not _has_truth(kind, row, words):
                raise DataError(
                    f"annotation {number} of {str(data)!r} lacks id, a known type or its truth: {str(row)[:200]}",
                    why="It could be scored as a question of another kind, or hold objects that no description names.",
                    fix='It looks like {"id": 1, "type": "generative", "truth": ["sky"], "hallu": ["dog"]}, with '
                    "objects that relation.json has.",
                )
            if kind in TASKS[self.task]:
                samples.append(self._sample(row, kind, queries.get(str(row["id"]), {}), words))
        return samples

    def asks_yes_no(self, sample: Sample) -> bool:
        """All but the descriptions."""
        return bool(sample.meta["kind"] != "generative")

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Judges a description or a yes or no."""
        judge = self._description if sample.meta["kind"] == "generative" else self._yes_or_no
        parsed, correct, amounts, details = judge(sample, answer.text)
        images = sample.media.get("images")
        shown = {"prompt": sample.prompt, **({"image": images[0]} if images else {})}
        return Item(item_id, sample.group, answer.text, parsed, sample.target, correct, amounts, {**shown, **details})

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """chair, cover, hal and cog; accuracy, precision, recall and f1, also by kind; amber; as far as answered."""
        metrics = []
        if "nouns" in columns:
            metrics += [
                ratio("chair", "wrong_nouns", "nouns", better="lower"),
                ratio("cover", "covered", "present"),
                ratio("hal", "wrong_descriptions", "descriptions", better="lower"),
                ratio("cog", "imagined", "expected", better="lower"),
            ]
        for group, kinds in QUESTIONS.items():
            if answered := [kind for kind in kinds if f"{kind}_questions" in columns]:
                metrics += question_metrics(group, answered)
        by_name = {metric.name: metric for metric in metrics}
        return [*metrics, _score(by_name["chair"], by_name["f1"])] if {"chair", "f1"} <= set(by_name) else metrics

    def notes(self, items: Sequence[Item]) -> list[str]:
        """Says where images are unknown, and how many answers are neither Yes nor No."""
        questions = [item for item in items if "nouns" not in item.counts]
        neither = sum(item.parsed is None for item in questions)
        unseen = sum("image" not in item.details for item in items)
        notes = [f"no_images: {unseen} answers without a query, each taken as a unit of its own"] if unseen else []
        if neither:
            notes.append(
                f"neither_yes_nor_no: {neither} of {len(questions)} answers, wrong by the rule {self.parser!r}"
            )
        return notes

    def _sample(self, row: Mapping[str, Any], kind: str, query: Mapping[str, Any], words: AmberWords) -> Sample:
        sample_id, image = str(row["id"]), query.get("image")
        prompt = str(query.get("query", ""))
        if kind == "generative":
            target: Any = {"truth": row["truth"], "hallu": row["hallu"]}
        else:
            target, prompt = row["truth"], prompt + self.suffix
        media = {} if image is None else {"images": [image]}
        return Sample(sample_id, prompt, media, target, image or sample_id, {"kind": kind, "words": words})

    def _description(self, sample: Sample, text: str) -> _Judged:
        words, truth, hallu = sample.meta["words"], sample.target["truth"], sample.target["hallu"]
        nouns = self.noun_extractor(text) if self.noun_extractor else words.nouns(text)
        told = words.describe(nouns, truth, hallu)
        amounts = {
            "nouns": len(told.nouns),
            "wrong_nouns": len(told.wrong),
            "present": len(truth),
            "covered": told.covered,
            "expected": len(hallu),
            "imagined": told.imagined,
            "descriptions": 1,
            "wrong_descriptions": bool(told.wrong),
        }
        parsed = told.nouns if text.strip() else None
        return parsed, None, {name: float(amount) for name, amount in amounts.items()}, {"hallucinated": told.wrong}

    def _yes_or_no(self, sample: Sample, text: str) -> _Judged:
        said_yes, label, kind = PARSERS[self.parser](text), sample.target == "yes", sample.meta["kind"]
        return SAID[said_yes], said_yes is label, counts(kind, said_yes, label), {"kind": kind}


def official_numbers(result: Result) -> dict[str, float]:
    """What the official script prints for these answers: percent, one decimal, with its rounding on the way.

    Args:
        result: Of this benchmark, by any rule.

    Returns:
        ``chair``, ``cover``, ``hal``, ``cog``, ``accuracy``, ``accuracy/existence`` and so on, as far as answered.
    """
    sums = {column: float(value) for column, value in Table.of(result.items).sums().items()}
    numbers: dict[str, float] = {}
    if "nouns" in sums:
        numbers["chair"] = _printed(sums["wrong_nouns"], sums["nouns"])
        numbers["cover"] = _printed(sums["covered"], sums["present"])
        numbers["hal"] = round(100 - _share(sums["descriptions"] - sums["wrong_descriptions"], sums["descriptions"]), 1)
        numbers["cog"] = _printed(sums["imagined"], sums["expected"])
    for group, kinds in QUESTIONS.items():
        if metric_name("accuracy", group) not in result.metrics:
            continue
        correct, asked, true_no, said_no, no = (
            sum(sums.get(f"{kind}_{column}", 0.0) for kind in kinds)
            for column in ("correct", "questions", "true_no", "said_no", "no")
        )
        precision, recall = _printed(true_no, said_no), _printed(true_no, no)
        p, r = precision / 100, recall / 100
        f1 = round(2 * p * r / (p + r + epsilon(group)) * 100, 1)
        printed = (_printed(correct, asked), precision, recall, f1)
        numbers |= {metric_name(name, group): value for name, value in zip(MEASURES, printed, strict=True)}
    return numbers


def write_responses(answers: Iterable[Answer], path: Path) -> None:
    """Writes answers as the official script reads them: a JSON list of ``{"id": 1, "response": "..."}``."""
    write_json(path, [{"id": int(str(answer.sample_id)), "response": answer.text} for answer in answers])


def _has_truth(kind: str, row: Mapping[str, Any], words: AmberWords) -> bool:
    if kind != "generative":
        return row.get("truth") in ("yes", "no")
    lists = [row.get(key) for key in ("truth", "hallu")]
    return all(
        isinstance(objects, list) and all(isinstance(name, str) and name in words.associations for name in objects)
        for objects in lists
    )


def _queries(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The query of each id: what is asked about which image."""
    every = folder / "query" / "query_all.json"
    paths = [every] if every.is_file() else sorted((folder / "query").glob("query_*.json"))
    queries: dict[str, Mapping[str, Any]] = {}
    for path in paths:
        for number, row in enumerate(read_rows(path), 1):
            required_texts(
                row, {name: (name,) for name in ("image", "query")}, f"query {number} of {str(path)!r}", fix=_QUERY
            )
            queries[str(row.get("id"))] = row
    return queries


def _share(part: float, whole: float) -> float:
    """Percent, over a denominator that starts at 0.001."""
    return part / (whole + 0.001) * 100


def _printed(part: float, whole: float) -> float:
    return round(_share(part, whole), 1)


def _score(chair: Metric, f1: Metric) -> Metric:
    """The AMBER score of the paper."""

    def value(sums: Sums) -> Array:
        return np.asarray((1 - chair.value(sums) + f1.value(sums)) / 2)

    return Metric("amber", value, lambda sums: np.asarray(chair.count(sums) + f1.count(sums)))
