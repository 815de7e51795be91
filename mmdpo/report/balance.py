"""What training gained and what it cost: hallucination on one side, all that it can break on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmdpo.evals.comparing.kept import OUTCOMES, outcome
from mmdpo.report.measures import Measure, format_bounds, format_difference
from mmdpo.report.reading import Change, Run

ROWS = 8
"""Measures that are shown of each side."""
NAMED = 4
"""Measures that a sentence names."""
_VERDICTS = {"better": "better", "worse": "worse", "moved": "higher", "unclear": "no difference shown"}
_UNCLEAR = "Without a clear change"
_GAINS = {
    "gained": "Clearly better",
    "lost": "Clearly worse",
    "changed": "Changed",
    "kept": _UNCLEAR,
    "open": _UNCLEAR,
    "undefined": OUTCOMES["undefined"],
}
_UNMEASURED = (
    " No benchmark of other abilities was run (such as vqa, textvqa or text_checks), so what else it cost is not known."
)


@dataclass(frozen=True)
class Side:
    """One side of the balance.

    Attributes:
        title: Which.
        rows: Measures, and the change of each in every run; those of hallucination first, then those that changed.
        more: How many measures are not in the rows.
        sentences: What came of them, for each run.
    """

    title: str
    rows: Sequence[tuple[Measure, Sequence[Change | None]]]
    more: int
    sentences: Sequence[str]


def balance(runs: Sequence[Run]) -> list[Side]:
    """Both sides; none where nothing was compared.

    Gained is what the measures of hallucination say, and behind them those without a role that have a better direction.
    Cost is what those of coverage and capability say, and the habits: how long answers are, how many decline.
    """
    gained = [
        [*_with_role(run, "hallucination"), *(one for one in _with_role(run, "other") if one.measure.better)]
        for run in runs
    ]
    cost = [[*_with_role(run, "coverage", "capability"), *_compared(run.habits)] for run in runs]
    if not any([*gained, *cost]):
        return []
    paid = [
        _in_words(changes, OUTCOMES) + ("" if _with_role(run, "capability") else _UNMEASURED)
        for run, changes in zip(runs, cost, strict=True)
    ]
    return [
        _side("What it gained", gained, [_in_words(changes, _GAINS) for changes in gained]),
        _side("What it cost", cost, paid),
    ]


def fate(change: Change) -> str:
    """What became of a measure: a name in `mmdpo.evals.comparing.kept.OUTCOMES`."""
    difference, measure = change.difference, change.measure
    if difference is None or change.outcome == "none" or change.before is None:
        return "undefined"
    return outcome(
        {
            "difference": {"verdict": _VERDICTS[change.outcome], "low": difference.low, "high": difference.high},
            "better": measure.better or "neither",
            "percent": measure.percent,
            "before": {"value": change.before.value or 0.0},
        }
    )


def _compared(changes: Sequence[Change]) -> list[Change]:
    return [change for change in changes if change.difference is not None and change.difference.value is not None]


def _with_role(run: Run, *roles: str) -> list[Change]:
    """Measures of all questions, not of a part of them (``accuracy/number``)."""
    return [
        change for change in _compared(run.changes) if change.measure.role in roles and "/" not in change.measure.name
    ]


def _side(title: str, changes: Sequence[Sequence[Change]], sentences: Sequence[str]) -> Side:
    by_run = [{change.measure.name: change for change in own} for own in changes]
    measures = {change.measure.name: change.measure for own in changes for change in own}
    order = list(OUTCOMES)
    first = {name: min(order.index(fate(own[name])) for own in by_run if name in own) for name in measures}
    shown = sorted(measures, key=lambda name: (measures[name].role != "hallucination", first[name]))[:ROWS]
    rows = [(measures[name], [own.get(name) for own in by_run]) for name in shown]
    return Side(title, rows, len(measures) - len(rows), sentences)


def _in_words(changes: Sequence[Change], words: Mapping[str, str]) -> str:
    """What became of some measures, in sentences; ``words`` are those for each fate, in the order of the sentences."""
    found: dict[str, list[str]] = {said: [] for said in words.values()}
    for change in changes:
        found[words[fate(change)]].append(_named(change))
    sentences = []
    for said, names in found.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        if names:
            sentences.append(f"{said}: {', '.join(names[:NAMED])}{more}.")
    return " ".join(sentences)


def _named(change: Change) -> str:
    measure, difference = change.measure, change.difference
    if difference is None or change.undefined:
        return measure.label
    doubt = "not confirmed" if change.unconfirmed else ""
    told = ", ".join(filter(None, (format_bounds(measure, difference.low, difference.high), doubt)))
    return f"{measure.label} {format_difference(measure, difference.value)}" + (f" ({told})" if told else "")
