"""Failures by object: which absent objects are named or affirmed, and which present ones they come with."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmdpo.evals.stats import Interval
from mmdpo.report.items import Item, asked_object, group_of, present_objects, said_yes, wrong_objects
from mmdpo.report.slice_rows import Slice, SliceRow, largest, rate

LEAST_TOGETHER = 3
"""Failures of all models together below which two objects are no pair worth showing."""
LEAST_BESIDE = 10
"""Answers of one model likewise, at which the second object is there."""
Pair = tuple[str, str]


@dataclass(frozen=True)
class Trial:
    """One answer as an occasion to find an object that is not there.

    Attributes:
        group: The resampling unit.
        wrong: The absent objects that it finds.
        present: The objects known to be there.
        asked: The only object that it could find; None for a caption, which could name anything.
    """

    group: str
    wrong: frozenset[str]
    present: frozenset[str]
    asked: str | None = None

    def could(self, thing: str) -> bool:
        """Whether it could find this object wrongly."""
        return thing not in self.present if self.asked is None else thing == self.asked


Trials = Mapping[str, Sequence[Trial]]


@dataclass(frozen=True)
class Way:
    """A way to ask about objects, in words; ``{unit}`` is what an item is about."""

    name: str
    title: str
    meaning: str
    remark: str


NAMED = Way(
    "named",
    "By object named",
    "answers that name the object, of those about a {unit} without it",
    "",
)
AFFIRMED = Way(
    "asked",
    "By object asked for",
    "answers that say yes, of those to questions for an object that is not in the {unit}",
    "Known to be there are only the objects that other questions on the same {unit} are about.",
)


def captions(items: Sequence[Item]) -> list[Trial]:
    """The captions among some items whose objects are known."""
    known = [(item, present_objects(item)) for item in items]
    return [Trial(group_of(item), wrong_objects(item), present) for item, present in known if present is not None]


def questions(items: Sequence[Item]) -> list[Trial]:
    """The questions for absent objects; there are those objects that questions on the same image say are there."""
    asked = [(item, thing) for item in items if (thing := asked_object(item)) is not None]
    there: dict[str, set[str]] = defaultdict(set)
    for item, thing in asked:
        if item["label"] == "yes":
            there[group_of(item)].add(thing)
    return [
        Trial(group_of(item), frozenset({thing} if said_yes(item) else ()), frozenset(there[group_of(item)]), thing)
        for item, thing in asked
        if item["label"] == "no"
    ]


def by_object(benchmark: str, trials: Trials, way: Way, unit: str) -> Slice:
    """How often each object is found although it is not there.

    Args:
        benchmark: Its name.
        trials: Model -> its answers.
        way: How objects are asked about.
        unit: What an item is about.
    """
    wrong = Counter(thing for column in trials.values() for trial in column for thing in trial.wrong)
    rows = [
        SliceRow(thing, [_rate(column, thing) for column in trials.values()], share=count / wrong.total())
        for thing, count in largest(wrong)
    ]
    meaning = way.meaning.format(unit=unit)
    return Slice(
        name=f"{benchmark}_{way.name}",
        benchmark=benchmark,
        title=way.title,
        meaning=meaning,
        columns=list(trials),
        rows=rows,
        found=len(wrong),
        without="no object that is not there is found",
    )


def together(benchmark: str, trials: Trials, way: Way, unit: str) -> Slice:
    """How often an absent object is found beside a present one, against how often it is found at all.

    Pairs are those with most failures beyond what the absent object has wherever it could be found.

    Args:
        benchmark: Its name.
        trials: Model -> its answers.
        way: How objects are asked about.
        unit: What an item is about.
    """
    hits: Counter[Pair] = Counter()
    most: Counter[Pair] = Counter()
    more: dict[Pair, float] = defaultdict(float)
    for column in trials.values():
        failed, tried, possible = _sums(column)
        found = Counter((thing, other) for trial in column for thing in trial.wrong for other in trial.present)
        hits += found
        most |= possible
        for pair, n in possible.items():
            more[pair] += found[pair] - n * failed[pair[0]] / tried[pair[0]]
    tested = [pair for pair, n in most.items() if n >= LEAST_BESIDE and hits[pair] >= LEAST_TOGETHER]
    drawn = {pair: more[pair] for pair in tested if more[pair] > 1e-9}
    rows = [
        SliceRow(
            f"{thing} ← {other}",
            [_rate(column, thing, other) for column in trials.values()],
            [_rate(column, thing) for column in trials.values()],
        )
        for (thing, other), _ in largest(drawn)
    ]
    meaning = f"the same where the object behind the arrow is there; the thin line is the rate of all {unit}s"
    return Slice(
        name=f"{benchmark}_{way.name}_beside",
        benchmark=benchmark,
        title=f"{way.title}, and what is there",
        meaning=meaning,
        columns=list(trials),
        rows=rows,
        found=len(tested),
        remark=way.remark.format(unit=unit),
        without="no object is found clearly often beside another",
    )


def _sums(column: Sequence[Trial]) -> tuple[Counter[str], Counter[str], Counter[Pair]]:
    """How often each object is found wrongly, could be, and could be beside each object that is there."""
    failed = Counter(thing for trial in column for thing in trial.wrong)
    tried: Counter[str] = Counter()
    possible: Counter[Pair] = Counter()
    for trial in column:
        for thing in filter(trial.could, failed):
            tried[thing] += 1
            possible.update((thing, other) for other in trial.present)
    return failed, tried, possible


def _rate(column: Sequence[Trial], thing: str, beside: str | None = None) -> Interval | None:
    return rate(
        (trial.group, float(thing in trial.wrong))
        for trial in column
        if trial.could(thing) and (beside is None or beside in trial.present)
    )
