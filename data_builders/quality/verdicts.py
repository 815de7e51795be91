"""From numbers to verdicts: pass, warn or fail by thresholds that a YAML file holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from data_builders.quality.accounts import account_findings
from mmdpo.config import describe_problem
from mmdpo.errors import ConfigError, DataError, did_you_mean

NOT_MEASURED = "not measured"


class Bounds(BaseModel):
    """Values that are too large or too small."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    above: float | None = None
    below: float | None = None

    def beyond(self, check: Mapping[str, Any]) -> bool:
        """Whether the value is, and so is its whole interval where it has one: then chance is no explanation."""
        low = check["value"] if check.get("low") is None else check["low"]
        high = check["value"] if check.get("high") is None else check["high"]
        return (self.above is not None and low > self.above) or (self.below is not None and high < self.below)


class Threshold(BaseModel):
    """When a check warns and when it fails.

    Args:
        title: Its name for people.
        why: Why it matters, and what to do, in a sentence or two.
        warn: Values that warn.
        fail: Values that fail.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    why: str
    warn: Bounds = Bounds()
    fail: Bounds = Bounds()

    def verdict(self, check: Mapping[str, Any]) -> str:
        """`pass`, `warn` or `fail`, or that nothing was measured."""
        if check.get("value") is None:
            return NOT_MEASURED
        if self.fail.beyond(check):
            return "fail"
        return "warn" if self.warn.beyond(check) else "pass"


def load_thresholds(path: Path | None = None) -> dict[str, Threshold]:
    """The thresholds that ship, with those of a file of the user's in their place.

    Args:
        path: YAML ``{check: {warn: {above, below}, fail: {above, below}}}``; what is not named stays.

    Raises:
        ConfigError: The file cannot be read, or names a check or a key that there is not.
    """
    shipped = yaml.safe_load((resources.files("data_builders.quality") / "thresholds.yaml").read_text("utf-8"))
    own = _read(path) if path is not None else {}
    unknown = sorted(own.keys() - shipped.keys())
    if unknown:
        raise ConfigError(
            f"{str(path)!r} has thresholds for {unknown[0]!r}, which is no check",
            why="It would never be looked at.",
            fix=did_you_mean(unknown[0], shipped),
        )
    return {name: _threshold(name, {**values, **own.get(name, {})}, path) for name, values in shipped.items()}


def with_checks(quality: Mapping[str, Any], thresholds: Mapping[str, Threshold] | None = None) -> dict[str, Any]:
    """The content of `quality.json` with ``checks``: every finding with its verdict, the worst first.

    Args:
        quality: What `measure` gave, or a builder's account with that under ``records``.
        thresholds: Of `load_thresholds`.
    """
    thresholds = thresholds or load_thresholds()
    inner = quality.get("records", quality)
    found = [*account_findings(quality), *inner.get("findings", [])]
    checks = []
    for one in found:
        threshold = thresholds[one["name"]]
        verdict = threshold.verdict(one)
        checks.append({**one, "title": threshold.title, "verdict": verdict, "why": threshold.why})
    order = ["fail", "warn", "pass", NOT_MEASURED]
    checks.sort(key=lambda check: order.index(check["verdict"]))  # stable: the order of the families otherwise
    told = {key: value for key, value in quality.items() if key != "findings"}
    if "records" in told:
        told["records"] = {key: value for key, value in inner.items() if key != "findings"}
    return {**told, "checks": checks}


def failures(checks: Sequence[Mapping[str, Any]]) -> DataError | None:
    """The error that `--strict` ends with, None where no check failed."""
    failed = [check for check in checks if check["verdict"] == "fail"]
    if not failed:
        return None
    return DataError(
        f"{len(failed)} quality check{'s' if len(failed) > 1 else ''} failed: "
        + ", ".join(check["name"] for check in failed),
        why=" ".join(check["message"] for check in failed),
        fix="See quality.html; the bounds are explained in docs/quality.md and can be set with --thresholds FILE.",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"cannot read the thresholds {str(path)!r}: {error}",
            why="Nothing could be judged by them.",
            fix="Give a YAML file such as: length_bias: {warn: {above: 0.7}}",
        ) from error
    if not isinstance(values, dict) or not all(isinstance(value, dict) for value in values.values()):
        raise ConfigError(
            f"{str(path)!r} is no table of checks",
            why="Each check has its own bounds.",
            fix="Write, for instance: length_bias: {warn: {above: 0.7}}",
        )
    return values


def _threshold(name: str, values: Mapping[str, Any], path: Path | None) -> Threshold:
    try:
        return Threshold.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(describe_problem(dict(problem), Threshold) for problem in error.errors())
        raise ConfigError(
            f"the thresholds of {name!r} in {str(path)!r} are wrong: {problems}",
            why="A bound that is not understood would let everything pass.",
            fix="A check has warn and fail, each with above and below.",
        ) from error
