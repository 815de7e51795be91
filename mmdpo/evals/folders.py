"""Evaluation folders against each other: paired differences of all they share, and floors that a model must reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdpo.errors import ConfigError, DataError, MMDPOError
from mmdpo.evals.result import METRICS_FILE, Result
from mmdpo.evals.runner import compare


def compare_folders(before: Path, after: Path) -> dict[str, Any]:
    """Paired differences of two evaluated models.

    Args:
        before: Run or evaluation folder of model A.
        after: The same of model B.

    Raises:
        DataError: They share no benchmark.
    """
    folders = [folder / "eval" if (folder / "eval").is_dir() else folder for folder in (before, after)]
    return compare_stages(*folders)


def compare_stages(before: Path, after: Path) -> dict[str, Any]:
    """Paired differences of every benchmark that stands in both folders, metrics prefixed with the benchmark's name."""
    names = [path.parent.name for path in sorted(before.glob(f"*/{METRICS_FILE}"))]
    shared = [name for name in names if (after / name / METRICS_FILE).is_file()]
    if not shared:
        raise DataError(
            f"{str(before)!r} and {str(after)!r} share no evaluated benchmark",
            why="Only answers to the same questions can be compared.",
            fix="Evaluate both on the same benchmark with mmdpo eval.",
        )
    metrics: dict[str, Any] = {}
    for name in shared:
        gaps = compare(Result.load(before / name), Result.load(after / name))
        for metric, entry in gaps.items():
            metrics[metric if metric.startswith(name) else f"{name}_{metric}"] = entry
    return {"metrics": metrics}


def require(comparison: Mapping[str, Any], limits: Sequence[str]) -> None:
    """Checks ``METRIC=VALUE`` limits of model B: a floor, or a ceiling where lower is better.

    Raises:
        ConfigError: A limit is not of that form or names no metric.
        MMDPOError: A metric is on the wrong side of its limit.
    """
    for limit in limits:
        name, _, value = limit.partition("=")
        if name not in comparison["metrics"]:
            raise ConfigError(
                f"--fail-under {limit!r} names no compared metric",
                why=f"Compared are: {', '.join(comparison['metrics'])}.",
                fix="Write METRIC=VALUE with a fraction between 0 and 1.",
            )
        try:
            bound = float(value)
        except ValueError as error:
            raise ConfigError(
                f"--fail-under {limit!r} has no number",
                why="There is nothing to hold the metric against.",
                fix=f"Write {name}=VALUE with a fraction between 0 and 1.",
            ) from error
        entry = comparison["metrics"][name]
        reached, lower_is_better = entry["after"]["value"], entry["better"] == "lower"
        if reached > bound if lower_is_better else reached < bound:
            raise MMDPOError(
                f"{name} is {reached:.4f}, {'above' if lower_is_better else 'below'} {value}",
                why="The limit was set by --fail-under" + (", and lower is better." if lower_is_better else "."),
            )
