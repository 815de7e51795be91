"""Diversity: how different are several answers that a model draws to one prompt? Alignment tends to narrow them.

Source: distinct-n follows Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", NAACL
    2016 (arXiv:1510.03055), who count over a whole corpus and divide by its words; no official rule for the rest.
Rule, with words of `mmdpo.evals.text.words`, over the answers to one prompt together:
    distinct_n = different n-grams / n-grams, n = 1 and 2, summed over prompts;
    self_similarity = mean over all pairs of answers to one prompt of 2 |A and B| / (|A| + |B|), where A and B are their
    bags of words (a word counts as often as it stands in both): 1 for the same words, 0 for none in common; two empty
    answers are alike;
    objects_per_prompt = different COCO objects that the answers to one prompt name (CHAIR's rule) / prompts;
    unfinished_rate = answers that the limit of tokens cut / answers of which that is known.
Known quirks: longer answers repeat more words, so distinct-n falls with length; broken text is diverse too, so read it
    beside perplexity. That answers name more objects can mean that they make up more: read CHAIR beside it. How many
    objects all answers name together is no sum over images: a flag says it, without an interval.
Data: CHAIR's table ``{image: [objects]}``, JSON lines ``{image}``, COCO's captions (a file or a folder of
    ``captions_*.json``) or a data set of records; captions and answers in them are not used. Answers: one line for
    each, ``{question_id, sample, answer, finished}``; `mmdpo eval` draws them, each prompt with a seed of its own.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmdpo.errors import ConfigError
from mmdpo.evals.base import Answer, Benchmark, Item, Metric, Result, Sample
from mmdpo.evals.chair import PROMPT, Chair
from mmdpo.evals.shared.habits import habit_counts, habit_metrics
from mmdpo.evals.shared.held_out import HeldOut, Reading
from mmdpo.evals.stats import Table, interval, ratio
from mmdpo.evals.text import words
from mmdpo.registry import benchmarks


@dataclass(frozen=True)
class DrawnAnswer(Answer):
    """One of several answers to a prompt.

    Attributes:
        finished: Whether it ended by itself; None where that is not known.
    """

    finished: bool | None = None


@benchmarks.register("diversity")
@dataclass(frozen=True)
class Diversity(Benchmark):
    """Several answers to one prompt at temperature 1: distinct words, self-similarity, objects named.

    Args:
        samples_each: Answers to each prompt.
        temperature: Of the drawing.
        prompt: What is asked where the data have no prompts.
        media: What is asked about, as the list of a record is called.
        split: Which split of a data set of records; None for the only one.
        image_name: With CHAIR's table, the file name of an item, as for `mmdpo.evals.chair.Chair`.
        synonyms: Table of objects in place of the 80 of COCO, as for `mmdpo.evals.chair.Chair`.
    """

    samples_each: int = 4
    temperature: float = 1.0
    prompt: str = PROMPT
    media: str = "images"
    split: str | None = None
    image_name: str | None = None
    synonyms: str | Path | None = None
    name = "diversity"
    max_new_tokens = 128
    one_answer_each = False
    role = "capability"

    def __post_init__(self) -> None:
        for name, kind, least in (("samples_each", int, 2), ("temperature", float, 0.01)):
            given = getattr(self, name)
            try:
                value = kind(given)
            except ValueError:
                value = math.nan
            if not least <= value < math.inf:
                raise ConfigError(
                    f"{name} {given!r} of diversity is not at least {least}",
                    why="Answers that are not drawn at random, or a single one, have no diversity.",
                    fix="Leave it away: 4 answers to each prompt are drawn at temperature 1.",
                )
            object.__setattr__(self, name, value)  # from the shell it is text

    @property
    def rule(self) -> str:
        """How many answers, at which temperature, and the table of objects where it is not our own."""
        table = f"; synonyms {Path(self.synonyms).name}" if self.synonyms else ""
        return f"{self.samples_each} answers each at temperature {self.temperature:g}{table}"

    @property
    def reading(self) -> Reading:
        """How the data are read."""
        return Reading(self.prompt, self.media, self.split, self.image_name)

    @cached_property
    def _chair(self) -> Chair:
        return Chair(synonyms=self.synonyms)

    def media_root(self, data: Path) -> Path:
        """Where a data set of records says that its media are; else the folder of the data."""
        return self.reading.media_root(data) or super().media_root(data)

    def samples(self, data: Path) -> list[Sample]:
        """One sample for each prompt about each item."""
        asked: dict[tuple[str, str], HeldOut] = {}
        for one in self.reading.read(data):
            asked.setdefault((one.group, str(one.record.prompt)), one)
        return [one.sample(one.record.id) for one in asked.values()]

    def answers(self, rows: Iterable[Mapping[str, Any]], origin: str = "the answers") -> list[Answer]:
        """The answers in some rows, with whether they ended by themselves, where a row says it."""
        rows = list(rows)
        return [
            DrawnAnswer(one.sample_id, one.text, one.question, row.get("finished"))
            for one, row in zip(super().answers(rows, origin), rows, strict=True)
        ]

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """What one answer is by itself; `score` compares those to one prompt."""
        named = [mention.category for mention in self._chair.names.mentions(self._chair.base_words(answer.text))]
        counts = habit_counts(answer.text)
        finished = getattr(answer, "finished", None)
        if finished is not None:
            counts |= {"ends": 1.0, "unfinished": float(not finished)}
        details: dict[str, Any] = {"prompt": sample.prompt, "question": sample.id}
        details |= {plural.removesuffix("s"): paths[0] for plural, paths in sample.media.items() if paths}
        parsed = named if answer.text.strip() else None
        return Item(item_id, sample.group, answer.text, parsed, None, None, counts, details)

    def score(self, samples: Sequence[Sample], answers: Sequence[Answer]) -> Result:
        """As `Benchmark.score`, with the answers to each prompt compared."""
        single = super().score(samples, answers)
        by_prompt: defaultdict[str, list[int]] = defaultdict(list)
        for place, item in enumerate(single.items):
            by_prompt[item.details["question"]].append(place)
        items = list(single.items)
        for places in by_prompt.values():
            last = items[places[-1]]
            together = prompt_counts([items[place].raw for place in places])
            objects = {name for place in places for name in items[place].parsed or ()}
            items[places[-1]] = replace(last, counts={**last.counts, **together, "objects": float(len(objects))})
        table = Table.of(items)
        metrics = {metric.name: interval(table, metric) for metric in self.metrics(table.columns)}
        short = sum(len(places) != self.samples_each for places in by_prompt.values())
        absent = len({sample.id for sample in samples} - set(by_prompt))
        flags = [f"other_number: {short} prompts have not {self.samples_each} answers; all count"] if short else []
        flags += [f"missing_answers: {absent} of {len(samples)} prompts have no answer; set aside"] if absent else []
        return replace(single, items=items, metrics=metrics, flags=[*single.flags, *flags])

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """distinct_1, distinct_2, self_similarity, objects_per_prompt, unfinished_rate, and the habits."""
        unfinished = ratio(
            "unfinished_rate", "unfinished", "ends", better="lower", meaning="answers that the limit of tokens cut"
        )
        compared = [
            ratio("distinct_1", "different_1", "grams_1", meaning="different words among those to one prompt"),
            ratio("distinct_2", "different_2", "grams_2", meaning="different pairs of words among those to one prompt"),
            ratio("self_similarity", "similarity", "pairs", better="lower", meaning="words that two answers share"),
            ratio(
                "objects_per_prompt",
                "objects",
                "prompts",
                bounds=(0.0, math.inf),
                better="neither",
                meaning="different objects that the answers to one prompt name",
            ),
        ]
        return [
            *(compared if "prompts" in columns else []),  # not yet, where single answers are judged
            *([unfinished] if "ends" in columns else []),
            *habit_metrics(),
        ]

    def notes(self, items: Sequence[Item]) -> list[str]:
        """Says how many objects all answers name together."""
        named = {name for item in items for name in item.parsed or ()}
        known = len(set(self._chair.names.category_of.values()))
        return [f"object_vocabulary: {len(items)} answers name {len(named)} of {known} objects"]


def prompt_counts(texts: Sequence[str]) -> dict[str, float]:
    """What the answers to one prompt add to the sums, objects apart.

    Args:
        texts: The answers.

    Returns:
        ``prompts``, ``grams_n`` and ``different_n`` for n = 1 and 2, ``pairs``, and ``similarity`` summed over them.
    """
    said = [words(text) for text in texts]
    pairs = list(itertools.combinations([Counter(one) for one in said], 2))
    counts = {"prompts": 1.0, "pairs": float(len(pairs)), "similarity": sum(similarity(*pair) for pair in pairs)}
    for n in (1, 2):
        grams = [tuple(one[at : at + n]) for one in said for at in range(len(one) - n + 1)]
        counts |= {f"grams_{n}": float(len(grams)), f"different_{n}": float(len(set(grams)))}
    return counts


def similarity(one: Counter[str], other: Counter[str]) -> float:
    """The share of words that two bags have in common: 2 |A and B| / (|A| + |B|); 1 where both are empty."""
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0
