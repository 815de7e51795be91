"""Perplexity of held-out captions: how much of a surprise are people's own words to a model, before and after?

Source: no published benchmark; the measure is that of language modelling, exp(nats per token).
Rule: a caption is scored as the answer to its prompt, with its media, as training scores answers: the end of turn
    belongs to it. perplexity = exp(negative log-probability of all captions / their tokens); nats_per_token is its
    logarithm; nats_per_character divides by the captions' characters. One media item is one unit of the intervals.
Known quirks: tokens are those of the model's own tokenizer, so perplexities of two tokenizers are no comparison; the
    rule names the vocabulary, and `mmdpo compare` refuses. nats_per_character is one: ``--unit characters`` gives it
    alone, under a rule without a vocabulary. A caption that is longer than the model's positions allow, or that its
    processor refuses, is set aside and counted.
Data: a data set of records (the chosen answers), COCO's captions (a file or a folder of ``captions_*.json``), or JSON
    lines ``{image, caption}``. Answers: ``{question_id, answer, logp, tokens, tokenizer}``; `mmdpo eval` makes them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmdpo.errors import ConfigError, DataError, did_you_mean
from mmdpo.evals.base import Answer, Benchmark, Item, Metric, Result, Sample
from mmdpo.evals.shared.habits import NOT_WRITTEN
from mmdpo.evals.shared.held_out import Reading
from mmdpo.evals.stats import Array, Sums, ratio
from mmdpo.registry import benchmarks

logger = logging.getLogger(__name__)

UNITS = ("tokens", "characters")
_LARGEST = 700.0
"""Nats per token beyond which the exponential is no number any more."""


@dataclass(frozen=True)
class ScoredAnswer(Answer):
    """A text with its log-probability.

    Attributes:
        logp: Natural logarithm, summed over the tokens; None where it could not be scored.
        tokens: How many these are.
        tokenizer: The vocabulary that they are of.
        unscored: Why it could not be scored.
    """

    logp: float | None = None
    tokens: int = 0
    tokenizer: str = ""
    unscored: str = ""


@benchmarks.register("perplexity")
@dataclass(frozen=True)
class Perplexity(Benchmark):
    """Probability of held-out captions.

    Args:
        prompt: What a caption is the answer to, where the data have no prompts.
        media: What the captions are about, as the list of a record is called.
        split: Which split of a data set of records; None for the only one.
        unit: ``tokens``, or ``characters`` to compare models with different tokenizers.
    """

    prompt: str = "Describe the image in one sentence."
    media: str = "images"
    split: str | None = None
    unit: str = "tokens"
    name = "perplexity"
    role = "capability"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ConfigError(
                f"unknown unit {self.unit!r} for perplexity",
                why=did_you_mean(self.unit, UNITS),
                fix="tokens is the default; characters compares models with different tokenizers.",
            )

    @property
    def rule(self) -> str:
        """What is divided by; `score` adds the vocabulary."""
        return f"nats per {self.unit.removesuffix('s')}, end of turn included"

    @property
    def reading(self) -> Reading:
        """How the data are read."""
        return Reading(self.prompt, self.media, self.split)

    def media_root(self, data: Path) -> Path:
        """Where a data set of records says that its media are; else the folder of the data."""
        return self.reading.media_root(data) or super().media_root(data)

    def samples(self, data: Path) -> list[Sample]:
        """One sample for each caption.

        Raises:
            DataError: There is no caption.
        """
        samples, without = [], 0
        for one in self.reading.read(data):
            captions = one.record.candidates
            for number, caption in enumerate(captions, 1):
                sample_id = one.record.id if len(captions) == 1 else f"{one.record.id}/{number}"
                samples += [one.sample(sample_id, caption)] if caption.text else []
            without += max(1, len(captions)) - sum(bool(caption.text) for caption in captions)
        if without:
            logger.warning("%d of %d captions are blank or lacking; set aside", without, without + len(samples))
        if not samples:
            raise DataError(
                f"{str(data)!r} has no captions",
                why="There is no text whose probability could be measured.",
                fix='Write {"image": "1.jpg", "caption": "A dog on a beach."}, or give records with preferred answers.',
            )
        return samples

    def answers(self, rows: Iterable[Mapping[str, Any]], origin: str = "the answers") -> list[Answer]:
        """The texts in some rows with their log-probabilities.

        Raises:
            DataError: A row has no log-probability, number of tokens or vocabulary, and does not say why.
        """
        rows = list(rows)
        return [
            ScoredAnswer(answer.sample_id, answer.text, answer.question, **_numbers(row, number, origin))
            for number, (answer, row) in enumerate(zip(super().answers(rows, origin), rows, strict=True), 1)
        ]

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """What one text adds to the sums.

        Raises:
            DataError: The answer is of another text than the sample.
        """
        assert isinstance(answer, ScoredAnswer)
        if answer.text != sample.target:
            raise DataError(
                f"the answer to {item_id!r} is of the text {answer.text[:80]!r}, not of {str(sample.target)[:80]!r}",
                why="The probability of another text says nothing about this one.",
                fix="Score answers that were made with these data.",
            )
        counts: dict[str, float] = {}
        if answer.logp is not None:
            counts = {"texts": 1.0, "nll": -answer.logp, "characters": float(len(answer.text))}
            counts |= {"tokens": float(answer.tokens)} if self.unit == "tokens" else {}
        details: dict[str, Any] = {"prompt": sample.prompt, **NOT_WRITTEN}
        details |= {"unscored": answer.unscored} if answer.unscored else {}
        details |= {plural.removesuffix("s"): paths[0] for plural, paths in sample.media.items() if paths}
        return Item(item_id, sample.group, answer.text, answer.logp, sample.target, None, counts, details)

    def score(self, samples: Sequence[Sample], answers: Sequence[Answer]) -> Result:
        """As `Benchmark.score`; the rule says which vocabulary the tokens are of.

        Raises:
            DataError: The answers are of several vocabularies, or no text could be scored.
        """
        given = [answer for answer in answers if isinstance(answer, ScoredAnswer)]
        vocabularies = sorted({answer.tokenizer for answer in given})
        if len(vocabularies) > 1:
            raise DataError(
                f"the answers are of several vocabularies: {'; '.join(vocabularies)}",
                why="Their tokens are no common unit.",
                fix="Score the answers of one model at a time.",
            )
        if given and all(answer.logp is None for answer in given):
            raise DataError(
                f"none of the {len(given)} texts could be scored (first: {given[0].unscored})",
                why="There is no number to give.",
                fix="Give captions that the model can take.",
            )
        result = super().score(samples, answers)
        return replace(result, rule=f"{result.rule}; {vocabularies[0]}") if self.unit == "tokens" else result

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """The perplexity and nats_per_token, where there are tokens, and nats_per_character."""
        per_character = _nats("nats_per_character", "characters", "negative log-probability of a character")
        if "tokens" not in columns:
            return [per_character]
        per_token = _nats("nats_per_token", "tokens", "negative log-probability of a token")

        def perplexity(sums: Sums) -> Array:
            return np.exp(np.minimum(per_token.value(sums), _LARGEST))

        meaning = "of how many equally likely tokens the next one is, on average"
        whole = Metric("perplexity", perplexity, per_token.count, (1.0, math.inf), "lower", "Perplexity", meaning)
        return [whole, per_token, per_character]

    def notes(self, items: Sequence[Item]) -> list[str]:
        """Counts the texts that could not be scored."""
        reasons = [item.details["unscored"] for item in items if "unscored" in item.details]
        return [f"unscored: {len(reasons)} texts could not be scored (first: {reasons[0]})"] if reasons else []


def _nats(name: str, unit: str, meaning: str) -> Metric:
    return ratio(name, "nll", unit, bounds=(0.0, math.inf), better="lower", meaning=meaning)


def _numbers(row: Mapping[str, Any], number: int, origin: str) -> dict[str, Any]:
    """The fields of a scored answer in a row."""
    tokenizer, unscored = str(row.get("tokenizer", "")), row.get("unscored")
    if isinstance(unscored, str):
        return {"tokenizer": tokenizer, "unscored": unscored}
    logp, tokens = row.get("logp"), row.get("tokens")
    known = isinstance(logp, int | float) and not isinstance(logp, bool) and -math.inf < logp <= 1e-3
    if not known or isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise DataError(
            f"entry {number} of {origin} has logp {logp!r} and tokens {tokens!r}",
            why="Wanted are a natural logarithm of a probability, 0 or below, and a number of tokens.",
            fix='Write {"question_id": "1", "answer": "A dog.", "logp": -9.5, "tokens": 4, "tokenizer": "mine"}.',
        )
    return {"logp": float(logp or 0.0), "tokens": tokens, "tokenizer": tokenizer}
