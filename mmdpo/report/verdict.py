"""What the numbers say, in words. Every sentence follows from an interval; nothing is claimed from a point value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from mmdpo.report.diagnostics import warnings
from mmdpo.report.measures import format_bounds, format_difference, format_value
from mmdpo.report.reading import Change, Run, series
from mmdpo.report.words import word_for

SMALL_COST = 0.02
"""A clear loss of coverage up to this (two points) is called small."""

NAMED = 4
"""Measures of hallucination, and of coverage, that the paragraph tells one by one; the others are counted."""


@dataclass(frozen=True)
class Verdict:
    """The result of one run: a headline, a paragraph, and its tone (``good``, ``mixed``, ``bad``, ``open``)."""

    headline: str
    paragraph: str
    tone: str


@dataclass(frozen=True)
class Displacement:
    """Both implicit rewards at the end of training are below zero.

    The reward is ``beta (log pi - log pi_ref)``, so even the preferred answers have become less likely than under the
    reference (arXiv:2410.08847, "Unintentional Unalignment").
    """

    chosen: float
    rejected: float


def displacement(training: Sequence[Mapping[str, Any]]) -> Displacement | None:
    """Likelihood displacement over the last fifth of the logged events, None unless clear of their noise."""
    ends = []
    for key in ("rewards/chosen", "rewards/rejected"):
        values = series(training, key)[1]
        last = values[-max(3, len(values) // 5) :]
        if len(last) < 3:
            return None
        mean = fmean(last)
        if mean + 2 * stdev(last) / math.sqrt(len(last)) >= 0:
            return None
        ends.append(mean)
    return Displacement(*ends)


def judge(run: Run) -> Verdict:
    """The verdict over the metrics of one run."""
    changes = [change for change in run.changes if change.difference is not None]
    if not changes:
        return _without_comparison(run)
    hallucination = [change for change in changes if change.measure.role == "hallucination"]
    coverage = [change for change in changes if change.measure.role == "coverage"]
    roles = ("capability", "other")
    rest = [change for change in changes if change.measure.role in roles and change.measure.better is not None]
    headline, tone = _headline(hallucination, coverage, rest)
    told = [*hallucination[:NAMED], *coverage[:NAMED]]
    sentences = [_sentence(change) for change in told]
    counted = [*hallucination[NAMED:], *coverage[NAMED:], *rest]
    if counted:
        sentences.append(_count(counted, among=bool(sentences)))
    return Verdict(headline, " ".join(sentences), tone)


def _headline(hallucination: list[Change], coverage: list[Change], rest: list[Change]) -> tuple[str, str]:
    """Headline and tone."""
    outcomes = {change.outcome for change in hallucination}
    if {"better", "worse"} <= outcomes:
        return "Hallucination moved both ways.", "mixed"
    if "worse" in outcomes:
        return "It hallucinates more than before.", "bad"
    if "better" in outcomes:
        return _price(coverage, rest)
    clear = {change.outcome for change in (*coverage, *rest)} & {"better", "worse"}
    if not clear:
        doubtful = any(change.unconfirmed for change in (*hallucination, *coverage, *rest))
        reason = (
            "no difference stands among so many comparisons"
            if doubtful
            else "every interval of a difference includes zero"
        )
        return f"No clear change: {reason}.", "open"
    if hallucination:
        return "No clear change in hallucination; other measures moved.", "mixed"
    if clear == {"better"}:
        return "Clearly better, and nothing measured here got clearly worse.", "good"
    return ("Clearly worse.", "bad") if clear == {"worse"} else ("Some measures got better, some worse.", "mixed")


def _price(coverage: list[Change], rest: list[Change]) -> tuple[str, str]:
    """Headline and tone where hallucination fell: what was paid for it."""
    # A loss here explains the gain, so it need not stand among all comparisons to be told.
    lost = [change for change in coverage if change.fell_behind]
    if any(abs(_difference(change)) > SMALL_COST for change in lost):
        return "It hallucinates less, but it also says less.", "mixed"
    if any(change.outcome == "worse" for change in rest):
        return "It hallucinates less, and something else got worse.", "mixed"
    if lost:
        return "It hallucinates less, at a small cost in what it names.", "good"
    return "It hallucinates less, and nothing measured here got clearly worse.", "good"


def _sentence(change: Change) -> str:
    difference = change.difference
    if difference is None or change.before is None or change.after is None:
        return ""
    measure = change.measure
    if change.undefined:
        return f"{measure.label} ({measure.meaning}) is undefined: a model gave nothing to divide by."
    doubt = "; not confirmed among so many comparisons" if change.unconfirmed else ""
    verb = {-1: "fell", 1: "rose", 0: "did not change clearly,"}[difference.sign]
    return (
        f"{measure.label} ({measure.meaning}) {verb} from {format_value(measure, change.before.value)} "
        f"to {format_value(measure, change.after.value)} ({format_difference(measure, difference.value)}, "
        f"95% interval {format_bounds(measure, difference.low, difference.high)}{doubt})."
    )


def _count(rest: list[Change], among: bool) -> str:
    def named(outcome: str) -> list[str]:
        return [change.measure.label for change in rest if change.outcome == outcome]

    better, worse, unclear = named("better"), named("worse"), named("unclear")
    parts = []
    if better:
        parts.append(f"{len(better)} got clearly better")
    if worse:
        parts.append(f"{len(worse)} got clearly worse ({', '.join(worse)})")
    if unclear:
        parts.append(f"{len(unclear)} did not change clearly")
    measures = "measure" if len(rest) == 1 else "measures"
    return f"Of the {len(rest)} {'other ' if among else ''}{measures} with a better direction, {_join(parts)}."


def _join(parts: list[str]) -> str:
    if not parts:
        return "none has an interval"
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _difference(change: Change) -> float:
    return (change.difference.value if change.difference else None) or 0.0


def _without_comparison(run: Run) -> Verdict:
    if run.after:
        return Verdict(
            "Measured, not compared.",
            "The model was evaluated, but there is no paired comparison with the model before training.",
            "open",
        )
    if run.training:
        return Verdict(
            "Trained, not measured.",
            "No benchmark has been run on this model yet, so nothing can be said about how much it hallucinates. "
            "Rising margins on the training pairs say only that it learnt those pairs.",
            "open",
        )
    return Verdict("Nothing to report yet.", "The run folder holds neither a training log nor an evaluation.", "open")


def _about_p(run: Run) -> str:
    """How p-values are to be read."""
    found = run.correction
    if found is None:
        return "p-values belong to single measures and are not corrected for how many there are."
    return (
        f"p-values are corrected for {found.comparisons} comparisons at once ({found.words}); a change that does not "
        "stand after that is called not confirmed. Intervals belong to single measures."
    )


def limits(runs: Sequence[Run]) -> list[str]:
    """What the numbers of these runs do not say, each sentence once."""
    unit = word_for(plural for run in runs for plural in run.media).one
    sentences = [
        f"Intervals are 95% intervals whose unit is the {unit}: what is said about one {unit} stands or falls "
        "together. They do not cover what another seed of training would give.",
        *dict.fromkeys(_about_p(run) for run in runs if any(change.difference for change in run.changes)),
    ]
    sentences += [
        f"{run.name}: {benchmark.unparsed} of {benchmark.n} answers to {benchmark.name} could not be parsed; "
        f"the rule {benchmark.rule or 'of the benchmark'} says how they count."
        for run in runs
        for benchmark in run.after.values()
        if benchmark.unparsed
    ]
    sentences += [
        f"{run.name}, {benchmark.name}: {flag}."
        for run in runs
        for benchmark in run.after.values()
        for flag in benchmark.flags
    ]
    if any(change.measure.role == "hallucination" for run in runs for change in run.changes):
        sentences.append(
            "Hallucination is counted over what a benchmark has names for; attributes, counts, relations and all else "
            "go unseen. Read it beside recall or cover: a model that says less hallucinates less."
        )
    if any(displacement(run.training) for run in runs):
        sentences.append(
            "Training made even the chosen answers less likely than under the reference (likelihood displacement); "
            "a likelihood term on the chosen answers counters it."
        )
    sentences += [
        f"{run.name}: while it trained, {warning['metric']} was {warning['value']} on {warning['pairs']} "
        f"{warning['split']} pairs (danger zone: {warning['zone']})."
        for run in runs
        for warning in warnings(run)
    ]
    return sentences + [f"{run.name}: {notice}" for run in runs for notice in run.notices]
