"""How often a caption names the place's usual sound although it is absent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmdpo import registry
from mmdpo.playground.audio.worlds import SOUNDS
from mmdpo.playground.usual import UsualObject
from mmdpo.playground.worlds import World


@registry.benchmarks.register("usual_sound")
@dataclass(frozen=True)
class UsualSound(UsualObject):
    """Captions of the tiny world of sounds, judged by the one thing it hallucinates."""

    name = "usual_sound"
    world: ClassVar[World] = SOUNDS
