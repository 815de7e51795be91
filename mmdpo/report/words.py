"""What the media of a page are called: pictures, clips, videos, or items where it is another kind or several."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """A noun.

    Args:
        one: Singular.
        many: Plural.
    """

    one: str
    many: str


BEFORE, AFTER = "before training", "after training"
"""What the columns of one run are called."""
_WORDS = {"images": Word("picture", "pictures"), "audios": Word("clip", "clips"), "videos": Word("video", "videos")}
_ITEM = Word("item", "items")


def counted(number: int, plural: str) -> str:
    """``1,200 pictures``, ``1 clip``: media of a list with their number; a list of another kind keeps its own name."""
    word = _WORDS.get(plural, Word(plural, plural))
    return f"{number:,} {word.one if number == 1 else word.many}"


def word_for(plurals: Iterable[str]) -> Word:
    """The word for media of these lists of :attr:`mmdpo.Record.media`; of several lists, or of none, ``item``."""
    distinct = set(plurals)
    return _WORDS.get(distinct.pop(), _ITEM) if len(distinct) == 1 else _ITEM
