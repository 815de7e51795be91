"""What it cost: capability and habits of two models, told apart into lost, gained, kept, changed and open.

That no difference is shown does not mean that there is none. So a metric counts as *kept* only where its interval
excludes a loss of more than `WITHIN`; where it does not, the question is *open*, and the loss that it leaves possible
is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdpo.evals.result import Result
from mmdpo.evals.runner import UNDEFINED, compared, make_benchmark, shared_items
from mmdpo.evals.shared.habits import Habit, habit_metrics, habits_of

WITHIN = 0.05
"""The loss that a metric may have and still be kept: of a fraction five points, else this share of the value before."""
_NAMED = 6

OUTCOMES: Mapping[str, str] = {
    "lost": "Lost",
    "gained": "Gained",
    "changed": "Changed, neither better nor worse by itself",
    "kept": f"Kept (a loss of more than {100 * WITHIN:g} points, or {100 * WITHIN:g}% of the value, is excluded)",
    "open": "Open (too few answers to tell)",
    "undefined": "Undefined for a model that gives nothing to divide by",
}
"""What can become of a metric -> how the verdict says it."""


def capability(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Those compared metrics that tell what a model can do, and not what it makes up."""
    return {name: entry for name, entry in metrics.items() if entry.get("role") == "capability"}


def habit_differences(before: Result, after: Result) -> dict[str, dict[str, Any]]:
    """Paired differences of the habits that two results have, each as `mmdpo.evals.runner.compare` gives a metric's."""
    metrics = [
        metric
        for metric in habit_metrics(make_benchmark(before.benchmark).refusals_wanted)
        if metric.name in before.habits and metric.name in after.habits
    ]
    pairs = zip(*shared_items(before, after), strict=True)
    written = [(first, second) for first, second in ((habits_of([a]), habits_of([b])) for a, b in pairs)]
    both = [(*first, *second) for first, second in written if first and second]
    if len({first.group for first, _ in both}) < 2:
        return {}
    sides: tuple[list[Habit], list[Habit]] = ([first for first, _ in both], [second for _, second in both])
    return {
        metric.name: compared(metric, *sides, before.habits[metric.name], after.habits[metric.name])
        for metric in metrics
    }


def outcome(entry: Mapping[str, Any]) -> str:
    """What became of one metric: a name in `OUTCOMES`.

    A loss or gain that is not confirmed after the correction for the number of comparisons is open.

    Args:
        entry: What a comparison says of it.
    """
    gap = entry["difference"]
    verdict = gap["verdict"]
    if verdict.startswith(UNDEFINED):
        return "undefined"
    settled = {"worse": "lost", "better": "gained", "higher": "changed", "lower": "changed"}.get(verdict)
    return settled or ("kept" if worst(entry) <= allowed(entry) else "open")


def worst(entry: Mapping[str, Any]) -> float:
    """The largest loss that the interval of a difference leaves possible; infinite where it has no bound."""
    low, high = entry["difference"]["low"], entry["difference"]["high"]
    if low is None or high is None:
        return float("inf")
    return {"higher": -low, "lower": high, "neither": max(-low, high)}[entry["better"]]


def allowed(entry: Mapping[str, Any]) -> float:
    """The loss that a metric may have and still be kept."""
    return WITHIN if entry.get("percent", True) else WITHIN * abs(entry["before"]["value"])


def kept(metrics: Mapping[str, Mapping[str, Any]], habits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What became of everything that alignment can break.

    Args:
        metrics: All compared metrics, with corrected verdicts.
        habits: The compared habits, likewise.

    Returns:
        ``within`` (`WITHIN`), the names by outcome, and ``sentences``.
    """
    able = capability(metrics)
    entries = {**able, **habits}
    by_outcome: dict[str, list[str]] = {name: [] for name in OUTCOMES}
    for name, entry in entries.items():
        by_outcome[outcome(entry)].append(name)
    sentences = [
        f"{words}: {_listed({name: entries[name] for name in by_outcome[key]})}."
        for key, words in OUTCOMES.items()
        if by_outcome[key]
    ]
    if all(name.endswith("yes_ratio") for name in able):  # which yes/no questions about hallucination have too
        sentences.append("No benchmark of capability is compared (vqa, textvqa, text_checks, perplexity, diversity).")
    return {"within": WITHIN, **by_outcome, "sentences": sentences}


def _listed(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Names with their differences and intervals, the first few."""
    words = []
    for name, entry in list(entries.items())[:_NAMED]:
        fraction = entry.get("percent", True)
        scale, form = (100, "+.1f") if fraction else (1, "+.2f")
        value, low, high = (
            "–" if bound is None else f"{scale * bound:{form}}"
            for bound in (entry["difference"][key] for key in ("value", "low", "high"))
        )
        words.append(f"{name} {value}{' points' if fraction else ''} [{low}, {high}]")
    more = len(entries) - _NAMED
    return ", ".join(words) + (f" and {more} more" if more > 0 else "")
