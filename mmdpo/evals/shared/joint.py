"""Benchmarks that also ask whether all questions of a set (a pair, an image) were answered rightly."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import ClassVar

from mmdpo.evals.base import Answer, Benchmark, Item, Result, Sample
from mmdpo.evals.stats import Table, interval


class JointBenchmark(Benchmark):
    """A benchmark whose questions come in sets; a set is right if every answer to it is.

    The last item of a complete set carries the set's counts, so that they are sums over groups like all others. A set
    must lie within one group. Sets that miss an answer enter no set metric; a flag counts them.
    """

    set_size: ClassVar[int] = 2

    @abstractmethod
    def set_of(self, item: Item) -> Hashable | None:
        """What names the set that an item belongs to; None for an item of no set."""

    def prefix(self, item: Item) -> str:
        """What stands before the names of an item's set columns, ``sets`` and ``right_sets``."""
        return ""

    def score(self, samples: Sequence[Sample], answers: Sequence[Answer]) -> Result:
        """Judges the answers and computes every metric, those of sets last."""
        plain = super().score(samples, answers)
        members: defaultdict[Hashable, list[int]] = defaultdict(list)
        for place, item in enumerate(plain.items):
            key = self.set_of(item)
            if key is not None:
                members[key].append(place)
        items = list(plain.items)
        for places in members.values():
            if len(places) == self.set_size:
                last = items[places[-1]]
                right = all(items[place].correct for place in places)
                prefix = self.prefix(last)
                counts = {**last.counts, f"{prefix}sets": 1.0, f"{prefix}right_sets": float(right)}
                items[places[-1]] = replace(last, counts=counts)
        table = Table.of(items)
        added = [metric for metric in self.metrics(table.columns) if metric.name not in plain.metrics]
        metrics = {**plain.metrics, **{metric.name: interval(table, metric) for metric in added}}
        incomplete = sum(len(places) != self.set_size for places in members.values())
        flags = [f"incomplete_sets: {incomplete} sets of questions lack an answer; left out of set metrics"]
        return replace(plain, flags=[*plain.flags, *(flags if incomplete else [])], metrics=metrics, items=items)
