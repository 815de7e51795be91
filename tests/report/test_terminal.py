"""Tables in the terminal, of numbers that have no bound, too."""

from __future__ import annotations

from rich.console import Console

from mmdpo.evals.stats import Interval
from mmdpo.terminal import comparison_table, metric_table


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
