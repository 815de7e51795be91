"""What `mmdpo.evaluate` gives: results by benchmark that show themselves as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

COLUMNS = ("benchmark", "metric", "value", "95% interval", "n")


class Results(dict[str, dict[str, Any]]):
    """Results by benchmark, each in the form of ``mmdpo score``; a table for people where it is shown.

    Args:
        results: By benchmark.
        folder: Where answers, items and metrics are; `mmdpo.compare` takes it.
    """

    def __init__(self, results: Mapping[str, dict[str, Any]], folder: Path) -> None:
        super().__init__(results)
        self.folder = folder

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the table: fractions in percent, other numbers as they are."""
        return [
            (name, metric, *_cells(entry))
            for name, result in self.items()
            for metric, entry in result["metrics"].items()
        ]

    def notes(self) -> list[str]:
        """What must be known before a number is quoted: each benchmark's flags."""
        return [f"{name}: {flag}" for name, result in self.items() for flag in result["flags"]]

    def __str__(self) -> str:
        rows = [COLUMNS, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *self.notes(), f"answers, items and metrics: {self.folder}"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The table for notebooks."""
        rows = [
            Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(cell) for cell in row))
            for row in self.rows()
        ]
        head = Markup("").join(Markup("<th>{}</th>").format(name) for name in COLUMNS)
        notes = [Markup("<p>{}</p>").format(note) for note in (*self.notes(), f"Folder: {self.folder}")]
        return str(Markup("<table><tr>{}</tr>{}</table>{}").format(head, Markup("").join(rows), Markup("").join(notes)))


def _cells(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    scale, unit = (100, "%") if entry.get("percent", True) else (1, "")
    value, low, high = (
        "–" if entry[key] is None else f"{scale * entry[key]:.1f}{unit}" if unit else f"{entry[key]:.2f}"
        for key in ("value", "low", "high")
    )
    return value, f"{low} to {high}", str(entry["n"])
