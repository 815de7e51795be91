"""Where the failures are: by object, by what is there beside it, and by kind of question.

Slices are chosen by the failures of all models together, so that the choice favours none: those that were worst before
training would look better after it by chance alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from mmdpo.report.items import Item, failure, group_of, kinds
from mmdpo.report.object_slices import AFFIRMED, NAMED, by_object, captions, questions, together
from mmdpo.report.reading import Run
from mmdpo.report.slice_rows import FEW, Slice, SliceRow, largest, rate
from mmdpo.report.words import AFTER, BEFORE, word_for

Outcomes = dict[str, list[tuple[str, float]]]
"""Model -> image of each answer, and how far it failed."""


def slices(runs: Sequence[Run], labels: Sequence[str]) -> tuple[list[Slice], list[str]]:
    """The slices of every benchmark of the first run.

    Args:
        runs: The model before training is that of the first.
        labels: Their names.

    Returns:
        The slices, and sentences about what could not be sliced.
    """
    found, told = [], []
    names = [AFTER] if len(runs) == 1 else labels
    for name, first in runs[0].after.items():
        before = {BEFORE: runs[0].before[name].items} if name in runs[0].before else {}
        after = {label: run.after[name].items for label, run in zip(names, runs, strict=True) if name in run.after}
        of_one, remarks = slices_of(name, {**before, **after}, word_for(first.media).one)
        found += of_one
        told += remarks
    return found, told


def slices_of(benchmark: str, columns: Mapping[str, Sequence[Item]], unit: str) -> tuple[list[Slice], list[str]]:
    """The slices of one benchmark.

    Args:
        benchmark: Its name.
        columns: Model -> its judged items, the model before training first. Only items that all models answered count.
        unit: What an item is about, in words.

    Returns:
        By object, where items say which objects are there; by each property that sorts questions into two kinds or
        more. And sentences about what could not be sliced.
    """
    shared = set.intersection(*({_key(item) for item in items} for items in columns.values()))
    kept = {name: [item for item in items if _key(item) in shared] for name, items in columns.items()}
    found, told = [], []
    asked = False
    for read, way in ((captions, NAMED), (questions, AFFIRMED)):
        trials = {name: read(items) for name, items in kept.items()}
        if any(trials.values()):
            asked = True
            found += [by_object(benchmark, trials, way, unit), together(benchmark, trials, way, unit)]
    if not asked:
        told.append(f"{benchmark}: its items do not say which objects are there, so it is not sliced by object.")
    found += _by_kind(benchmark, kept)
    told += [
        f"{benchmark}, {one.title.lower()}: {f'no slice has {FEW} answers' if one.rows else one.without}."
        for one in found
        if not one.tells
    ]
    return [one for one in found if one.tells], told


def _by_kind(benchmark: str, columns: Mapping[str, Sequence[Item]]) -> list[Slice]:
    """The questions by each property that sorts them into several kinds; one of several kinds counts with each."""
    found: dict[str, dict[str, Outcomes]] = defaultdict(dict)
    failures: dict[str, float] = defaultdict(float)
    for name, items in columns.items():
        for item in items:
            failed = failure(item)
            if failed is None:
                continue
            for words, values in kinds(item).items():
                failures[words] += failed
                for kind in values:
                    own = found[words].setdefault(kind, {column: [] for column in columns})
                    own[name].append((group_of(item), failed))
    return [
        _kinds_of(benchmark, words, own, failures[words])
        for words, own in found.items()
        if len(own) > 1 and failures[words]
    ]


def _kinds_of(benchmark: str, words: str, found: Mapping[str, Outcomes], failures: float) -> Slice:
    amounts = {kind: sum(failed for own in columns.values() for _, failed in own) for kind, columns in found.items()}
    rows = [
        SliceRow(kind, [rate(own) for own in found[kind].values()], share=amount / failures)
        for kind, amount in largest(amounts)
    ]
    columns = list(next(iter(found.values())))
    name = f"{benchmark}_{words.replace(' ', '_')}"
    return Slice(name, benchmark, f"By {words}", "answers that are wrong", columns, rows, len(found))


def _key(item: Item) -> str:
    return str(item.get("id"))
