"""A benchmark in one small file: how often a caption names the background's usual object although it is absent."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mmdpo import registry
from mmdpo.evals.base import Answer, Benchmark, Item, Metric, Sample
from mmdpo.evals.files import read_json
from mmdpo.evals.stats import ratio
from mmdpo.playground.text import CAPTION_PROMPT, named_objects


@registry.benchmarks.register("usual_object")
@dataclass(frozen=True)
class UsualObject(Benchmark):
    """Captions of the tiny world, judged by the one thing it hallucinates."""

    name = "usual_object"
    id_keys = ("image_id",)
    text_keys = ("caption",)

    @property
    def rule(self) -> str:
        """The one rule there is."""
        return "the usual object is named though absent"

    def samples(self, data: Path) -> list[Sample]:
        """One sample a picture, from JSON ``{image: absent usual object or null}``."""
        return [
            Sample(id=Path(image).stem, prompt=CAPTION_PROMPT, media={"images": [image]}, target=absent, group=image)
            for image, absent in read_json(data).items()
        ]

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """1 when the caption names the absent usual object."""
        made_up = sample.target is not None and sample.target in named_objects(answer.text)
        return Item(
            id=item_id,
            group=sample.group,
            raw=answer.text,
            parsed=named_objects(answer.text),
            label=sample.target,
            correct=not made_up,
            counts={"captions": 1.0, "made_up": float(made_up)},
        )

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """The rate over all captions."""
        return [ratio("usual_object_rate", "made_up", "captions", better="lower")]
