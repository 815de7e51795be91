"""Agreement between raters, against the published package and worked values."""

import numpy as np
import pytest

from data_builders.rating.agreement import agreement, alpha, rater_means, weighted_kappa
from data_builders.rating.pairing import Rating
from mmdpo.media import Media


def rating(image: str, caption: str, rater: str, value: float, *, named: bool = True) -> Rating:
    return Rating(0, None, Media(image), "?", caption, rater, named, value, None)


@pytest.mark.parametrize("level", ["interval", "ordinal"])
def test_alpha_is_that_of_the_package(level: str):
    krippendorff = pytest.importorskip("krippendorff", reason="comes with the data extra")
    generator = np.random.default_rng(0)
    truth = generator.integers(1, 6, 40)
    table = np.clip(truth + generator.integers(-1, 2, (4, 40)), 1, 5).astype(float)
    table[generator.random((4, 40)) < 0.3] = np.nan
    units = [column[~np.isnan(column)] for column in table.T]
    given = [rating(str(n), "x", str(k), value) for n, unit in enumerate(units) for k, value in enumerate(unit)]
    ours = agreement(given)[f"alpha_{level}"]
    assert ours["value"] == pytest.approx(krippendorff.alpha(table, level_of_measurement=level), abs=1e-12)
    assert ours["low"] < ours["value"] < ours["high"] <= 1
    assert ours["n"] == sum(len(unit) for unit in units if len(unit) > 1)


def test_alpha_at_its_ends():
    same = [np.array([value, value]) for value in (1.0, 2.0, 3.0)]
    assert alpha(same, ["a", "b", "c"])["value"] == 1
    assert alpha([np.array([2.0, 2.0])] * 3, ["a", "b", "c"])["value"] is None, "nothing varies"
    assert alpha([], [])["value"] is None
    assert alpha(same, ["a", "a", "a"])["low"] is None, "one image has no interval"


def test_the_image_is_resampled():
    """Twenty captions on two images say less about other images than twenty captions on twenty images."""
    units = [np.array([1.0, 2.0]), np.array([4.0, 4.0]), np.array([3.0, 2.0]), np.array([5.0, 4.0])] * 5
    clustered = alpha(units, ["a", "b", "b", "a"] * 5)
    apart = alpha(units, [str(index) for index in range(20)])
    assert clustered["value"] == apart["value"]
    assert clustered["high"] - clustered["low"] > apart["high"] - apart["low"]


def test_weighted_kappa_from_its_table():
    first, second = np.array([1.0, 2, 3, 3, 2, 1]), np.array([1.0, 2, 3, 2, 2, 2])
    weights = (np.arange(3)[:, None] - np.arange(3)) ** 2
    observed = np.zeros((3, 3))
    for a, b in zip(first, second, strict=True):
        observed[int(a) - 1, int(b) - 1] += 1 / 6
    expected = np.outer(observed.sum(1), observed.sum(0))
    assert weighted_kappa(first, second) == pytest.approx(1 - (weights * observed).sum() / (weights * expected).sum())
    assert weighted_kappa(np.ones(3), np.ones(3)) is None


def test_only_named_raters_are_compared():
    named = [rating(f"{i}", "c", rater, i + shift) for i in range(4) for rater, shift in (("ann", 0.0), ("bob", 1.0))]
    (row,) = agreement(named)["rater_pairs"]
    assert (row["raters"], row["n"], row["spearman"]) == (["ann", "bob"], 4, pytest.approx(1.0))
    assert row["weighted_kappa"] == pytest.approx(1 - 1 / (1.25 + 1.25 + 1))
    assert [(entry["rater"], entry["mean"]) for entry in rater_means(named)] == [("ann", 1.5), ("bob", 2.5)]
    unnamed = [rating(f"{i}", "c", rater, i, named=False) for i in range(4) for rater in "ab"]
    result = agreement(unnamed)
    assert result["rater_pairs"] == [] and rater_means(unnamed) == []
    assert result["alpha_interval"]["value"] == 1
