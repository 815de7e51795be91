"""A benchmark in one small file: how often a caption names the place's usual object although it is absent."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mmdpo import registry
from mmdpo.evals.base import Answer, Benchmark, Item, Metric, Sample
from mmdpo.evals.shared.files import read_json
from mmdpo.evals.stats import ratio
from mmdpo.playground.worlds import PICTURES, World


@registry.benchmarks.register("usual_object")
@dataclass(frozen=True)
class UsualObject(Benchmark):
    """Captions of the tiny world, judged by the one thing it hallucinates."""

    name = "usual_object"
    world: ClassVar[World] = PICTURES
    id_keys = ("image_id",)
    text_keys = ("caption",)

    @property
    def rule(self) -> str:
        """The one rule there is."""
        return f"the {self.name.replace('_', ' ')} is named though absent"

    def samples(self, data: Path) -> list[Sample]:
        """One sample a picture or clip, from JSON ``{file: absent usual object or null}``."""
        prompt, plural = self.world.language.caption_prompt, self.world.plural
        return [
            Sample(id=Path(file).stem, prompt=prompt, media={plural: [file]}, target=absent, group=file)
            for file, absent in read_json(data).items()
        ]

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """1 when the caption names the absent usual object."""
        named = self.world.language.named_objects(answer.text)
        made_up = sample.target is not None and sample.target in named
        return Item(
            id=item_id,
            group=sample.group,
            raw=answer.text,
            parsed=named,
            label=sample.target,
            correct=not made_up,
            counts={"captions": 1.0, "made_up": float(made_up)},
        )

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """The rate over all captions."""
        thing = self.name.removeprefix("usual_")
        return [
            ratio(
                f"{self.name}_rate",
                "made_up",
                "captions",
                better="lower",
                label=f"Usual {thing}, absent",
                meaning=f"captions that name the {thing} usual for the place although it is not there",
                role="hallucination",
            )
        ]
