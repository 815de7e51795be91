"""p-values and their correction, the bootstrap, and the conclusion in words: oracles and worked values."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from mmdpo.errors import ConfigError, MMDPOError
from mmdpo.evals.bootstrap import bootstrap_difference, bootstrap_interval
from mmdpo.evals.comparing.conclusion import concluded
from mmdpo.evals.comparing.folders import compare_folders, require
from mmdpo.evals.comparing.paired import paired_difference
from mmdpo.evals.comparing.testing import CORRECTIONS, adjusted, mcnemar, swap_test
from mmdpo.evals.runner import score
from mmdpo.evals.stats import Table, divide, interval, ratio

RATE = ratio("rate", "hits", "trials")
P_VALUES = [0.01, 0.04, 0.03, 0.005, 0.5]


class Row:
    def __init__(self, group: int, hits: float, trials: float) -> None:
        self.group, self.counts = str(group), {"hits": hits, "trials": trials}


def rows(hits: Sequence[float], trials: Sequence[float]) -> list[Row]:
    return [Row(n, float(h), float(t)) for n, (h, t) in enumerate(zip(hits, trials, strict=True))]


def rate(sums: np.ndarray) -> np.ndarray:
    return divide(sums[..., 0], sums[..., 1])


# -- p-values ---------------------------------------------------------------------------------------------------------


def test_mcnemar_is_a_fair_coin() -> None:
    # 1 or 0 of 6, on both sides: 2 (1 + 6) / 64.
    assert mcnemar(5, 1) == mcnemar(1, 5) == pytest.approx(14 / 64)
    assert mcnemar(0, 0) == 1


def test_few_differing_images_are_swapped_in_every_way() -> None:
    """Three images differ, always in favour of the second: of 8 ways 2 are as extreme."""
    a = np.array([[1.0, 4], [0, 4], [2, 4], [3, 4]])
    b = np.array([[3.0, 4], [1, 4], [3, 4], [3, 4]])
    assert swap_test(a, b, rate) == (2 / 8, True)
    assert swap_test(a, a, rate) == (1, True)


def test_random_swaps_agree_with_all_ways() -> None:
    generator = np.random.default_rng(4)
    trials = 1.0 + generator.poisson(5, 13)
    a, b = (np.stack([generator.binomial(trials.astype(int), p), trials], 1) for p in (0.3, 0.6))
    exact, sure = swap_test(a, b, rate)
    at_random, unsure = swap_test(a, b, rate, permutations=4000)
    assert (sure, unsure) == (True, False)
    assert at_random == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4000))


def test_p_values_of_equal_models_are_below_a_level_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    trials = np.full(30, 6.0)
    p_values = []
    for _ in range(600):
        rates = generator.beta(2, 2, 30)
        a, b = (np.stack([generator.binomial(6, rates), trials], 1) for _ in range(2))
        p_values.append(swap_test(a, b, rate, permutations=199)[0])
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(p_values) <= level) == pytest.approx(level, abs=4 * math.sqrt(level / 600))


# -- many comparisons -------------------------------------------------------------------------------------------------


def test_worked_corrections() -> None:
    assert adjusted(P_VALUES, "holm") == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.5])
    assert adjusted(P_VALUES, "bh") == pytest.approx([0.025, 0.05, 0.05, 0.025, 0.5])
    assert adjusted(P_VALUES, "by") == pytest.approx(
        [0.025 * 137 / 60, 0.05 * 137 / 60, 0.05 * 137 / 60, 0.025 * 137 / 60, 1]
    )
    assert adjusted(P_VALUES, "none") == P_VALUES
    assert [adjusted([], method) for method in CORRECTIONS] == [[]] * 4


@pytest.mark.parametrize(("ours", "theirs"), [("holm", "holm"), ("bh", "fdr_bh"), ("by", "fdr_by")])
def test_corrections_of_statsmodels(ours: str, theirs: str) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p_values = np.random.default_rng(0).beta(0.5, 2, 40)
    assert adjusted(p_values.tolist(), ours) == pytest.approx(multitest.multipletests(p_values, method=theirs)[1])


def test_an_unknown_correction() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'holm'"):
        adjusted([0.1], "holms")


def compared(p: float, verdict: str = "better", **entry: Any) -> dict[str, Any]:
    measured = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 200}
    gap = {"value": 0.05, "low": 0.01, "high": 0.09, "n": 100, "p": p, "detectable": 0.04, "verdict": verdict}
    return {"before": measured, "after": measured, "difference": gap, "better": "higher", **entry}


OPEN = "no difference shown (one of 0.040 would be, four times in five)"


def test_the_conclusion_in_words() -> None:
    made = concluded(
        {
            "pope_f1": compared(0.001),
            "chair_i": compared(0.03),
            "mme_count": compared(0.8, OPEN, percent=False),
            "recall": compared(0.3, OPEN),
            "amber": compared(0.0001, "undefined for B"),
        }
    )
    gaps = {name: entry["difference"] for name, entry in made["metrics"].items()}
    assert [gap["p_adjusted"] for gap in gaps.values()] == pytest.approx([0.004, 0.09, 0.8, 0.6, None])
    assert gaps["pope_f1"]["verdict"] == "better"
    assert gaps["chair_i"]["verdict"] == "better (not confirmed: corrected p 0.09)"
    assert made["correction"] == {"method": "holm", "comparisons": 4, "level": 0.05}
    assert made["conclusion"] == (
        "B is better than A in pope_f1 (+5.0 points). "
        "Not confirmed for 4 comparisons at once (Holm's correction): chair_i (+5.0 points). "
        "No difference is shown in 2 of 4 comparisons; with 100 images or clips, one of 4.0 points or of 0.04 on other "
        "scales would be, four times in five. "
        "Undefined for a model that gives nothing to divide by: amber."
    )


@pytest.mark.parametrize(
    ("verdicts", "beginning"),
    [
        (["worse"], "B is worse than A in m0 (+5.0 points)."),
        (["better", "worse"], "B is better than A in m0 (+5.0 points), and worse in m1 (+5.0 points)."),
        ([OPEN], "No difference for better or worse between A and B is shown."),
        (
            ["higher"],
            "No difference for better or worse between A and B is shown. Neither for better nor for worse: m0",
        ),
        (["better"] * 8, "B is better than A in m0 (+5.0 points), m1 (+5.0 points), m2 (+5.0 points), m3"),
    ],
)
def test_how_conclusions_begin(verdicts: list[str], beginning: str) -> None:
    text = concluded({f"m{n}": compared(0.0001, verdict) for n, verdict in enumerate(verdicts)})["conclusion"]
    assert text.startswith(beginning)
    assert ("and 2 more." in text) == (len(verdicts) == 8)


# -- limits for a check -----------------------------------------------------------------------------------------------


def test_a_model_that_says_nothing_passes_no_check(write_lines: Callable[..., Path], tmp_path: Path) -> None:
    questions = [{"question_id": i, "image": f"{i}.jpg", "text": f"Is there {i}?", "label": "yes"} for i in range(40)]
    data = write_lines("q.json", questions)
    for name, word in (("a", "yes"), ("b", "no")):
        answers = write_lines(f"{name}.jsonl", [{"question_id": i, "answer": word} for i in range(40)])
        score("pope", data, answers).save(tmp_path / name / "pope")
    comparison = compare_folders(tmp_path / "a", tmp_path / "b")
    assert comparison["metrics"]["pope_precision"]["difference"]["verdict"] == "undefined for B"
    assert comparison["metrics"]["pope_accuracy"]["difference"]["verdict"] == "worse"
    require(comparison, ["pope_yes_ratio=0"])
    with pytest.raises(MMDPOError, match="pope_precision is undefined"):
        require(comparison, ["pope_precision=0"])


@pytest.mark.parametrize("limit", ["f1", "f1=", "f1=nan", "f1=inf", "f1=85%"])
def test_a_limit_without_a_number(limit: str) -> None:
    with pytest.raises(ConfigError, match="has no number"):
        require({"metrics": {"f1": compared(0.5)}}, [limit])


def test_a_ceiling_that_no_model_could_miss() -> None:
    metrics = {"chair_i": compared(0.5, better="lower"), "words": compared(0.5, better="lower", percent=False)}
    with pytest.raises(ConfigError, match="at most 10 of a fraction"):
        require({"metrics": metrics}, ["chair_i=10"])
    require({"metrics": metrics}, ["words=10"])


# -- bootstrap --------------------------------------------------------------------------------------------------------


def test_bca_is_that_of_scipy() -> None:
    numbers = np.random.default_rng(1).gamma(1.0, size=60) / 20
    table = Table([str(n) for n in range(60)], ["hits", "trials"], np.stack([numbers, np.ones(60)], 1))
    ours = bootstrap_interval(table, RATE, draws=20_000, method="bca")
    theirs = scipy.stats.bootstrap((numbers,), np.mean, n_resamples=20_000, method="BCa", rng=0).confidence_interval
    percentile = bootstrap_interval(table, RATE, draws=20_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=3e-4)
    assert abs(percentile.high - theirs.high) > 1e-3


def test_the_paired_bootstrap_keeps_the_pairs() -> None:
    """Models that go together differ by little more than noise; drawn apart they would differ by the images' spread."""
    generator = np.random.default_rng(3)
    rates = generator.beta(0.5, 0.5, 400)
    before, after = generator.binomial(20, rates), generator.binomial(20, 0.05 + 0.9 * rates)
    items = rows(before, [20] * 400), rows(after, [20] * 400)
    boot, here = bootstrap_difference(*items, RATE), paired_difference(*items, RATE, permutations=9)
    assert boot.value == here.value
    assert (boot.low, boot.high) == pytest.approx((here.low, here.high), abs=0.002)
    alone = interval(Table.of(items[0]), RATE)
    assert alone.low is not None and alone.high is not None and boot.low is not None and boot.high is not None
    assert boot.high - boot.low < (alone.high - alone.low) / 2
