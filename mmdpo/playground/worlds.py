"""A world and everything that the demo, the measuring and the experiment need of it, in one place."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mmdpo.playground import world
from mmdpo.playground.drawing import draw
from mmdpo.playground.language import Language, Scene
from mmdpo.playground.text import LANGUAGE
from mmdpo.records import Message, media_field, user_message


@dataclass(frozen=True)
class World:
    """One tiny world.

    Args:
        modality: What its media are: ``image`` or ``audio``.
        model: Name of the base model that ships with the package.
        run: Name of the demo's run folder, and so the title of its report.
        language: How it is spoken of.
        scenes: Scenes by count, seed and split.
        file: The bytes of a scene's picture or clip.
        usual: Name of the benchmark that counts usual things named though absent.
        ratings: What the builder of ratings must be told of its table beside the defaults.
        options: What CHAIR and POPE must be told of their data beside the defaults.
    """

    modality: str
    model: str
    run: str
    language: Language
    scenes: Callable[[int, int, world.Split], Sequence[Scene]]
    file: Callable[[Any], bytes]
    usual: str
    ratings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plural(self) -> str:
        """Name of the media's list in a record, and of their folder."""
        return media_field(self.modality)

    def prompt(self, text: str) -> tuple[Message, ...]:
        """A user's turn: a place for one picture or clip, then the text."""
        return (user_message(text, **{self.plural: 1}),)

    def write_media(self, folder: Path, scenes: Sequence[Scene]) -> list[Path]:
        """Writes each scene to ``folder/scene_NUMBER`` with the suffix of its kind.

        Returns:
            The paths, in the order of the scenes.
        """
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / scene.file_name for scene in scenes]
        for path, scene in zip(paths, scenes, strict=True):
            path.write_bytes(self.file(scene))
        return paths


def _png(scene: world.Scene) -> bytes:
    buffer = io.BytesIO()
    draw(scene).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES: Final = World("image", "playground", "tiny-llava", LANGUAGE, world.scenes, _png, "usual_object")
