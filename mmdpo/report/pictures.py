"""Pictures with the answers before and after: thumbnails, marked words, and a choice that nobody picked by hand."""

from __future__ import annotations

import base64
import io
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape
from PIL import Image

from mmdpo.media import Media, MediaError, open_image
from mmdpo.report.reading import Benchmark, Run

THUMBNAIL = 320
"""Longest side of a photo in a page, in pixels."""
SMALL = 128
"""Pictures up to this side are kept as they are (PNG) and enlarged without blur by the page."""
CLASSES = ("better", "mixed", "worse", "unchanged")
Item = Mapping[str, Any]


@dataclass(frozen=True)
class Thumbnail:
    """A picture inside the page, or why there is none."""

    uri: str | None
    small: bool = False
    missing: str = ""


@dataclass(frozen=True)
class Answer:
    """What one model said to one item.

    Args:
        text: The answer as safe markup, hallucinated words marked.
        unmarked: Hallucinated objects that do not appear in the answer as such (named by a synonym).
        correct: Right or wrong, for questions with an answer; None for captions.
        outcome: One of ``CLASSES`` against the model before training; empty for that model itself.
    """

    text: Markup
    unmarked: Sequence[str] = ()
    correct: bool | None = None
    outcome: str = ""


@dataclass(frozen=True)
class Card:
    """One item with the answers of every model, the one before training first."""

    id: str
    prompt: str
    picture: Thumbnail
    label: str
    answers: Sequence[Answer]
    outcome: str


@dataclass(frozen=True)
class Grid:
    """The cards of one benchmark and how many items of each class they were drawn from."""

    benchmark: str
    n: int
    counts: Mapping[str, int]
    cards: Sequence[Card]
    shared_prompt: str
    marked: bool
    unmatched: int


def grids(runs: Sequence[Run], *, each: int, seed: int) -> list[Grid]:
    """One grid for every benchmark that was run before and after training.

    Args:
        runs: Classes and choice follow the first; the answers of the others stand beside it.
        each: Cards of each class, as far as there are so many.
        seed: Picks them.
    """
    first = runs[0]
    names = [name for name in first.after if name in first.before and first.after[name].items]
    return [_grid(name, runs, each, seed) for name in names]


def _grid(name: str, runs: Sequence[Run], each: int, seed: int) -> Grid:
    before = _by_id(runs[0].before[name].items)
    after = [_by_id(run.after[name].items) if name in run.after else {} for run in runs]
    classes: dict[str, list[str]] = {outcome: [] for outcome in CLASSES}
    for key, item in before.items():
        if key in after[0]:
            classes[compare_items(item, after[0][key])].append(key)
    # One generator for each class: more cards of one class do not change the choice of another.
    chosen = [
        key
        for outcome, keys in classes.items()
        for key in random.Random(f"{seed}/{name}/{outcome}").sample(keys, min(each, len(keys)))
    ]
    cards = [_card(before[key], [items.get(key) for items in after], runs[0].before[name]) for key in chosen]
    prompts = {card.prompt for card in cards}
    matched = sum(len(keys) for keys in classes.values())
    return Grid(
        benchmark=name,
        n=matched,
        counts={outcome: len(keys) for outcome, keys in classes.items() if keys},
        cards=cards,
        shared_prompt=prompts.pop() if len(prompts) == 1 and len(cards) > 1 else "",
        marked=any("hallucinated" in item for item in before.values()),
        unmatched=len(before) + len(after[0]) - 2 * matched,
    )


def compare_items(before: Item, after: Item) -> str:
    """``better``, ``worse``, ``unchanged``, or ``mixed`` (fewer wrong but fewer right objects, or more of both).

    Questions are judged by ``correct``; captions by their distinct hallucinated and their distinct right objects.
    """
    if before.get("correct") is not None and after.get("correct") is not None:
        gained = bool(after["correct"]) - bool(before["correct"])
        return "better" if gained > 0 else "worse" if gained < 0 else "unchanged"
    less_wrong = len(_wrong(before)) - len(_wrong(after))
    more_right = len(_right(after)) - len(_right(before))
    if less_wrong * more_right < 0:
        return "mixed"
    gained = less_wrong + more_right
    return "better" if gained > 0 else "worse" if gained < 0 else "unchanged"


def mark(text: str, words: Iterable[str]) -> Markup:
    """Escapes a text and wraps whole words of it (and their plurals) into ``<mark>``."""
    known = sorted({word for word in words if word.strip()}, key=len, reverse=True)
    if not known:
        return escape(text)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, known))})(?:s|es)?(?!\w)", re.IGNORECASE)
    marked, end = Markup(""), 0
    for match in pattern.finditer(text):
        marked += escape(text[end : match.start()]) + Markup("<mark>{}</mark>").format(match[0])
        end = match.end()
    return marked + escape(text[end:])


def thumbnail(path: str, root: Path) -> Thumbnail:
    """A picture under a folder as a data URI; what cannot be opened or lies elsewhere is said in its place."""
    if root.resolve() == Path(root.resolve().anchor):  # run folders travel: one could name every file of this machine
        return Thumbnail(None, missing="outside root")
    try:
        return embed(open_image(Media(path), root))
    except MediaError as error:
        return Thumbnail(None, missing=error.kind.replace("_", " "))


def embed(picture: Image.Image) -> Thumbnail:
    """An opened picture as a data URI: small drawings as they are, photos reduced."""
    small = max(picture.size) <= SMALL
    if not small:
        picture = picture.copy()
        picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    kind = "png" if small else "jpeg"
    with io.BytesIO() as file:
        picture.save(file, format=kind, optimize=True, **({} if small else {"quality": 82}))
        data = base64.b64encode(file.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/{kind};base64,{data}", small)


def _card(before: Item, after: Sequence[Item | None], source: Benchmark) -> Card:
    answers = [_answer(before, "")]
    answers += [Answer(Markup("")) if item is None else _answer(item, compare_items(before, item)) for item in after]
    path = before.get("image")
    return Card(
        id=str(before.get("id", "")),
        prompt=str(before.get("prompt") or before.get("question") or ""),
        picture=thumbnail(str(path), Path(before.get("image_root") or source.folder))
        if path
        else Thumbnail(None, missing="no picture"),
        label="" if before.get("label") is None else str(before["label"]),
        answers=answers,
        outcome=answers[1].outcome,
    )


def _answer(item: Item, outcome: str) -> Answer:
    text = str(item.get("raw", ""))
    wrong = sorted({pair[0] for pair in _pairs(item.get("hallucinated"))})
    marked = mark(text, wrong)
    shown = str(marked).lower()
    correct = item.get("correct")
    return Answer(
        text=marked,
        unmarked=[word for word in wrong if f"<mark>{escape(word)}".lower() not in shown],
        correct=None if correct is None else bool(correct),
        outcome=outcome,
    )


def _wrong(item: Item) -> set[str]:
    """The objects named that are not there."""
    return {pair[-1] for pair in _pairs(item.get("hallucinated"))}


def _right(item: Item) -> set[str]:
    """The objects named that are there."""
    return {pair[-1] for pair in _pairs(item.get("objects"))} - _wrong(item)


def _pairs(value: Any) -> list[list[str]]:
    """Entries of a list as [word as written, object it names]; a lone word is both."""
    if not isinstance(value, list):
        return []
    return [[str(word) for word in entry] if isinstance(entry, list) and entry else [str(entry)] for entry in value]


def _by_id(items: Sequence[Item]) -> dict[str, Item]:
    return {str(item.get("id", place)): item for place, item in enumerate(items)}
