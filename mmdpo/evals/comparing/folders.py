"""Evaluation folders against each other: paired differences of all they share, and floors that a model must reach."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdpo.errors import ConfigError, DataError, MMDPOError
from mmdpo.evals.comparing.conclusion import concluded
from mmdpo.evals.comparing.kept import habit_differences, kept
from mmdpo.evals.result import METRICS_FILE, Result
from mmdpo.evals.runner import compare, make_benchmark
from mmdpo.evals.stats import Role


def compare_folders(before: Path, after: Path, correction: str = "holm") -> dict[str, Any]:
    """Paired differences of two evaluated models.

    Args:
        before: Run or evaluation folder of model A.
        after: The same of model B.
        correction: For the number of comparisons, as for `mmdpo.evals.comparing.testing.adjusted`.

    Raises:
        ConfigError: There is no such correction.
        DataError: They share no benchmark.
    """
    folders = [folder / "eval" if (folder / "eval").is_dir() else folder for folder in (before, after)]
    return compare_stages(folders[0], folders[1], correction)


def compare_stages(before: Path, after: Path, correction: str = "holm") -> dict[str, Any]:
    """Paired differences of every benchmark that stands in both folders, metrics prefixed with the benchmark's name.

    Args:
        before: Folder of model A with a folder for each benchmark.
        after: The same of model B.
        correction: As for `compare_folders`.

    Returns:
        ``metrics``, ``correction`` and ``conclusion`` of `comparing.conclusion.concluded`; ``habits``, which are
        corrected among themselves; and ``kept``, what became of capability and habits (`comparing.kept.kept`).

    Raises:
        ConfigError: There is no such correction.
        DataError: They share no benchmark.
    """
    names = [path.parent.name for path in sorted(before.glob(f"*/{METRICS_FILE}"))]
    shared = [name for name in names if (after / name / METRICS_FILE).is_file()]
    if not shared:
        raise DataError(
            f"{str(before)!r} and {str(after)!r} share no evaluated benchmark",
            why="Only answers to the same questions can be compared.",
            fix="Evaluate both on the same benchmark with mmdpo eval.",
        )
    metrics: dict[str, Any] = {}
    habits: dict[str, Any] = {}
    for name in shared:
        results = Result.load(before / name), Result.load(after / name)
        role = make_benchmark(results[0].benchmark).role
        for metric, entry in compare(*results).items():
            # how often a model says yes is a habit of it, whatever the questions measure
            own: Role | None = "capability" if metric.endswith("yes_ratio") else role
            known = {"role": own} if own else {}
            metrics[metric if metric.startswith(name) else f"{name}_{metric}"] = known | entry
        habits |= {f"{name}_{habit}": entry for habit, entry in habit_differences(*results).items()}
    told = concluded(metrics, correction)
    told_habits = concluded(habits, correction)["metrics"]
    return {**told, "habits": told_habits, "kept": kept(told["metrics"], told_habits)}


def require(comparison: Mapping[str, Any], limits: Sequence[str]) -> None:
    """Checks ``METRIC=VALUE`` limits of model B: a floor, or a ceiling where lower is better.

    Raises:
        ConfigError: A limit is not of that form, names no metric, or is one that nothing can miss.
        MMDPOError: A metric is on the wrong side of its limit, or undefined.
    """
    entries = {**comparison.get("habits", {}), **comparison["metrics"]}
    for limit in limits:
        name, bound = _limit(entries, limit)
        entry = entries[name]
        reached, lower_is_better = entry["after"]["value"], entry["better"] == "lower"
        if entry["after"].get("n") == 0:
            raise MMDPOError(
                f"{name} is undefined: model B gave it nothing to divide by",
                why="A model that says nothing must not pass a check.",
                fix="Look at its answers.",
            )
        if reached > bound if lower_is_better else reached < bound:
            raise MMDPOError(
                f"{name} is {reached:.4f}, {'above' if lower_is_better else 'below'} {bound:g}",
                why="The limit was set by --fail-under" + (", and lower is better." if lower_is_better else "."),
            )


def _limit(entries: Mapping[str, Any], limit: str) -> tuple[str, float]:
    """The metric and the number of a limit."""
    name, _, value = limit.partition("=")
    entry = entries.get(name)
    if entry is None:
        raise ConfigError(
            f"--fail-under {limit!r} names no compared metric",
            why=f"Compared are: {', '.join(entries)}.",
            fix="Write METRIC=VALUE with a fraction between 0 and 1.",
        )
    fraction = entry.get("percent", True)
    form = f"Write {name}=VALUE with " + ("a fraction between 0 and 1." if fraction else "a number.")
    try:
        bound = float(value)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise ConfigError(
            f"--fail-under {limit!r} has no number", why="There is nothing to hold the metric against.", fix=form
        )
    if fraction and entry["better"] == "lower" and bound > 1:
        raise ConfigError(
            f"--fail-under {limit!r} asks for at most {bound:g} of a fraction", why="No model could fail.", fix=form
        )
    return name, bound
