"""What the templates of a report need of slices and probabilities, written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mmdpo.report.drawing import inline_svg
from mmdpo.report.reliability import Found, reliability_figure, title
from mmdpo.report.slice_figures import slice_figure
from mmdpo.report.slice_rows import FEW, ROWS, Slice


def slice_section(found: Sequence[Slice], told: Sequence[str]) -> dict[str, Any]:
    """Values for ``slices.html.j2``: figures, how many failures their rows hold, and what could not be sliced."""
    views = []
    for place, one in enumerate(found):
        shares = [row.share for row in one.rows if row.share is not None]
        views.append(
            {
                "found": one,
                "figure": inline_svg(slice_figure(one), f"slice{place}", f"{one.benchmark}, {one.title}: failures"),
                "share": min(1.0, sum(shares)) if shares else None,
            }
        )
    return {"slices": views, "not_sliced": told, "few": FEW, "most": ROWS}


def reliability_section(calibrations: Mapping[str, Mapping[str, Found]]) -> dict[str, Any]:
    """Values for ``reliability.html.j2``: the diagram, and a row of numbers for each of its curves."""
    figure = reliability_figure(calibrations)
    rows = [
        _calibration_row(title(name), model, found)
        for name, models in calibrations.items()
        for model, found in models.items()
    ]
    drawn = Markup("") if figure is None else inline_svg(figure, "reliability", "Reliability diagram")
    return {"reliability": drawn, "calibrations": rows, "panels": len(calibrations)}


def _calibration_row(title: str, model: str, found: Found) -> dict[str, Any]:
    ece, temperature = found["ece"], found["temperature"]
    best, bounds = "none helps", ""
    if temperature is not None and temperature["value"] > 0:
        best, bounds = f"{temperature['value']:.2f}", _bounds(temperature, 2)
    elif temperature is not None:
        best = "none: all are right"
    return {
        "title": title,
        "model": model,
        "n": found["n"],
        "ece": f"{ece['value']:.3f}",
        "ece_bounds": _bounds(ece, 3),
        "chance": f"{found['chance']:.3f}",
        "brier": f"{found['brier']:.3f}",
        "temperature": best,
        "temperature_bounds": bounds,
        "after": "–" if found["ece_after"] is None else f"{found['ece_after']:.3f}",
    }


def _bounds(estimate: Mapping[str, Any], digits: int) -> str:
    low, high = estimate["low"], estimate["high"]
    return "" if low is None or high is None else f"{low:.{digits}f} – {high:.{digits}f}"
