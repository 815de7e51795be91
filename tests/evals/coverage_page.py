"""How often 95% intervals hold the truth, by simulation: the tables of docs/statistics.md.

    python tests/evals/coverage_page.py

writes them anew (minutes).
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.stats

from mmdpo.evals.bootstrap import bootstrap_difference, bootstrap_interval
from mmdpo.evals.comparing.paired import paired_difference
from mmdpo.evals.pope import Pope
from mmdpo.evals.stats import Interval, Metric, Table, interval, ratio

PAGE = Path(__file__).resolve().parents[2] / "docs" / "statistics.md"
SIZES = (50, 500)
REPETITIONS, BOOTSTRAP_REPETITIONS, BOOTSTRAP_DRAWS = 2000, 200, 500
RATE = ratio("rate", "hits", "trials")
F1 = next(metric for metric in Pope().metrics(["true_yes", "questions"]) if metric.name == "f1")
COLUMNS = {"rate": ("hits", "trials"), "f1": ("true_yes", "false_yes", "false_no")}

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


class Row(NamedTuple):
    """One image: what it adds to each sum."""

    group: str
    counts: dict[str, float]


@dataclass(frozen=True)
class Population:
    """Images of which some are drawn.

    Attributes:
        name: What it is, for the page.
        draw: Sums per image [*shape, columns]; of two models, those of the first and then those of the second.
        truth: What the metric is over infinitely many images.
        metric: What is measured.
        few: Whether 50 images have so few hits that one limit can hardly miss.
        bootstrap: Whether the page also shows what the bootstrap does.
    """

    name: str
    draw: Draw
    truth: float
    metric: Metric = RATE
    few: bool = False
    bootstrap: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        return COLUMNS[self.metric.name]


@functools.cache
def quantiles(rate: float, strength: float) -> np.ndarray:
    """4096 quantiles of a beta distribution of rates; the correlation within an image is 1 / (1 + strength)."""
    places = (np.arange(4096) + 0.5) / 4096
    return np.asarray(scipy.stats.beta.ppf(places, strength * rate, strength * (1 - rate)))


def questions(rate: float, strength: float) -> Draw:
    """Six questions per image that tend to fail together."""

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        rates = generator.beta(strength * rate, strength * (1 - rate), shape)
        return np.stack([generator.binomial(6, rates), np.full(shape, 6)], -1)

    return draw


def _mentions(generator: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """How many objects captions name, and how that scales the rate of absent ones: long captions are worse."""
    mentions = 1 + generator.poisson(6, shape)
    return mentions, np.minimum(1, 0.5 + mentions / 14)


def captions(rate: float) -> tuple[Draw, float]:
    """CHAIR_i, and its true value: some images are much worse than others."""

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        mentions, scale = _mentions(generator, shape)
        rates = generator.beta(4 * rate, 4 * (1 - rate), shape) * scale
        return np.stack([generator.binomial(mentions, rates), mentions], -1)

    counts = np.arange(1, 60)
    weights = scipy.stats.poisson.pmf(counts - 1, 6) * counts
    return draw, rate * float((weights * np.minimum(1, 0.5 + counts / 14)).sum() / weights.sum())


def yes_no(hit: float, alarm: float) -> tuple[Draw, float]:
    """POPE's F1 and its true value: three questions each whose label is yes and no."""

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        right = generator.binomial(3, generator.beta(5 * hit, 5 * (1 - hit), shape))
        wrong = generator.binomial(3, generator.beta(5 * alarm, 5 * (1 - alarm), shape))
        return np.stack([right, wrong, 3 - right], -1)

    precision = hit / (hit + alarm)
    return draw, 2 * precision * hit / (precision + hit)


def two_models(before: float, after: float) -> Draw:
    """Six questions per image to two models, for which the same images are hard."""

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        hardness, six = generator.integers(0, 4096, shape), np.full(shape, 6)
        first, second = (generator.binomial(6, quantiles(rate, 5)[hardness]) for rate in (before, after))
        return np.stack([first, six, second, six], -1)

    return draw


def two_captions(before: float, after: float) -> tuple[Draw, float]:
    """CHAIR_i of two models and the true difference; the captions of the second are as long, and drawn anew."""

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        hardness = generator.integers(0, 4096, shape)
        sums = []
        for rate in (before, after):
            mentions, scale = _mentions(generator, shape)
            sums += [generator.binomial(mentions, quantiles(rate, 4)[hardness] * scale), mentions]
        return np.stack(sums, -1)

    return draw, captions(after)[1] - captions(before)[1]


def single_pairs(gained: float, lost: float) -> Draw:
    """One question per image to two models; how often only the second is right, and only the first."""

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        kind = generator.random(shape)
        both = generator.random(shape) < 0.8
        second = np.where(kind < gained, True, np.where(kind < gained + lost, False, both))
        first = np.where(kind < gained, False, np.where(kind < gained + lost, True, both))
        ones = np.ones(shape)
        return np.stack([first, ones, second, ones], -1)

    return draw


def _population(name: str, made: tuple[Draw, float], **settings: object) -> Population:
    return Population(f"{name} {made[1]:.3f}".replace(" 0.", " ."), *made, **settings)  # type: ignore[arg-type]


METRICS: Sequence[Population] = (
    Population("six questions per image, rate .50", questions(0.5, 5), 0.5),
    Population("six questions per image, rate .85", questions(0.85, 5), 0.85, bootstrap=True),
    Population("six questions per image, rate .05", questions(0.05, 5), 0.05),
    Population("six questions per image, rate .01", questions(0.01, 5), 0.01, few=True, bootstrap=True),
    Population("six questions, closely correlated, rate .50", questions(0.5, 1), 0.5),
    Population("six questions, closely correlated, rate .95", questions(0.95, 1), 0.95),
    Population("six questions, closely correlated, rate .03", questions(0.03, 1), 0.03),
    Population("six questions, closely correlated, rate .01", questions(0.01, 1), 0.01, few=True),
    _population("CHAIR_i", captions(0.5)),
    _population("CHAIR_i", captions(0.15), bootstrap=True),
    _population("CHAIR_i", captions(0.03), bootstrap=True),
    _population("CHAIR_i", captions(0.01), few=True),
    _population("F1", yes_no(0.5, 0.3), metric=F1),
    _population("F1", yes_no(0.9, 0.1), metric=F1, bootstrap=True),
    _population("F1", yes_no(0.97, 0.03), metric=F1, few=True),
)
DIFFERENCES: Sequence[Population] = (
    Population("one question, .20 gained and .05 lost", single_pairs(0.2, 0.05), 0.15),
    Population("one question, .10 gained and .10 lost", single_pairs(0.1, 0.1), 0.0),
    Population("one question, .05 gained and .01 lost", single_pairs(0.05, 0.01), 0.04),
    Population("six questions, .85 to .90", two_models(0.85, 0.9), 0.05, bootstrap=True),
    Population("six questions, .50 to .50", two_models(0.5, 0.5), 0.0),
    Population("six questions, .97 to .99", two_models(0.97, 0.99), 0.02, few=True),
    Population("CHAIR_i, .144 to .096", *two_captions(0.15, 0.1)),
    Population("CHAIR_i, .029 to .010", *two_captions(0.03, 0.01), bootstrap=True),
)


def table_of(population: Population, values: np.ndarray) -> Table:
    return Table([str(row) for row in range(len(values))], population.columns, values.astype(float))


def rows_of(population: Population, values: np.ndarray) -> tuple[list[Row], list[Row]]:
    """The items of both models."""
    width = len(population.columns)
    first, second = (
        [
            Row(str(n), dict(zip(population.columns, row, strict=True)))
            for n, row in enumerate(part.astype(float).tolist())
        ]
        for part in (values[:, :width], values[:, width:])
    )
    return first, second


def here(population: Population, values: np.ndarray) -> Interval:
    """The interval that results carry."""
    if population in METRICS:
        return interval(table_of(population, values), population.metric)
    return paired_difference(*rows_of(population, values), population.metric, permutations=1)


def bootstrap(population: Population, values: np.ndarray, method: str) -> Interval:
    """The bootstrap's interval."""
    how = {"draws": BOOTSTRAP_DRAWS, "method": method}
    if population in METRICS:
        return bootstrap_interval(table_of(population, values), population.metric, **how)  # type: ignore[arg-type]
    return bootstrap_difference(*rows_of(population, values), population.metric, **how)  # type: ignore[arg-type]


def coverage(
    population: Population,
    images: int,
    repetitions: int = REPETITIONS,
    method: Callable[[Population, np.ndarray], Interval] = here,
) -> float:
    """The share of samples whose interval holds the truth."""
    generator = np.random.default_rng([zlib.crc32(population.name.encode()), images])
    covered = 0
    for _ in range(repetitions):
        measured = method(population, population.draw(generator, (images,)))
        assert measured.low is not None and measured.high is not None
        covered += measured.low <= population.truth <= measured.high
    return covered / repetitions


@functools.cache
def single_limits(hits: int, images: int) -> tuple[float, float]:
    """Of a rate with one yes or no per image."""
    values = np.stack([np.arange(images) < hits, np.ones(images)], 1)
    measured = interval(table_of(METRICS[0], values), RATE)
    assert measured.low is not None and measured.high is not None
    return measured.low, measured.high


def exact_coverage(rate: float, images: int) -> float:
    """With one yes or no per image: every possible outcome, weighted by its probability."""
    probabilities = scipy.stats.binom.pmf(np.arange(images + 1), images, rate)
    limits = np.array([single_limits(hits, images) for hits in range(images + 1)])
    return float(probabilities[(limits[:, 0] <= rate) & (rate <= limits[:, 1])].sum())


def possible_coverage(rate: float, images: int) -> tuple[float, float]:
    """The two values nearest to .95, one on each side, that an interval can have which takes the likeliest outcomes."""
    likeliest = np.sort(scipy.stats.binom.pmf(np.arange(images + 1), images, rate))[::-1].cumsum()
    place = int(np.searchsorted(likeliest, 0.95))
    return float(likeliest[max(0, place - 1)]), float(likeliest[place])


def number(value: float) -> str:
    return f"{value:.3f}".lstrip("0")


def exact_table() -> str:
    lines = ["| true rate | images | coverage | could be |", "|---|---|---|---|"]
    for rate in (0.5, 0.3, 0.1, 0.05, 0.02, 0.01, 0.99, 0.0, 1.0):
        for images in SIZES:
            could = " or ".join(dict.fromkeys(map(number, possible_coverage(rate, images))))
            lines.append(f"| {rate:g} | {images} | {number(exact_coverage(rate, images))} | {could} |")
    return "\n".join(lines)


def simulated_cells(population: Population) -> str:
    """For both sizes; fewer repetitions for differences, which take longer."""
    repetitions = REPETITIONS if population in METRICS else REPETITIONS // 2
    return " / ".join(number(coverage(population, images, repetitions)) for images in SIZES)


def bootstrap_cells(population: Population, kind: str) -> str:
    def method(drawn: Population, values: np.ndarray) -> Interval:
        return bootstrap(drawn, values, kind)

    if not population.bootstrap:
        return ""
    return " / ".join(number(coverage(population, images, BOOTSTRAP_REPETITIONS, method)) for images in SIZES)


def simulated_table(populations: Sequence[Population]) -> str:
    lines = ["| population | here | percentile bootstrap | BCa bootstrap |", "|---|---|---|---|"]
    for population in populations:
        cells = [simulated_cells(population), *(bootstrap_cells(population, kind) for kind in ("percentile", "bca"))]
        lines.append(f"| {population.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rewritten(text: str, parts: dict[str, str]) -> str:
    """The page with the named tables."""
    for name, table in parts.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text, found = re.subn(
            pattern, lambda match, table=table: match[1] + table + "\n" + match[2], text, flags=re.DOTALL
        )
        assert found == 1, name
    return text


if __name__ == "__main__":
    made = {
        "one answer per image": exact_table(),
        "metrics": simulated_table(METRICS),
        "differences": simulated_table(DIFFERENCES),
    }
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")
