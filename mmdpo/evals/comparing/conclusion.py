"""What the differences of two models come to: p-values corrected for their number, and the verdict in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmdpo.evals.comparing.testing import CORRECTIONS, adjusted
from mmdpo.evals.runner import UNDEFINED

LEVEL = 0.05
"""Corrected p-values below this confirm a difference."""
_NAMED = 6


def concluded(metrics: Mapping[str, Mapping[str, Any]], correction: str = "holm") -> dict[str, Any]:
    """Corrects the p-values of all comparisons together and says what follows.

    A difference whose interval lies on one side of 0, but whose corrected p-value is not below .05, keeps its verdict
    with the words "not confirmed".

    Args:
        metrics: Metric -> what `mmdpo.evals.runner.compare` says of it, over all benchmarks.
        correction: As for `mmdpo.evals.comparing.testing.adjusted`.

    Returns:
        ``metrics``, each difference with ``p_adjusted``; ``correction`` (``method``, ``comparisons``, ``level``); and
        ``conclusion``, some sentences.

    Raises:
        ConfigError: There is no such correction.
    """
    tested = [name for name, entry in metrics.items() if not entry["difference"]["verdict"].startswith(UNDEFINED)]
    p_values = adjusted([metrics[name]["difference"]["p"] for name in tested], correction)
    corrected = dict(zip(tested, p_values, strict=True))
    told = {
        name: {**entry, "difference": _confirmed(entry["difference"], corrected.get(name))}
        for name, entry in metrics.items()
    }
    return {
        "metrics": told,
        "correction": {"method": correction, "comparisons": len(tested), "level": LEVEL},
        "conclusion": " ".join(_sentences(told, correction, len(tested))),
    }


def _confirmed(difference: Mapping[str, Any], p_value: float | None) -> dict[str, Any]:
    """A difference with its corrected p-value, and with a doubt where that does not confirm the verdict."""
    verdict = difference["verdict"]
    if p_value is not None and p_value >= LEVEL and verdict in ("better", "worse", "higher", "lower"):
        verdict += f" (not confirmed: corrected p {p_value:.2g})"
    return {**difference, "p_adjusted": p_value, "verdict": verdict}


def _sentences(metrics: Mapping[str, Mapping[str, Any]], correction: str, comparisons: int) -> list[str]:
    def having(*verdicts: str) -> dict[str, Mapping[str, Any]]:
        return {name: entry for name, entry in metrics.items() if entry["difference"]["verdict"] in verdicts}

    def beginning(words: str) -> dict[str, Mapping[str, Any]]:
        return {name: entry for name, entry in metrics.items() if entry["difference"]["verdict"].startswith(words)}

    better, worse, moved = having("better"), having("worse"), having("higher", "lower")
    unsure = {name: entry for name, entry in metrics.items() if "not confirmed" in entry["difference"]["verdict"]}
    open_, undefined = beginning("no difference shown"), beginning(UNDEFINED)
    if better and worse:
        sentences = [f"B is better than A in {_list(better)}, and worse in {_list(worse)}."]
    elif better or worse:
        sentences = [f"B is {'better' if better else 'worse'} than A in {_list(better or worse)}."]
    else:
        sentences = ["No difference for better or worse between A and B is shown."]
    if moved:
        sentences.append(f"Neither for better nor for worse: {_list(moved)}.")
    if unsure:
        sentences.append(
            f"Not confirmed for {comparisons} comparisons at once ({CORRECTIONS[correction]}): {_list(unsure)}."
        )
    if open_:
        sentences.append(_open(open_, comparisons))
    if undefined:
        sentences.append(f"Undefined for a model that gives nothing to divide by: {', '.join(undefined)}.")
    return sentences


def _open(entries: Mapping[str, Mapping[str, Any]], comparisons: int) -> str:
    """How many differences are not shown, and how large those would have to be that are."""
    groups = _range([entry["difference"]["n"] for entry in entries.values()], "{:d}")
    scales = []
    for percent, form in ((True, "{:.1f}"), (False, "{:.2f}")):
        sizes = [
            entry["difference"]["detectable"] * (100 if percent else 1)
            for entry in entries.values()
            if entry.get("percent", True) is percent
        ]
        if sizes:
            scales.append(_range(sizes, form) + (" points" if percent else " on other scales"))
    return (
        f"No difference is shown in {len(entries)} of {comparisons} comparisons; with {groups} images or clips, one of "
        f"{' or of '.join(scales)} would be, four times in five."
    )


def _range(values: Sequence[float], form: str) -> str:
    ends = dict.fromkeys(form.format(value) for value in (min(values), max(values)))
    return " to ".join(ends)


def _list(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Names with their differences, the first few."""
    words = []
    for name, entry in list(entries.items())[:_NAMED]:
        value = entry["difference"]["value"]
        words.append(f"{name} ({100 * value:+.1f} points)" if entry.get("percent", True) else f"{name} ({value:+.2f})")
    more = len(entries) - _NAMED
    return ", ".join(words) + (f" and {more} more" if more > 0 else "")
