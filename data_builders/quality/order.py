"""Does the data contradict itself: opposite pairs, circles, raters whose ranges overlap, the place in the source."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data_builders.intervals import Sums, estimate, estimate_of_table
from data_builders.quality.findings import finding, share
from data_builders.quality.sample import Sample, all_orders, plain, shown, unit_of
from mmdpo.evals.stats import Table, ratio
from mmdpo.records import Record

_EXAMPLES = 6
_CIRCULAR = ratio("circular", "circular", "comparisons")
_OVERLAP = ratio("overlap", "overlap", "pairs")
_FIRST = ratio("chosen_first", "first", "pairs")

Codes = NDArray[np.uint64]


class PreferenceGraph:
    """Which answer is better than which, over all records: 40 bytes a comparison.

    Answers are nodes (prompt, media and words, case and white space apart), comparisons are edges. A record that is
    labelled has one node.
    """

    def __init__(self) -> None:
        self._better, self._worse, self._group, self._place = array("Q"), array("Q"), array("Q"), array("q")
        self._labelled: dict[int, int] = {}  # 1 for desirable, 2 for undesirable, 3 for both
        self._records = 0

    def add(self, record: Record) -> None:
        """Takes the next record."""
        place, self._records = self._records, self._records + 1
        unit = unit_of(record)
        group = _code("\x1f".join(item.identity for _, item in record.media_items()) or unit)
        for better, worse in all_orders(record):
            a, b = _code(unit, plain(better.text)), _code(unit, plain(worse.text))
            if a != b:
                self._better.append(a)
                self._worse.append(b)
                self._group.append(group)
                self._place.append(place)
        if record.form == "unpaired" and record.candidates[0].label is not None:
            node = _code(unit, plain(record.candidates[0].text))
            self._labelled[node] = self._labelled.get(node, 0) | (1 if record.candidates[0].label else 2)

    def result(self, sample: Sample) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """Opposite pairs and circles.

        Returns:
            `comparisons`, `repeated` (said before), `opposite` (comparisons of which another one says the opposite),
            `circles` (groups of three answers or more, each better than itself in the end), `circular` (share of the
            comparisons that are part of either), `answers_labelled_both_ways`, `examples`.
        """
        both = sum(value == 3 for value in self._labelled.values())
        if not self._better:
            if not self._labelled:
                return None, []
            message = f"{both:,} of {len(self._labelled):,} labelled answers are called good in one record and bad "
            message += "in another of the same prompt and media."
            value = both / len(self._labelled)
            single = {"answers_labelled_both_ways": both, "labelled_answers": len(self._labelled)}
            return single, [finding("contradictions", value, message, n=len(self._labelled))]
        better, worse, groups = (np.frombuffer(a, np.uint64) for a in (self._better, self._worse, self._group))
        nodes, codes = np.unique(np.concatenate([better, worse]), return_inverse=True)
        first, second = codes[: len(better)].astype(np.int64), codes[len(better) :].astype(np.int64)
        edges = first * len(nodes) + second
        opposite = np.isin(edges, second * len(nodes) + first)
        graph = coo_array((np.ones(len(edges), np.int8), (first, second)), shape=(len(nodes), len(nodes)))
        _, component = connected_components(graph.tocsr(), connection="strong")
        circular = component[first] == component[second]
        sizes = np.bincount(component)
        circles = int((sizes > 2).sum())
        estimated = estimate_of_table(_table(groups, circular), _CIRCULAR)
        places = set(np.frombuffer(self._place, np.int64)[circular].tolist())
        numbers: dict[str, Any] = {
            "comparisons": len(edges),
            "repeated": len(edges) - len(np.unique(edges)),
            "opposite": int(opposite.sum()),
            "circles": circles,
            "circular": estimated,
            "answers_labelled_both_ways": both,
            "examples": shown((one.record for one in sample.drawn if one.place in places), _EXAMPLES),
        }
        message = (
            f"{int(opposite.sum()):,} of {len(edges):,} comparisons are contradicted by another one of the same prompt "
            f"and media, and {circles:,} group{'' if circles == 1 else 's'} of three answers or more go round in a "
            f"circle: {share(estimated)} of the comparisons cannot all be right."
        )
        if not places:
            message = f"None of {len(edges):,} comparisons is contradicted by another one, directly or in a circle."
        return numbers, [finding("contradictions", estimated, message)]


def ambiguous(sample: Sample) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Pairs in which some rating of the rejected answer reaches some rating of the chosen one.

    It needs the single ratings that the builder `ratings` keeps in `meta`.
    """
    items, spreads = [], []
    for group, record in zip(sample.groups, sample.records, strict=True):
        ratings = record.meta.get("ratings")
        if record.form != "pair" or not _is_nested(ratings, 2) or max(map(len, ratings)) < 2:
            continue
        sign = 1.0 if record.higher_is_better else -1.0
        chosen, rejected = (sorted(sign * float(value) for value in side) for side in ratings)
        overlap = rejected[-1] >= chosen[0]
        items.append(Sums(group, {"pairs": 1, "overlap": float(overlap)}))
        spreads.append((rejected[-1] - chosen[0], record))
    if not items:
        return None, []
    found = estimate(items, _OVERLAP)
    spreads.sort(key=lambda item: (-item[0], item[1].id))
    message = (
        f"In {share(found)} of the pairs at least one rating of the rejected answer is as good as one of the chosen "
        "answer: there, other raters could have turned the pair round or made it a tie."
    )
    worst = [record for gap, record in spreads if gap >= 0]
    return {"overlap": found, "examples": shown(worst, _EXAMPLES)}, [finding("ambiguous_pairs", found, message)]


def position_bias(sample: Sample) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """How often the chosen answer stands before the rejected one in the source, where `meta` knows the rows."""
    items = []
    for group, record in zip(sample.groups, sample.records, strict=True):
        rows = record.meta.get("rows")
        if record.form == "pair" and _is_nested(rows, 2):
            first, second = min(rows[0]), min(rows[1])
            if first != second:
                items.append(Sums(group, {"pairs": 1, "first": float(first < second)}))
    if not items:
        return None, []
    found = estimate(items, _FIRST)
    message = (
        f"The chosen answer stands before the rejected one in the source in {share(found)} of the pairs; 50% says that "
        "the order of the rows tells nothing."
    )
    return {"chosen_first": found}, [finding("position_bias", found, message)]


def _is_nested(value: Any, length: int) -> TypeGuard[list[list[float]]]:
    """Whether it is so many lists of numbers, none empty."""
    return (
        isinstance(value, list)
        and len(value) == length
        and all(
            isinstance(part, list) and part and all(isinstance(number, int | float) for number in part)
            for part in value
        )
    )


def _table(groups: Codes, circular: NDArray[np.bool_]) -> Table:
    names, place = np.unique(groups, return_inverse=True)
    columns: Mapping[str, Any] = {"comparisons": np.ones(len(place)), "circular": circular.astype(float)}
    sums = [np.bincount(place, weights=values, minlength=len(names)) for values in columns.values()]
    return Table([str(name) for name in names], list(columns), np.stack(sums, axis=1))


def _code(*parts: str) -> int:
    joined = "\x1f".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "big")
