"""95% intervals hold the truth in 93 to 97 of 100 samples of images; docs/statistics.md says how often exactly."""

import re

import numpy as np
import pytest

from evals.coverage_page import (
    DIFFERENCES,
    METRICS,
    PAGE,
    SIZES,
    Population,
    bootstrap,
    coverage,
    exact_coverage,
    exact_table,
    possible_coverage,
    rewritten,
    simulated_cells,
)

FAST = [METRICS[place] for place in (1, 3, 5, 9, 10, 13)]


def reach(population: Population, images: int) -> tuple[float, float]:
    """Where 50 images hold too few hits, only one limit can miss: then nearly one tail is all that is lost."""
    return (0.93, 0.99) if population.few and images == 50 else (0.93, 0.97)


@pytest.mark.parametrize("images", SIZES)
@pytest.mark.parametrize("population", FAST, ids=lambda population: population.name)
def test_95_percent_intervals_cover_95_percent(population: Population, images: int) -> None:
    least, most = reach(population, images)
    assert least <= coverage(population, images, 1500 if images == 50 else 600) <= most


@pytest.mark.parametrize("images", SIZES)
@pytest.mark.parametrize("population", [DIFFERENCES[0], DIFFERENCES[6]], ids=lambda population: population.name)
def test_95_percent_intervals_of_differences_cover_95_percent(population: Population, images: int) -> None:
    least, most = reach(population, images)
    assert least <= coverage(population, images, 400 if images == 50 else 150) <= most


@pytest.mark.parametrize("images", SIZES)
def test_exact_coverage_of_a_proportion(images: int) -> None:
    """The outcomes are few, so coverage jumps with the rate."""
    rates = np.linspace(0.02, 0.98, 97)
    covered = np.array([exact_coverage(rate, images) for rate in rates])
    assert covered.mean() == pytest.approx(0.952, abs=0.002)
    assert np.mean((covered >= 0.93) & (covered <= 0.97)) > 0.9
    assert covered.min() > 0.93
    assert covered == pytest.approx(covered[::-1])
    assert exact_coverage(0.0, images) == exact_coverage(1.0, images) == 1


def test_rare_hits_are_never_covered_much_too_little() -> None:
    """Wilson's own limits fall to .838 here, at rates near 0.2 / n."""
    rates = np.exp(np.linspace(np.log(0.02), np.log(10), 400)) / 50
    assert min(exact_coverage(rate, 50) for rate in rates) > 0.927


def test_what_coverage_could_be() -> None:
    """50 images at a rate of .01: no hit or one have .911 together, two more make .986; nothing lies between."""
    below, above = possible_coverage(0.01, 50)
    assert below == pytest.approx(0.99**50 + 50 * 0.01 * 0.99**49)
    assert above == pytest.approx(below + 1225 * 0.01**2 * 0.99**48)
    assert exact_coverage(0.01, 50) == pytest.approx(above)


def test_the_bootstrap_covers_too_little_where_hits_are_few() -> None:
    few = METRICS[3]
    for kind in ("percentile", "bca"):
        measured = coverage(few, 50, 100, lambda population, values, kind=kind: bootstrap(population, values, kind))
        assert measured < 0.92


def test_the_exact_table_of_the_page_is_current() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert rewritten(text, {"one answer per image": exact_table()}) == text, "run: python tests/evals/coverage_page.py"


@pytest.mark.parametrize("population", [*METRICS, *DIFFERENCES], ids=lambda population: population.name)
def test_the_page_says_how_often(population: Population) -> None:
    (cells,) = re.findall(rf"\| {re.escape(population.name)} \| (\S+) / (\S+) \|", PAGE.read_text(encoding="utf-8"))
    for images, cell in zip(SIZES, cells, strict=True):
        least, most = reach(population, images)
        assert least <= float(cell) <= most


@pytest.mark.slow
@pytest.mark.parametrize("population", [*METRICS, *DIFFERENCES], ids=lambda population: population.name)
def test_the_simulated_tables_of_the_page_are_current(population: Population) -> None:
    assert f"| {population.name} | {simulated_cells(population)} |" in PAGE.read_text(encoding="utf-8")
