"""What benchmarks share whose answers are probabilities: Brier score, ECE and what would repair them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import scipy.special

from mmdpo.evals.base import Answer, Benchmark, Item, Result, Sample
from mmdpo.evals.calibration import Calibration, Predictions, bin_counts, bins_for, calibration, places, told
from mmdpo.evals.stats import Table, interval


class CalibratedBenchmark(Benchmark):
    """A benchmark that also asks whether probabilities come true."""

    @abstractmethod
    def predictions(self, item: Item) -> Mapping[str, Sequence[tuple[float, float]]]:
        """Logit and outcome of each prediction that an item makes, by whose probabilities they are."""

    def score(self, samples: Sequence[Sample], answers: Sequence[Answer]) -> Result:
        """Judges the answers; ECE has the interval of `mmdpo.evals.calibration`, all else that of every benchmark."""
        result = super().score(samples, answers)
        found = self.calibrations(result.items)
        items = self._with_bins(result.items)
        table = Table.of(items)
        metrics = {metric.name: interval(table, metric) for metric in self.metrics(table.columns)}
        metrics |= {f"{name}_ece": one.ece for name, one in found.items()}
        flags = [*result.flags, *(told(name, one) for name, one in found.items())]
        return replace(result, items=items, metrics=metrics, flags=flags)

    def calibrations(self, items: Sequence[Item]) -> dict[str, Calibration]:
        """The calibration of all items together, by whose probabilities they are."""
        return {name: calibration(one) for name, one in self._gathered(items).items()}

    def _gathered(self, items: Sequence[Item]) -> dict[str, Predictions]:
        pairs: dict[str, list[tuple[float, float, str]]] = {}
        for item in items:
            for name, made in self.predictions(item).items():
                pairs.setdefault(name, []).extend((logit, outcome, item.group) for logit, outcome in made)
        return {
            name: Predictions(
                np.array([logit for logit, _, _ in made]),
                np.array([outcome for _, outcome, _ in made]),
                [group for _, _, group in made],
            )
            for name, made in pairs.items()
            if made
        }

    def _with_bins(self, items: Sequence[Item]) -> list[Item]:
        """The items with what they add to each bin, so that two models can be compared image by image."""
        left = {
            name: iter(places(one.probabilities, bins_for(len(one.logits))).tolist())
            for name, one in self._gathered(items).items()
        }
        binned = []
        for item in items:
            counts = dict(item.counts)
            for name, made in self.predictions(item).items():
                for logit, outcome in made:
                    probability = float(scipy.special.expit(logit))
                    for column, amount in bin_counts(name, next(left[name]), probability, outcome).items():
                        counts[column] = counts.get(column, 0.0) + amount
            binned.append(replace(item, counts=counts))
        return binned
