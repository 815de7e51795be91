"""Three simulated people who rate captions and answers from 1 to 5: each somewhat strict or lenient, all of them noisy.

They like what is there to be named and dislike what is not there. They never see the model, only scene and text, and
the same rater gives the same text about the same scene the same rating, whatever else is rated before.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mmdpo.playground.language import Asked, Language, Scene, answer
from mmdpo.playground.text import LANGUAGE

SCALE: Final = (1, 5)
# A complete and faithful caption earns 5, one that says nothing 2; each absent object costs 1.5.
_NOTHING_SAID: Final = 2.0
_EVERYTHING_SAID: Final = 3.0
_ABSENT_OBJECT: Final = 1.5
_RIGHT_ANSWER: Final = 4.5
_WRONG_ANSWER: Final = 1.5


@dataclass(frozen=True)
class Rating:
    """One row of a ratings table; `file` is the picture or clip."""

    file: str
    prompt: str
    caption: str
    rating: int
    rater: str


@dataclass(frozen=True)
class Rater:
    """One simulated person.

    Attributes:
        name: How the table calls this person.
        seed: Where the noise comes from.
        leniency: Added to every rating, in points of the scale.
        noise: Standard deviation of the noise, in points of the scale.
        language: What captions and questions are read by.
    """

    name: str
    seed: int
    leniency: float
    noise: float
    language: Language = LANGUAGE

    def rate_caption(self, scene: Scene, caption: str) -> Rating:
        """Rates a caption: the share of present objects that it names, less what it makes up."""
        named = set(self.language.named_objects(caption))
        share = len(named & set(scene.objects)) / len(scene.objects)
        quality = _NOTHING_SAID + _EVERYTHING_SAID * share - _ABSENT_OBJECT * len(named - set(scene.objects))
        return self._rating(scene, self.language.caption_prompt, caption, quality)

    def rate_answer(self, scene: Scene, asked: Asked, given: str) -> Rating:
        """Rates an answer to a yes/no question: right or wrong."""
        quality = _RIGHT_ANSWER if given == answer(asked.truth) else _WRONG_ANSWER
        return self._rating(scene, self.language.question(asked.noun), given, quality)

    def _rating(self, scene: Scene, prompt: str, reply: str, quality: float) -> Rating:
        rng = random.Random(f"{self.seed} {scene.number} {prompt} {reply}")
        low, high = SCALE
        points = min(high, max(low, round(quality + self.leniency + rng.gauss(0.0, self.noise))))
        return Rating(scene.file_name, prompt, reply, points, self.name)


def raters(seed: int, language: Language = LANGUAGE, count: int = 3) -> list[Rater]:
    """People of different leniency (at most half a point) and care (noise of 0.5 to 0.8 points), drawn by seed."""
    rng = random.Random(f"raters {seed}")
    return [
        Rater(f"rater_{index + 1}", rng.getrandbits(32), rng.uniform(-0.5, 0.5), rng.uniform(0.5, 0.8), language)
        for index in range(count)
    ]


def rate_captions(scene: Scene, captions: Sequence[str], people: Sequence[Rater]) -> list[Rating]:
    """Everybody's rating of every different caption of one scene."""
    return [person.rate_caption(scene, caption) for caption in dict.fromkeys(captions) for person in people]


def rate_yes_no(scene: Scene, asked: Asked, people: Sequence[Rater]) -> list[Rating]:
    """Everybody's rating of both answers to a yes/no question, from which the pair right over wrong is built."""
    return [person.rate_answer(scene, asked, answer(is_yes)) for is_yes in (True, False) for person in people]
