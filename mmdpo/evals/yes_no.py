"""The probabilities of yes and no to questions with a known answer: forced choice, and are they to be believed?

What is judged: log-probabilities that an answer begins with a spelling of yes, and of no
    (`mmdpo.answering.yes_no`). P(yes) is taken among the two, so the logit is log p(yes) - log p(no). Generated text
    is not read: a model may put .51 and .99 into the same word.
Source: our own; no published benchmark and no official rule.
Known quirks: equal probabilities are half right; what other words have of the probability enters `mass` alone, and rows
    that give nothing but P(yes) have no `mass`.
Data: the questions of POPE (`mmdpo.evals.pope`) and whatever has their form. Answers: {question_id, yes, no}, natural
    logarithms; ``mmdpo calibrate`` makes them. {question_id, p_yes} is read too, P(yes) among the two.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mmdpo.errors import DataError
from mmdpo.evals import calibration
from mmdpo.evals.base import Answer, Item, Metric, Sample
from mmdpo.evals.pope import Pope
from mmdpo.evals.shared.calibrated import CalibratedBenchmark
from mmdpo.evals.stats import ratio
from mmdpo.registry import benchmarks

CERTAIN = 1e-12
"""Nearest to 0 and 1 that a probability without its logarithm is taken to be."""
MOST = 1.01
"""Largest sum of the two probabilities: 1, and what models of half precision are off."""
LITTLE = 0.5
"""Probability on the two words below which the model would mostly say something else."""


@benchmarks.register("yes_no")
@dataclass(frozen=True)
class YesNo(CalibratedBenchmark):
    """Probabilities of yes.

    Args:
        media: What the questions are about, as for `mmdpo.evals.pope.Pope`.
    """

    media: str = "images"
    name: ClassVar[str] = "yes_no"
    text_keys: ClassVar[Sequence[str]] = ("logps",)

    @property
    def rule(self) -> str:
        """The one rule there is."""
        return "P(yes) among yes and no, equal probabilities one half"

    def samples(self, data: Path) -> list[Sample]:
        """The questions in a file, or in a folder of POPE's three kinds."""
        return Pope(media=self.media).samples(data)

    def answers(self, rows: Iterable[Mapping[str, Any]], origin: str = "the answers") -> list[Answer]:
        """The log-probabilities in some rows.

        Raises:
            DataError: A row lacks one of the two, or one is no logarithm of a probability.
        """
        kept = []
        for number, row in enumerate(rows, 1):
            logps = _logps(row)
            if not all(map(_is_log, logps)) or sum(map(math.exp, logps)) > MOST:
                raise DataError(
                    f"entry {number} of {origin} has yes {logps[0]!r:.40} and no {logps[1]!r:.40}",
                    why="Both must be natural logarithms of probabilities, 0 or below, that add up to 1 at most.",
                    fix='Write {"question_id": 1, "yes": -0.2, "no": -1.8}, or p_yes between 0 and 1.',
                )
            kept.append({**row, "logps": json.dumps([*logps, "yes" in row])})
        return super().answers(kept, origin)

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Holds the likelier word against the label."""
        yes, no, weighed = json.loads(answer.text)
        logit, label = yes - no, sample.target == "yes"
        return Item(
            id=item_id,
            group=sample.group,
            raw="yes" if logit > 0 else "no" if logit < 0 else "yes or no",
            parsed=logit,
            label=sample.target,
            correct=(logit > 0) == label if logit else None,
            counts={
                "questions": 1.0,
                "correct": 0.5 if logit == 0 else float((logit > 0) == label),
                "probability": 1 / (1 + math.exp(min(-logit, 700.0))),
                # P(yes) among the two words does not tell what others have.
                **({"mass": min(1.0, math.exp(yes) + math.exp(no)), "weighed": 1.0} if weighed else {}),
            },
            details={"prompt": sample.prompt, self.media.removesuffix("s"): sample.media[self.media][0]},
        )

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """Accuracy, mean P(yes), what the two words have of all probability, Brier score and ECE."""
        words = "probability that the two words have among all"
        found = [
            ratio("accuracy", "correct", "questions", meaning="questions whose likelier word is right"),
            ratio("yes_probability", "probability", "questions", better="neither", meaning="mean probability of yes"),
            *([ratio("mass", "mass", "weighed", better="neither", meaning=words)] if "weighed" in columns else []),
        ]
        return found + (calibration.metrics("yes") if "yes_predictions" in columns else [])

    def notes(self, items: Sequence[Item]) -> list[str]:
        """Says where the model would mostly say something else."""
        known = [item.counts["mass"] for item in items if "mass" in item.counts]
        mass = sum(known) / len(known) if known else 1.0
        said = f"little_mass: yes and no have {mass:.3f} of the probability; the model would mostly say something else"
        return [said] if mass < LITTLE else []

    def predictions(self, item: Item) -> Mapping[str, Sequence[tuple[float, float]]]:
        """The logit of yes, and whether yes is right."""
        return {"yes": [(item.parsed, float(item.label == "yes"))]}


def _is_log(value: Any) -> bool:
    """Whether it is the natural logarithm of a probability."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -sys.float_info.max <= value <= 1e-6


def _logps(row: Mapping[str, Any]) -> list[Any]:
    p = row.get("p_yes")
    if "yes" in row or not isinstance(p, int | float) or isinstance(p, bool) or not 0 <= p <= 1:
        return [row.get("yes"), row.get("no")]
    p = min(max(p, CERTAIN), 1 - CERTAIN)
    return [math.log(p), math.log1p(-p)]
