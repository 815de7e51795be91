"""AMBER's words: which nouns of a description count, and which of them are hallucinated.

The official script takes the lemmas of nltk's tokens whose tag begins with NN. `AmberWords.nouns` does without a
tagger, which matters for few words of the list; docs/evals_hallucination.md has how often the two differ.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError
from mmdpo.evals.shared.files import read_json, read_text
from mmdpo.evals.shared.noun_lemmas import noun_lemma
from mmdpo.evals.text import tokens

THRESHOLD = 0.8
"""Two words are near synonyms if their similarity is above this."""

Similarity = Callable[[str, str], float]

_HARDLY_NOUNS = frozenset({"can", "hot"})
"""Words of the list that a tagger hardly ever takes for nouns in a description: "can be seen", "a hot dog"."""


@dataclass(frozen=True)
class Description:
    """What a description says, by AMBER's rule.

    Attributes:
        nouns: Its nouns that are on the list, each mention by itself.
        wrong: Those of them that are hallucinated.
        covered: How many of the present objects it names.
        imagined: How many of the objects that people would expect, but that are absent, it names.
    """

    nouns: list[str]
    wrong: list[str]
    covered: int
    imagined: int


class AmberWords:
    """The word lists of the official data folder.

    Args:
        associations: Object -> words that may stand for it.
        safe: Words that are never held against a description.
        similarity: From two words to how near they are; None takes words as similar only to themselves.
    """

    def __init__(
        self, associations: Mapping[str, Sequence[str]], safe: Sequence[str], similarity: Similarity | None = None
    ) -> None:
        self.associations, self.safe = associations, frozenset(safe)
        self.vocabulary = frozenset(associations) | {word for words in associations.values() for word in words}
        # A word is near itself, whatever a table of similarities holds.
        self._near = functools.cache(
            lambda one, other: one == other or (similarity is not None and similarity(one, other) > THRESHOLD)
        )

    @classmethod
    def load(cls, folder: Path, similarity: Similarity | None = None) -> AmberWords:
        """Reads ``relation.json`` and ``safe_words.txt``.

        Raises:
            DataError: One of them is absent or of another form.
        """
        associations = read_json(folder / "relation.json")
        if not isinstance(associations, dict) or not all(map(_is_words, associations.values())):
            raise DataError(
                f"{str(folder / 'relation.json')!r} is no table of associations",
                why="Words that stand for a present object would count as hallucinated.",
                fix='It must look like {"person": ["man", "woman"]}.',
            )
        return cls(associations, read_text(folder / "safe_words.txt").splitlines(), similarity)

    def nouns(self, text: str) -> list[str]:
        """The words of the list that a text names, in the singular; capitals matter, as in the official script."""
        lemmas = [noun_lemma(token, self.vocabulary) for token in tokens(text) if token not in _HARDLY_NOUNS]
        return [lemma for lemma in lemmas if lemma in self.vocabulary]

    def describe(self, nouns: Sequence[str], truth: Sequence[str], hallu: Sequence[str]) -> Description:
        """Judges nouns against an image.

        Args:
            nouns: As they stand in the description; those that are not on the list are left out.
            truth: The objects in the image.
            hallu: Objects that are absent although one would expect them.
        """
        kept = [noun for noun in nouns if noun in self.vocabulary]
        present, absent = self._owners(truth), self._owners(hallu)
        covered: set[int] = set()
        imagined: set[int] = set()
        wrong = []
        for noun in kept:
            if noun in self.safe:
                continue
            if (owner := _first(present, noun.__eq__)) is not None:
                covered.add(owner)
                continue
            # The word itself and the first near one can mark two objects, if the near one stands before it.
            marked = (_first(absent, noun.__eq__), self._first_near(absent, noun))
            imagined.update(owner for owner in marked if owner is not None)
            if (owner := self._first_near(present, noun)) is None:
                wrong.append(noun)
            else:
                covered.add(owner)
        return Description(kept, wrong, len(covered), len(imagined))

    def _first_near(self, owners: Sequence[tuple[str, int]], noun: str) -> int | None:
        return _first(owners, lambda word: self._near(noun, word))

    def _owners(self, objects: Sequence[str]) -> list[tuple[str, int]]:
        """Words and the index of the object that each marks: all associations first, then the objects themselves.

        A word that is associated with one object and names another marks the first, as in the official script.
        """
        associated = [(word, i) for i, name in enumerate(objects) for word in self.associations.get(name, ())]
        return [*associated, *((name, i) for i, name in enumerate(objects))]


def read_similarity(path: Path) -> Similarity:
    """The similarities in a file ``[[word, word, value], ...]``: of both orders; pairs that it lacks have none.

    Raises:
        DataError: The file is of another form.
    """
    rows = read_json(path)
    if not isinstance(rows, list) or not all(map(_is_pair, rows)):
        raise DataError(
            f"{str(path)!r} is no table of similarities",
            why="Near synonyms of present objects would count as hallucinated without a sign.",
            fix='Write [["bike", "motorcycle", 0.83]], a line for every pair of words that may be near.',
        )
    table = {pair: value for one, other, value in rows for pair in ((one, other), (other, one))}
    return lambda one, other: table.get((one, other), 0.0)


def _first(owners: Sequence[tuple[str, int]], fits: Callable[[str], bool]) -> int | None:
    return next((owner for word, owner in owners if fits(word)), None)


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _is_pair(row: Any) -> bool:
    return (
        isinstance(row, list)
        and len(row) == 3
        and all(isinstance(word, str) for word in row[:2])
        and isinstance(row[2], int | float)
        and math.isfinite(row[2])
    )
