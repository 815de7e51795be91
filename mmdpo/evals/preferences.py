"""Held-out ratings as a benchmark: does a number order answers as people rated them?

What is judged: lists of answers to one prompt, each with a score from every *source*: the likelihood of the answer, the
    implicit reward, CLIP score, or anything else that has a number for an answer.
Rule: `mmdpo.evals.agreement`. Only pairs of different ratings count; equal scores count one half; every list counts
    the same for tau, NDCG and top-1; lists whose ratings are all equal count nowhere.
Implicit reward (Rafailov et al. 2023, "Direct Preference Optimization", equation 5): beta times the log-ratio of policy
    and reference. It says more than the likelihood only if it orders pairs better, so that difference is a metric, and
    a flag says where it is not shown.
Calibration: sigmoid(reward of one answer - reward of the other) is the probability that the preference model gives to
    one being preferred. The larger of the two is held against how often it is right.
Source: our own; no published benchmark and no official rule.
Known quirks: a longer answer has a lower likelihood, whatever it says; hence the means per token beside the sums.
Data: JSON lines {id, ratings}, and optionally {group, prompt, media, candidates}; ratings of any scale, more is better.
    Answers: {id, scores: {source: [one number for each candidate]}}. ``mmdpo prefer`` writes both.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from mmdpo.errors import DataError
from mmdpo.evals import calibration
from mmdpo.evals.agreement import agreement, gain, measures, pair_margins, right
from mmdpo.evals.base import Answer, Item, Metric, Result, Sample
from mmdpo.evals.comparing.paired import Difference, paired_difference
from mmdpo.evals.shared.calibrated import CalibratedBenchmark
from mmdpo.evals.shared.files import read_rows
from mmdpo.evals.stats import Interval
from mmdpo.registry import benchmarks

REWARDS = ("reward", "reward_mean")
"""Sources that are implicit rewards: over the summed log-ratio, and over its mean per token."""
SOURCES = ("likelihood", "likelihood_mean", *REWARDS, "clip")
"""The sources that ``mmdpo prefer`` gives, in the order in which they are shown; others come after them."""
BASELINES = {"reward": ("likelihood", "clip"), "reward_mean": ("likelihood_mean", "clip")}
"""What each has to beat: the bare likelihood of the same form, and CLIP score."""


@benchmarks.register("preferences")
@dataclass(frozen=True)
class Preferences(CalibratedBenchmark):
    """Agreement of scores with held-out ratings."""

    name: ClassVar[str] = "preferences"
    id_keys: ClassVar[Sequence[str]] = ("id",)
    text_keys: ClassVar[Sequence[str]] = ("scores",)

    @property
    def rule(self) -> str:
        """The one rule there is."""
        return "pairs of different ratings, equal scores one half"

    def samples(self, data: Path) -> list[Sample]:
        """The rated lists of a file."""
        return [_sample(row, f"entry {number} of {str(data)!r}") for number, row in enumerate(read_rows(data), 1)]

    def answers(self, rows: Iterable[Mapping[str, Any]], origin: str = "the answers") -> list[Answer]:
        """The scores in some rows.

        Raises:
            DataError: A row has no scores by source, or other sources than the first row.
        """
        rows = list(rows)
        wanted: set[str] | None = None
        for number, row in enumerate(rows, 1):
            scores = row.get("scores")
            if not isinstance(scores, Mapping) or not scores or (wanted or set(scores)) != set(scores):
                raise DataError(
                    f"entry {number} of {origin} has the scores {str(scores)[:100]}",
                    why=f"Wanted are lists by source, and the same sources in every entry: {sorted(wanted or ())}.",
                    fix='Write {"id": "a", "scores": {"likelihood": [-12.5, -14.0]}}.',
                )
            wanted = set(scores)
        return super().answers([{**row, "scores": json.dumps(row["scores"])} for row in rows], origin)

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Holds every source's scores against the ratings.

        Raises:
            DataError: A list has another length than the ratings, or something that is no finite number.
        """
        ratings, scores = sample.target, json.loads(answer.text)
        for source, values in scores.items():
            if not isinstance(values, list) or len(values) != len(ratings) or not all(map(_is_number, values)):
                raise DataError(
                    f"{source} of {item_id!r} is {str(values)[:100]}",
                    why=f"The list has {len(ratings)} rated candidates, and each needs one finite number.",
                    fix="Score all candidates of the list, in its order.",
                )
        counts: dict[str, float] = {}
        for source, values in scores.items():
            counts |= {f"{source}_{name}": amount for name, amount in agreement(values, ratings).items()}
        first = next((name for name in (*REWARDS, "likelihood") if name in scores), next(iter(scores)))
        best = max(range(len(ratings)), key=scores[first].__getitem__)
        rated = len(set(ratings)) > 1
        candidates = sample.meta.get("candidates") or [f"candidate {number}" for number in range(1, len(ratings) + 1)]
        media = next((paths[0] for plural, paths in sample.media.items() if plural == "images" and paths), None)
        return Item(
            id=item_id,
            group=sample.group,
            raw=candidates[best],
            parsed=scores,
            label=ratings,
            correct=ratings[best] == max(ratings) if rated else None,
            counts=counts,
            details={"prompt": sample.prompt, **({"image": media} if media else {})},
        )

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """Four measures of each source; of rewards also what they gain over the baselines, Brier score and ECE."""
        found_in = {column.removesuffix("_tau") for column in columns if column.endswith("_tau")}
        sources = sorted(found_in, key=lambda name: (SOURCES.index(name) if name in SOURCES else len(SOURCES), name))
        found = [metric for source in sources for metric in measures(source)]
        found += [gain(*pair) for pair in _comparisons(sources)]
        return found + [
            metric for name in REWARDS if f"{name}_predictions" in columns for metric in calibration.metrics(name)
        ]

    def score(self, samples: Sequence[Sample], answers: Sequence[Answer]) -> Result:
        """As of every benchmark; what a reward gains over a baseline has the interval of a paired difference."""
        result = super().score(samples, answers)
        gaps = _gaps(result.items)
        metrics = dict(result.metrics)
        for (reward, baseline), gap in gaps.items():
            name = gain(reward, baseline).name
            metrics[name] = Interval(gap.value, gap.low, gap.high, metrics[name].n)
        return replace(result, metrics=metrics, flags=[*result.flags, *_not_shown(gaps)])

    def notes(self, items: Sequence[Item]) -> list[str]:
        """Counts the lists that count nowhere."""
        equal = sum(len(set(item.label)) < 2 for item in items)
        return [f"equal_ratings: {equal} lists are rated all the same; they count nowhere"] if equal else []

    def predictions(self, item: Item) -> Mapping[str, Sequence[tuple[float, float]]]:
        """For each pair the logit of the answer with the larger reward, and whether it is the preferred one."""
        made = {}
        for source in REWARDS:
            if source in item.parsed:
                margins, _ = pair_margins(item.parsed[source], item.label)
                made[source] = list(zip(abs(margins).tolist(), right(margins).tolist(), strict=True))
        return made


def _comparisons(sources: Collection[str]) -> list[tuple[str, str]]:
    """Reward and baseline, where both are there."""
    return [
        (reward, baseline)
        for reward in REWARDS
        for baseline in BASELINES[reward]
        if reward in sources and baseline in sources
    ]


def _gaps(items: Sequence[Item]) -> dict[tuple[str, str], Difference]:
    """Pair accuracy of each reward minus that of each baseline, on the same images."""
    if len({item.group for item in items}) < 2:
        return {}
    gaps = {}
    for reward, baseline in _comparisons(items[0].parsed):
        first, second = ([_renamed(item, source) for item in items] for source in (baseline, reward))
        gaps[reward, baseline] = paired_difference(first, second, measures("score")[0])
    return gaps


def _not_shown(gaps: Mapping[tuple[str, str], Difference]) -> list[str]:
    """A sentence for each reward that is not shown to order pairs better than a baseline."""
    said = []
    for (reward, baseline), gap in gaps.items():
        if gap.low is not None and gap.low > 0:
            continue
        worse = gap.high is not None and gap.high < 0
        limits = "" if gap.low is None or gap.high is None else f" ({gap.low:+.3f} to {gap.high:+.3f})"
        said.append(
            f"{reward}_not_over_{baseline}: the pair accuracy of {reward} is "
            f"{'worse than' if worse else 'not shown to be better than'} that of {baseline} alone: "
            f"difference {gap.value:+.3f}{limits}, p {gap.p_value:.3g}"
        )
    return said


def _renamed(item: Item, source: str) -> Item:
    """The item with the sums of one source alone, under the name that both sides of a comparison have."""
    return replace(item, counts={f"score_{column}": item.counts[f"{source}_{column}"] for column in ("right", "pairs")})


def _sample(row: Mapping[str, Any], place: str) -> Sample:
    ratings, candidates, media = row.get("ratings"), row.get("candidates"), row.get("media") or {}
    listed = isinstance(ratings, list) and len(ratings) >= 2 and all(map(_is_number, ratings))
    told = not candidates or (isinstance(ratings, list) and _are_texts(candidates) and len(candidates) == len(ratings))
    if row.get("id") is None or not listed or not told:
        raise DataError(
            f"{place} has no id, or not two or more ratings, one for each candidate: {str(row)[:200]}",
            why="A preference needs two answers to one prompt.",
            fix='A list looks like {"id": "a", "ratings": [4, 1.5], "candidates": ["A dog.", "A cat."]}.',
        )
    if not isinstance(media, Mapping) or not all(map(_are_texts, media.values())):
        raise DataError(
            f"{place} has media of another form: {str(media)[:120]}",
            why="Lists about one image stand or fall together, so it must be known which image that is.",
            fix='Write "media": {"images": ["a.jpg"]}, or leave it out.',
        )
    group = str(row.get("group") or next((paths[0] for paths in media.values() if paths), row["id"]))
    return Sample(str(row["id"]), str(row.get("prompt") or ""), media, ratings, group, {"candidates": candidates})


def _is_number(value: Any) -> bool:
    # math.isfinite would stop at a whole number that no float holds.
    largest = sys.float_info.max
    return isinstance(value, int | float) and not isinstance(value, bool) and -largest <= value <= largest


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
