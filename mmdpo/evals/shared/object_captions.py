"""What benchmarks of captions share: objects that a caption names, against those that are there."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from mmdpo.evals.base import Answer, Benchmark, Item, Metric, Sample
from mmdpo.evals.coverage import Kind, Target, depth_counts, fixed_metrics, targets
from mmdpo.evals.shared.objects import Mention
from mmdpo.evals.stats import Table, ratio


class Names(Protocol):
    """A table of names: which of a caption's words name an object."""

    @property
    def category_of(self) -> dict[str, str]:
        """Name -> the object that it stands for."""

    def mentions(self, words: Sequence[str]) -> list[Mention]:
        """The objects that words name, each mention by itself."""


@dataclass(frozen=True)
class ObjectCaptions(Benchmark):
    """Objects named in captions; a subclass says how they are found and what is there.

    Args:
        at_recall: Also gives the rates at this recall (`mmdpo.evals.coverage`).
        at_objects: Also gives the rates at this number of mentions per caption.
    """

    at_recall: float | str | None = None
    at_objects: float | str | None = None
    max_new_tokens = 512
    one_answer_each = False

    @property
    @abstractmethod
    def names(self) -> Names:
        """The table of names in use."""

    @property
    @abstractmethod
    def modality(self) -> str:
        """What the captions describe, as the list of a record is called."""

    @abstractmethod
    def base_words(self, text: str) -> list[str]:
        """The words of a caption in the form in which the table holds them."""

    @property
    def targets(self) -> list[Target]:
        """The levels of coverage at which rates are also given.

        Raises:
            ConfigError: A level cannot be reached.
        """
        given: dict[Kind, float | str | None] = {"recall": self.at_recall, "objects": self.at_objects}
        return [Target.read(kind, level) for kind, level in given.items() if level is not None]

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Finds the objects that a caption names and those of them that are absent."""
        mentions = self.names.mentions(self.base_words(answer.text))
        named = [mention.category for mention in mentions]
        present = set(sample.target)
        wrong = [mention.word for mention in mentions if mention.category not in present]
        counts = {
            "captions": 1.0,
            "wrong_captions": float(bool(wrong)),
            "mentions": float(len(mentions)),
            "wrong_mentions": float(len(wrong)),
            "present": float(len(present)),
            "found": float(len(present & set(named))),
        }
        if self.targets:
            counts |= depth_counts(named, present) | {target.column: 0.0 for target in self.targets}
        return Item(
            id=item_id,
            group=sample.group,
            raw=answer.text,
            parsed=named if answer.text.strip() else None,
            label=list(sample.target),
            correct=None,
            counts=counts,
            details={
                "prompt": sample.prompt,
                self.modality.removesuffix("s"): sample.media[self.modality][0],
                "objects": [mention.word for mention in mentions],
                "hallucinated": wrong,
            },
        )

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """chair_s, chair_i, recall and objects_per_caption; the rates at fixed coverage, where they are asked for."""
        return [
            ratio("chair_s", "wrong_captions", "captions", better="lower"),
            ratio("chair_i", "wrong_mentions", "mentions", better="lower"),
            ratio("recall", "found", "present"),
            ratio("objects_per_caption", "mentions", "captions", bounds=(0.0, math.inf), better="neither"),
            *(metric for target in targets(columns) for metric in fixed_metrics(target)),
        ]

    def notes(self, items: Sequence[Item]) -> list[str]:
        """Counts further captions of one group and objects that cannot be named; says which coverage is not reached."""
        sums = Table.of(items).sums()
        full = {
            "recall": sums["found"] / sums["present"] if sums["present"] else 0.0,
            "objects": sums["mentions"] / sums["captions"],
        }
        return caption_notes(items, self.names) + [
            f"{target.kind}_not_reached: whole captions have {full[target.kind]:.3f}, below {target.level:g}"
            for target in self.targets
            if full[target.kind] < target.level - 1e-12
        ]


def caption_notes(items: Sequence[Item], names: Names) -> list[str]:
    """Counts further captions of one group, and objects of the data that no caption could name."""
    again = sum("#" in item.id for item in items)
    unknown = sorted({name for item in items for name in item.label} - set(names.category_of.values()))
    flags = (
        (again, f"repeated_images: {again} captions are further ones of their image; each counts"),
        (unknown, f"unknown_objects: {len(unknown)} objects of the data cannot be named: {unknown[:10]}"),
    )
    return [flag for count, flag in flags if count]
