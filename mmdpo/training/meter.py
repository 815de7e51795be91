"""Means and correlations of what is logged, over records, optimizer steps and processes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

PAIRS = "diagnostics/pairs"
"""Name under which it is logged how many pairs the values of a log entry are over."""


class Meter:
    """Means and correlations of logged values over everything since the last reading, over all processes.

    It keeps sums alone, so that parts pooled are the whole.

    Attributes:
        sums: Of each value: how many there are, and the sums that its mean or correlation is made of.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds per-record values: [M] for a mean, [M, 2] for the Pearson correlation of the two columns."""
        for name, value in values.items():
            columns = value.detach().double()
            if value.ndim == 2:
                x, y = columns.T
                columns = torch.stack([x, y, x * x, y * y, x * y], -1)
            sums = torch.cat([columns.new_tensor([len(value)]), columns.sum(0).view(-1)])
            self.sums[name] = self.sums[name] + sums if name in self.sums else sums

    def read(self, reduce: object) -> dict[str, float]:
        """Values by name, and forgets; what has no record, and a correlation that is not defined, is left out.

        Args:
            reduce: Function that adds a tensor up over processes (``accelerator.reduce``).
        """
        if not self.sums:
            return {}
        names = sorted(self.sums)
        own = [self.sums[name] for name in names]
        self.sums.clear()
        total: Tensor = reduce(torch.cat(own), reduction="sum")  # type: ignore[operator]
        parts = dict(zip(names, (part.tolist() for part in total.split([len(part) for part in own])), strict=True))
        found = {
            name: part[1] / part[0] if len(part) == 2 else pearson(*part) for name, part in parts.items() if part[0] > 0
        }
        if "rewards/margins" in found:
            found[PAIRS] = parts["rewards/margins"][0]
        return {name: value for name, value in found.items() if value is not None}


def pearson(count: float, x: float, y: float, xx: float, yy: float, xy: float) -> float | None:
    """Pearson's correlation from a count and the sums of x, y, x², y² and x·y.

    None below three points, which any line fits, and where x or y do not vary beyond rounding.
    """
    variations = (count * xx - x * x, count * yy - y * y)
    if count < 3 or any(v <= 1e-12 * count * square for v, square in zip(variations, (xx, yy), strict=True)):
        return None
    return float((count * xy - x * y) / (variations[0] * variations[1]) ** 0.5)
