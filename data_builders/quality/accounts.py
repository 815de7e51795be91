"""Findings from what a builder counted itself: rows set aside, agreement of all raters, votes by place, problems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_builders.quality.findings import finding, listed, share
from mmdpo.evals.estimates import wilson

_NORMAL = 1.959964
_MANY = 3


def account_findings(quality: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is to be said of a builder's account, or of records alone."""
    inner = quality.get("records", quality)
    found = [_problems(inner)]
    if quality.get("rows"):
        found.append(_rows(quality))
    agreement = quality.get("agreement") or {}
    if "alpha_interval" in agreement:
        found.append(_agreement(agreement))
    if quality.get("votes"):
        found.append(_votes(quality["votes"], quality.get("first_wins") or {}))
    return found


def _problems(inner: Mapping[str, Any]) -> dict[str, Any]:
    problems, n = inner.get("problems") or {}, int(inner.get("n") or 0)
    total = sum(problems.values())
    if not total:
        message = f"Every one of {n:,} records is sound."
    else:
        named = [f"{count:,} × {kind.replace('_', ' ')}" for kind, count in problems.items()]
        message = f"Problems in {n:,} records: {listed(named)}."
    return finding("problems", total / n if n else float(total), message, n=n)


def _rows(quality: Mapping[str, Any]) -> dict[str, Any]:
    rows, reasons = quality["rows"], quality.get("set_aside") or {}
    value = rows["set_aside"] / rows["read"] if rows["read"] else 0.0
    message = f"{rows['set_aside']:,} of {rows['read']:,} rows of the source are in no record ({100 * value:.0f}%)"
    if reasons:
        message += ": " + listed(
            [f"{count:,} {reason.replace('_', ' ')}" for reason, count in list(reasons.items())[:_MANY]]
        )
    return finding("rows_set_aside", value, message + ".", n=rows["read"])


def _agreement(agreement: Mapping[str, Any]) -> dict[str, Any]:
    found = agreement["alpha_interval"]
    if found["value"] is None:
        return finding("agreement", None, "No answer was rated by several people, so agreement cannot be measured.")
    between = "" if found["low"] is None else f", 95% interval {found['low']:.2f} to {found['high']:.2f}"
    kappa = agreement.get("kappa") or {}
    exact = (
        "" if kappa.get("value") is None else f" Fleiss' kappa, which counts only equal ratings: {kappa['value']:.2f}."
    )
    message = f"Krippendorff's alpha of all ratings is {found['value']:.2f}{between}; 1 is perfect, 0 is chance.{exact}"
    return finding("agreement", found, message.replace(" -", " −"))


def _votes(votes: Mapping[str, Any], first_wins: Mapping[str, Any]) -> dict[str, Any]:
    """Votes for the first answer: as the builder measured it over media groups, else each vote by itself.

    Where pairs have kinds, a liking for a place shows in every kind of them. If it does not, something else stands
    first in one kind, such as the better of two sources. So the kind is judged whose share is nearest to one half, of
    those with a tenth of the votes or more.
    """
    decided = votes["a"] + votes["b"]
    if not decided:
        return finding("position_bias", None, "No vote prefers either answer.")
    kinds = first_wins.get("by_kind") or {}
    estimate = {key: value for key, value in first_wins.items() if key != "by_kind"}
    if estimate.get("value") is None:
        value = votes["a"] / decided
        low, high = wilson(value, decided, _NORMAL)
        estimate = {"value": value, "low": low, "high": high, "n": decided}
    message = f"The answer that stands first got {share(estimate)} of the votes for either."
    large = {name: one for name, one in kinds.items() if one["value"] is not None and one["n"] >= decided / 10}
    if len(large) < 2:
        return finding("position_bias", estimate, message)
    nearest = min(large, key=lambda name: (abs(large[name]["value"] - 0.5), name))
    message += f" By kind of pair: {listed([f'{name} {share(one)}' for name, one in kinds.items()])}. A liking for the "
    message += f"place would show in each kind, so the one nearest to 50% is judged, {nearest}."
    return finding("position_bias", large[nearest], message)
