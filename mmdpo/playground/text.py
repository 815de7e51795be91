"""How the world of pictures is spoken of; what careless people do with it is in `language`."""

from __future__ import annotations

from typing import Final

from mmdpo.playground.language import Language
from mmdpo.playground.world import BACKGROUNDS, COLOURS, OBJECTS

LANGUAGE: Final = Language("image", "shows", OBJECTS, tuple(COLOURS), BACKGROUNDS)
