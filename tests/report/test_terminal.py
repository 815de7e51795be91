"""Tables in the terminal, of numbers that have no bound, too."""

from __future__ import annotations

import pytest
from rich.console import Console

from mmdpo.evals.stats import Interval
from mmdpo.verbs.terminal import comparison_table, metric_table


def printed(table: object) -> str:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(table)
    return " ".join(captured.get().split())


def test_an_interval_without_a_bound_is_a_dash() -> None:
    """One clip is all there is, and the metric may be as large as it likes."""
    entry = Interval(0.5, 0.0, None, 1).to_json()
    text = printed(metric_table({"benchmark": "mine", "rule": "r", "metrics": {"m": entry}}))
    assert "m 50.0 0.0 to – 1" in text
    gap = {"value": -0.25, "low": None, "high": None, "n": 1, "p": 0.04}
    text = printed(comparison_table({"metrics": {"m": {"before": entry, "after": entry, "difference": gap}}}))
    assert "m 50.0 50.0 -25.0 [–, –] 0.040" in text


def test_only_fractions_are_percent() -> None:
    """MME's 50 of 200 is no 5000%."""
    fraction, points = Interval(0.5, 0.4, 0.6, 20).to_json(), Interval(50.0, 40.0, 60.5, 20).to_json()
    metrics = {"accuracy": fraction, "existence": {**points, "percent": False}}
    text = printed(metric_table({"benchmark": "mme", "rule": "r", "metrics": metrics}))
    assert "accuracy 50.0% 40.0% to 60.0% 20" in text
    assert "existence 50.00 40.00 to 60.50 20" in text
    gap = {"value": -2.5, "low": -3.0, "high": -2.0, "n": 9, "p": 0.04, "detectable": 1.5, "verdict": "worse"}
    entry = {"before": points, "after": points, "difference": gap, "percent": False}
    assert "m 50.00 50.00 -2.50 [-3.00, -2.00] 0.040 1.50 worse" in printed(comparison_table({"metrics": {"m": entry}}))


@pytest.mark.parametrize("verdict", ["better", "higher"])
def test_an_unconfirmed_difference_has_a_question_mark(verdict: str) -> None:
    entry = Interval(0.5, 0.4, 0.6, 20).to_json()
    words = f"{verdict} (not confirmed: corrected p 0.2)"
    gap = {"value": 0.2, "low": 0.1, "high": 0.3, "n": 9, "p": 0.04, "detectable": 0.125, "verdict": words}
    table = comparison_table({"metrics": {"m": {"before": entry, "after": entry, "difference": gap}}})
    assert f"0.040 12.5 {verdict}?" in printed(table)
