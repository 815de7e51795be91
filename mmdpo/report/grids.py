"""Media with the answers before and after: cards, marked words, and a choice that nobody picked by hand."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from mmdpo.media import Media
from mmdpo.report.evaluated import Benchmark
from mmdpo.report.exhibits import Exhibit, Exhibits
from mmdpo.report.items import Item, pairs
from mmdpo.report.reading import Run
from mmdpo.report.words import Word, word_for

CLASSES = ("better", "mixed", "worse", "unchanged")


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
    exhibits: Sequence[Exhibit]
    label: str
    answers: Sequence[Answer]
    outcome: str


@dataclass(frozen=True)
class Grid:
    """The cards of one benchmark and how many items of each class they were drawn from."""

    benchmark: str
    word: Word
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
    first, exhibits = runs[0], Exhibits()
    names = [name for name in first.after if name in first.before and first.after[name].items]
    return [_grid(name, runs, each, seed, exhibits) for name in names]


def _grid(name: str, runs: Sequence[Run], each: int, seed: int, exhibits: Exhibits) -> Grid:
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
    source = runs[0].before[name]
    cards = [_card(before[key], [items.get(key) for items in after], source, exhibits) for key in chosen]
    prompts = {card.prompt for card in cards}
    matched = sum(len(keys) for keys in classes.values())
    return Grid(
        benchmark=name,
        word=word_for(source.media),
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


def _card(before: Item, after: Sequence[Item | None], source: Benchmark, exhibits: Exhibits) -> Card:
    answers = [_answer(before, "")]
    answers += [Answer(Markup("")) if item is None else _answer(item, compare_items(before, item)) for item in after]
    root = Path(before.get("media_root") or source.folder)
    return Card(
        id=str(before.get("id", "")),
        prompt=str(before.get("prompt") or before.get("question") or ""),
        exhibits=[
            exhibits.show(plural, Media(str(path)), root) for plural, paths in before["media"].items() for path in paths
        ],
        label=_truth(before.get("label")),
        answers=answers,
        outcome=answers[1].outcome,
    )


def _answer(item: Item, outcome: str) -> Answer:
    text = str(item.get("raw", ""))
    wrong = sorted({pair[0] for pair in pairs(item.get("hallucinated"))})
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
    return {pair[-1] for pair in pairs(item.get("hallucinated"))}


def _right(item: Item) -> set[str]:
    """The objects named that are there."""
    return {pair[-1] for pair in pairs(item.get("objects"))} - _wrong(item)


def _truth(label: Any) -> str:
    """What is right, in words; of many human answers each once."""
    told = label.get("truth") if isinstance(label, Mapping) else label
    if isinstance(told, list):
        return ", ".join(dict.fromkeys(map(str, told)))
    return "" if told is None else str(told)


def _by_id(items: Sequence[Item]) -> dict[str, Item]:
    return {str(item.get("id", place)): item for place, item in enumerate(items)}
