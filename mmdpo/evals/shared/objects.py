"""Finding named objects in captions: CHAIR's scan over singular words, for any table of names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError
from mmdpo.evals.shared.files import read_json, read_text

# Pairs that name something else than their last word would by itself, from the official CHAIR script: a toilet seat is
# no chair, a train track no train, and the "baby" of a baby bear no person. "wine glas" is what `pattern` makes of it.
_ANIMALS = (
    "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub",
)  # fmt: skip
_READ_AS = {
    "bow tie": "tie",
    "home plate": "home plate",
    "toilet seat": "toilet",
    "train track": "train track",
    "wine glas": "wine glass",
    "passenger jet": "jet",
    "passenger train": "train",
    **{f"{age} {animal}": animal for age in ("adult", "baby") for animal in _ANIMALS},
}


@dataclass(frozen=True)
class Mention:
    """One naming of an object.

    Attributes:
        word: The name used, in the singular.
        category: The object it stands for.
    """

    word: str
    category: str


class ObjectNames:
    """Names of objects and their synonyms.

    Args:
        synonyms: Category -> further names of it. A name is one word or two; longer ones are never found.
    """

    def __init__(self, synonyms: Mapping[str, Sequence[str]]) -> None:
        self.category_of = {name: category for category, names in synonyms.items() for name in (category, *names)}
        pairs = {" ".join(name.split()) for name in self.category_of if len(name.split()) == 2}
        self._pairs = {pair: pair for pair in pairs} | _READ_AS
        parts = {part for pair in self._pairs for part in pair.split()}
        self.words = frozenset(parts | {name for name in self.category_of if " " not in name})
        """The singular words that matter to `mentions`."""

    @classmethod
    def load(cls, path: Path | None = None) -> ObjectNames:
        """Reads a table: JSON ``{category: [names]}``, or lines of names between commas, the category first.

        Args:
            path: The file; None is our own table of the 80 COCO categories.

        Raises:
            DataError: The file is of neither form.
        """
        if path is None:
            own = resources.files("mmdpo.evals.shared") / "coco_synonyms.json"
            with resources.as_file(own) as file:
                return cls(read_json(file))
        if path.suffix == ".json":
            return cls(_checked(read_json(path), path))
        # Names are not stripped further, as in the official script: its file has two spaces before "cheesecake" and
        # "motor bike", so neither is ever found.
        lines = [line.strip().split(", ") for line in read_text(path).splitlines() if line.strip()]
        if not lines:
            raise DataError(f"{str(path)!r} is empty", why="No object could be found.", fix="Give a line per category.")
        return cls({names[0]: names[1:] for names in lines})

    def mentions(self, words: Sequence[str]) -> list[Mention]:
        """The objects that a caption names, each mention by itself.

        Args:
            words: The caption's words, lower case and singular.
        """
        joined: list[str] = []
        position = 0
        while position < len(words):
            pair = self._pairs.get(" ".join(words[position : position + 2]))
            joined.append(pair or words[position])
            position += 2 if pair else 1
        if "toilet" in joined:
            joined = [word for word in joined if word != "seat"]
        return [Mention(word, self.category_of[word]) for word in joined if word in self.category_of]


def _checked(table: Any, path: Path) -> dict[str, list[str]]:
    if isinstance(table, dict) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in table.values()
    ):
        return table
    raise DataError(
        f"{str(path)!r} is no table of names",
        why="Every category needs a list of its further names, which may be empty.",
        fix='Write {"couch": ["sofa"], "stop sign": []}.',
    )
