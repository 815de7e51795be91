"""How the world of sounds is spoken of; what careless people do with it is in `mmdpo.playground.language`."""

from __future__ import annotations

from typing import Final

from mmdpo.playground.audio.world import MANNERS, PLACES, SOUNDS
from mmdpo.playground.language import Language

LANGUAGE: Final = Language("recording", "holds", SOUNDS, MANNERS, PLACES)
