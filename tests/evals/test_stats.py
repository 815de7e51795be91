"""Intervals and comparisons: worked values, independent oracles, and coverage by simulation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdpo.evals.bootstrap import bootstrap_interval
from mmdpo.evals.comparing.paired import minimum_detectable_difference, paired_difference
from mmdpo.evals.estimates import jackknife, wilson
from mmdpo.evals.stats import Metric, Table, divide, interval, ratio

RATE = ratio("rate", "hits", "trials")
COUNT = ratio("count", "hits", "trials", bounds=(0.0, math.inf))


@dataclass
class Row:
    group: str
    counts: dict[str, float] = field(default_factory=dict)


def rows(hits: Sequence[float], trials: Sequence[float]) -> list[Row]:
    return [Row(str(i), {"hits": h, "trials": t}) for i, (h, t) in enumerate(zip(hits, trials, strict=True))]


def table(hits: Sequence[float], trials: Sequence[float]) -> Table:
    return Table([str(i) for i in range(len(hits))], ["hits", "trials"], np.stack([hits, trials], 1).astype(float))


def test_wilson_is_the_textbook_interval() -> None:
    oracle = scipy.stats.binomtest(7, 40).proportion_ci(method="wilson")
    assert wilson(7 / 40, 40, scipy.stats.norm.ppf(0.975)) == pytest.approx((oracle.low, oracle.high))


def test_one_answer_per_image_has_wilsons_interval() -> None:
    oracle = scipy.stats.binomtest(12, 50).proportion_ci(method="wilson")
    measured = interval(table([1] * 12 + [0] * 38, [1] * 50), RATE)
    assert (measured.value, measured.n) == (0.24, 50)
    assert (measured.low, measured.high) == pytest.approx((oracle.low, oracle.high))


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.array([[3.0, 1], [5, 1], [10, 1], [2, 1]])
    estimate = jackknife(values, lambda sums: divide(sums[..., 0], sums[..., 1]))
    assert estimate.value == 5
    assert estimate.error == pytest.approx(np.std([3, 5, 10, 2], ddof=1) / 2)
    assert estimate.freedom == 3


def test_degrees_of_freedom_follow_the_images_that_vary() -> None:
    def freedom(numbers: Sequence[float]) -> float:
        values = np.stack([np.asarray(numbers), np.ones(len(numbers))], 1)
        return jackknife(values, lambda sums: divide(sums[..., 0], sums[..., 1])).freedom

    assert freedom([1.0, 0] * 50) == 99
    assert freedom(np.random.default_rng(0).normal(size=2000)) == pytest.approx(2000, rel=0.1)
    # Twelve images in 600 vary: about 2 / (1/12 - 1/600) degrees of freedom.
    assert freedom([1.0] * 12 + [0] * 588) == pytest.approx(24.5, rel=0.05)
    assert freedom([1.0] + [0] * 599) == 10


def test_answers_of_one_image_count_as_one_when_they_agree() -> None:
    sixfold = interval(table([6] * 30 + [0] * 20, [6] * 50), RATE)
    alone = wilson(0.6, 49, scipy.stats.t.ppf(0.975, 49))
    assert (sixfold.low, sixfold.high) == pytest.approx(alone)
    assert sixfold.n == 300


@pytest.mark.parametrize(("hits", "value"), [(0, 0.0), (1, 1.0)])
def test_rates_of_zero_and_one_have_wilsons_width(hits: int, value: float) -> None:
    measured = interval(table([hits] * 50, [1] * 50), RATE)
    reach = (squared := scipy.stats.norm.ppf(0.975) ** 2) / (50 + squared)
    assert measured.value == value
    assert measured.high - measured.low == pytest.approx(reach)


@pytest.mark.parametrize(("least", "greatest"), [(0.0, 200.0), (0.0, 6.0), (-1.0, 1.0)])
def test_limits_are_on_the_scale_of_the_metric(least: float, greatest: float) -> None:
    """A metric that is a rate stretched to other bounds has the rate's limits stretched, with variation or without."""
    width = greatest - least
    value = lambda sums: least + width * divide(sums["hits"], sums["trials"])  # noqa: E731
    stretched = Metric("stretched", value, lambda sums: sums["trials"], bounds=(least, greatest))
    for hits in ([6] * 50, [0] * 50, [3] * 50, [1, 5] * 25, [1] + [0] * 49):
        plain, measured = interval(table(hits, [6] * 50), RATE), interval(table(hits, [6] * 50), stretched)
        assert plain.low is not None and plain.high is not None
        assert (measured.low, measured.high) == pytest.approx((least + width * plain.low, least + width * plain.high))
        assert measured.percent is (greatest <= 1)
        other = rows([6] * 50, [6] * 50)
        gaps = [paired_difference(rows(hits, [6] * 50), other, metric, permutations=9) for metric in (RATE, stretched)]
        for key in ("value", "low", "high", "detectable"):
            assert getattr(gaps[1], key) == pytest.approx(width * getattr(gaps[0], key)), key


def test_without_bounds_nothing_stretches_the_least_width() -> None:
    measured = interval(table([3] * 50, [1] * 50), COUNT)
    quantile = scipy.stats.t.ppf(0.975, 49)
    assert measured.high == pytest.approx(3 + quantile**2 / (50 + quantile**2))
    assert not measured.percent


@pytest.mark.parametrize("hits", [1, 2, 3])
def test_few_hits_have_the_limit_of_poisson(hits: int) -> None:
    """The least rate at which so many hits or more have a chance of 5%."""
    low = interval(table([1] * hits + [0] * 499, [1] * (499 + hits)), RATE).low
    high = interval(table([0] * hits + [1] * 499, [1] * (499 + hits)), RATE).high
    assert low is not None and high is not None
    assert scipy.stats.poisson.sf(hits - 1, low * (499 + hits)) == pytest.approx(0.05)
    assert high == pytest.approx(1 - low)


def test_clustering_is_believed_as_images_with_hits_become_more() -> None:
    """At no hit each image counts once; at one, the upper limit must not fall to that of 300 questions."""
    limits = [interval(table([1] * k + [0] * (50 - k), [6] * 50), RATE).high for k in range(4)]
    each_alone = scipy.stats.binomtest(1, 300).proportion_ci(method="wilson").high
    assert limits[1] > 1.5 * each_alone
    squared = scipy.stats.t.ppf(0.975, 49) ** 2
    assert limits[0] == pytest.approx(squared / (50 + squared))


def test_one_image_says_nothing() -> None:
    measured = interval(table([1], [2]), RATE)
    assert (measured.value, measured.low, measured.high, measured.n) == (0.5, 0.0, 1.0, 2)
    assert interval(table([4], [1]), COUNT).high is None


def test_no_denominator_is_no_value() -> None:
    measured = interval(table([0, 0], [0, 0]), RATE)
    assert (measured.value, measured.low, measured.high, measured.n) == (0.0, 0.0, 1.0, 0)


def test_the_image_that_holds_the_whole_denominator_may_be_left_out() -> None:
    measured = interval(table([1, 0, 0], [2, 0, 0]), RATE)
    assert (measured.low, measured.high) == (0.0, 1.0)


def test_items_are_summed_by_image_and_missing_columns_are_zero() -> None:
    made = Table.of([Row("a", {"x": 1}), Row("b", {"y": 2}), Row("a", {"x": 3, "y": 1})])
    assert made.groups == ["a", "b"]
    assert made.sums(made.values)["x"].tolist() == [4, 0]
    assert made.sums()["y"] == 3


def test_bootstrap_agrees_where_both_are_sound() -> None:
    generator = np.random.default_rng(5)
    mentions = 1 + generator.poisson(6, 500)
    sample = table(generator.binomial(mentions, 0.3), mentions)
    jack, boot = interval(sample, RATE), bootstrap_interval(sample, RATE)
    assert boot.value == jack.value
    assert (boot.low, boot.high) == pytest.approx((jack.low, jack.high), abs=0.004)
    assert boot == bootstrap_interval(sample, RATE)


# -- differences ----------------------------------------------------------------------------------------------------


def test_swapping_single_answers_is_mcnemars_test() -> None:
    before, after = [1] * 40 + [0] * 14 + [1] * 4, [1] * 40 + [1] * 14 + [0] * 4
    gap = paired_difference(rows(before, [1] * 58), rows(after, [1] * 58), RATE)
    assert gap.value == pytest.approx(10 / 58)
    assert gap.p_value == pytest.approx(scipy.stats.binomtest(4, 18).pvalue)
    assert gap.test == "McNemar, exact"
    assert gap.low > 0


def test_mcnemar_of_statsmodels() -> None:
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
    before, after = [1] * 30 + [0] * 9 + [1] * 6 + [0] * 5, [1] * 30 + [1] * 9 + [0] * 6 + [0] * 5
    gap = paired_difference(rows(before, [1] * 50), rows(after, [1] * 50), RATE)
    oracle = contingency.mcnemar([[30, 6], [9, 5]], exact=True).pvalue
    assert gap.p_value == pytest.approx(oracle)


def test_precision_of_single_answers_is_no_mcnemar() -> None:
    """The models say yes on different images, so the denominators differ and the images are no pairs of yes and no."""
    gap = paired_difference(rows([1, 0, 0, 1], [1, 1, 0, 1]), rows([1, 0, 1, 0], [1, 0, 1, 1]), RATE)
    assert gap.test == "all swaps"


def test_limits_of_a_difference_of_single_answers_are_newcombes() -> None:
    """Newcombe 1998, method 8: square-and-add of Wilson's limits with the phi coefficient of the two-by-two table."""
    both, only_a, only_b, none = 28, 4, 11, 7
    before, after = [1] * 32 + [0] * 18, [1] * 28 + [0] * 4 + [1] * 11 + [0] * 7
    gap = paired_difference(rows(before, [1] * 50), rows(after, [1] * 50), RATE)
    a, b = (scipy.stats.binomtest(sum(hits), 50).proportion_ci(method="wilson") for hits in (before, after))
    phi = (both * none - only_a * only_b) / math.sqrt(32 * 18 * 39 * 11)
    down, up = 0.78 - b.low, a.high - 0.64
    assert gap.low == pytest.approx(0.14 - math.sqrt(down**2 - 2 * phi * down * up + up**2))
    down, up = 0.64 - a.low, b.high - 0.78
    assert gap.high == pytest.approx(0.14 + math.sqrt(down**2 - 2 * phi * down * up + up**2))


def test_equal_models_differ_by_nothing_but_not_surely() -> None:
    same = rows([1, 0] * 25, [1] * 50)
    gap = paired_difference(same, same, RATE)
    assert (gap.value, gap.p_value) == (0, 1)
    assert gap.low == -gap.high
    assert 0 < gap.high < 0.1
    assert gap.detectable > 0


def test_images_must_be_the_same() -> None:
    with pytest.raises(ValueError, match="same for both"):
        paired_difference(rows([1, 1], [1, 1]), rows([1], [1]), RATE)


def test_the_detectable_difference_is_found_four_times_in_five() -> None:
    images, error = 200, 0.02
    truth = minimum_detectable_difference(error, images - 1)
    found = np.abs(np.random.default_rng(0).normal(truth, error, 20_000)) > scipy.stats.t.ppf(0.975, 199) * error
    assert found.mean() == pytest.approx(0.8, abs=0.01)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30
    )
)
def test_differences_are_antisymmetric_and_within_reach(counts: list[tuple[int, int, int, int]]) -> None:
    first = rows([min(h, t) for h, t, _, _ in counts], [t for _, t, _, _ in counts])
    second = rows([min(h, t) for _, _, h, t in counts], [t for _, _, _, t in counts])
    forth = paired_difference(first, second, RATE, permutations=99)
    back = paired_difference(second, first, RATE, permutations=99)
    assert forth.value == -back.value
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))
    assert -1 <= forth.low <= forth.value <= forth.high <= 1
    assert forth.low < forth.high
    assert 0 < forth.p_value <= 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40))
def test_every_interval_holds_its_value_and_has_width(counts: list[tuple[int, int]]) -> None:
    measured = interval(table([min(h, t) for h, t in counts], [t for _, t in counts]), RATE)
    assert 0 <= measured.low <= measured.value <= measured.high <= 1
    assert measured.low < measured.high


def test_any_function_of_sums_has_an_interval() -> None:
    product = Metric("product", lambda sums: divide(sums["hits"], sums["trials"]) ** 2, lambda sums: sums["trials"])
    measured = interval(table([1] * 40 + [0] * 10, [1] * 50), product)
    assert measured.value == pytest.approx(0.64)
    # The delta method: d(p^2) = 2 p dp.
    assert measured.high - measured.low == pytest.approx(2 * 2.01 * 2 * 0.8 * math.sqrt(0.16 / 49), rel=0.06)
