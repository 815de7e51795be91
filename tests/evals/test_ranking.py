"""Win rates at equal length and Bradley-Terry strengths, against worked cases and general optimisers."""

import numpy as np
import pytest
import scipy.optimize
from scipy.special import expit, log_expit

from mmdpo.evals.judging.ranking import connected, length_controlled, strength_intervals, strengths

# -- equal length -----------------------------------------------------------------------------------------------------


def each(count: int) -> np.ndarray:
    """One pair about each image."""
    return np.arange(count)


@pytest.mark.parametrize(("wins", "count"), [(0, 20), (7, 20), (20, 20), (1, 1), (250, 400)])
def test_answers_of_one_length_have_the_win_rate_itself(wins: int, count: int) -> None:
    """Firth's estimate of a plain rate adds half a win and half a loss."""
    outcomes = np.array([1.0] * wins + [0.0] * (count - wins))
    found = length_controlled(outcomes, np.full((count, 2), 30.0), each(count))
    assert found.value == pytest.approx((wins + 0.5) / (count + 1), abs=1e-9)
    assert 0 < found.low < found.value < found.high < 1
    assert found.n == count


def test_ties_count_half() -> None:
    lengths = np.full((8, 2), 5.0)
    tied = length_controlled(np.full(8, 0.5), lengths, each(8))
    split = length_controlled(np.array([1.0, 0.0] * 4), lengths, each(8))
    assert tied.value == split.value == pytest.approx(0.5)


def samples(count: int, strength: float, slope: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    lengths = generator.gamma(4.0, 20.0, (count, 2)) + np.array([30.0, 0.0])
    difference = lengths[:, 0] - lengths[:, 1]
    rates = expit(strength + slope * np.tanh(difference / difference.std()))
    return (generator.random(count) < rates).astype(float), lengths


@pytest.mark.parametrize("seed", range(4))
def test_the_estimate_is_that_of_a_general_optimiser(seed: int) -> None:
    """Firth's estimate maximises the log-likelihood plus half the logarithm of the information's determinant."""
    outcomes, lengths = samples(60, 0.4, 1.5, seed)
    outcomes[:5] = 0.5
    difference = lengths[:, 0] - lengths[:, 1]
    design = np.stack([np.ones(60), np.tanh(difference / difference.std())], axis=1)

    def negative(weights: np.ndarray) -> float:
        scores = design @ weights
        rates = expit(scores)
        information = design.T @ (design * (rates * (1 - rates))[:, None])
        fit = float(np.sum(outcomes * log_expit(scores) + (1 - outcomes) * log_expit(-scores)))
        return -fit - 0.5 * float(np.linalg.slogdet(information)[1])

    best = scipy.optimize.minimize(negative, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    found = length_controlled(outcomes, lengths, each(60))
    assert found.value == pytest.approx(expit(best.x[0]), abs=1e-6)


def test_what_length_alone_explains_is_taken_out() -> None:
    """The first model wins more often than not because it writes more; at equal length it loses."""
    outcomes, lengths = samples(20_000, -0.5, 2.0, 0)
    found = length_controlled(outcomes, lengths, each(20_000))
    assert outcomes.mean() > 0.53
    assert found.value == pytest.approx(expit(-0.5), abs=0.02)
    assert found.low < expit(-0.5) < found.high


def test_length_that_tells_all_leaves_the_rate_open() -> None:
    lengths = np.stack([np.arange(40.0), np.full(40, 19.5)], axis=1)
    found = length_controlled((lengths[:, 0] > 19.5).astype(float), lengths, each(40))
    assert found.value == pytest.approx(0.5)
    assert found.high - found.low > 0.5


def test_swapping_the_models_mirrors_the_rate() -> None:
    outcomes, lengths = samples(100, 0.7, 1.0, 3)
    one = length_controlled(outcomes, lengths, each(100))
    other = length_controlled(1 - outcomes, lengths[:, ::-1], each(100))
    assert (other.value, other.low, other.high) == pytest.approx((1 - one.value, 1 - one.high, 1 - one.low))


def test_pairs_about_one_image_are_not_taken_for_independent() -> None:
    outcomes, lengths = samples(50, 0.3, 0.5, 5)
    once = length_controlled(outcomes, lengths, each(50))
    fourfold = length_controlled(np.tile(outcomes, 4), np.tile(lengths, (4, 1)), np.tile(each(50), 4))
    assert fourfold.value == pytest.approx(once.value, abs=0.01)  # the correction weighs less beside four times as many
    assert fourfold.high - fourfold.low > 0.9 * (once.high - once.low)


@pytest.mark.slow
@pytest.mark.parametrize(("strength", "slope", "images", "about_each"), [(0.0, 1.0, 50, 1), (1.0, 2.0, 100, 3)])
def test_coverage(strength: float, slope: float, images: int, about_each: int) -> None:
    """Between .93 and .98 of 1500 simulated intervals hold the truth; the truth's scale is each sample's own."""
    groups = np.repeat(np.arange(images), about_each)
    held = 0
    for seed in range(1500):
        outcomes, lengths = samples(images * about_each, strength, slope, seed)
        found = length_controlled(outcomes, lengths, groups)
        held += found.low <= expit(strength) <= found.high
    assert 0.93 <= held / 1500 <= 0.98


# -- strengths --------------------------------------------------------------------------------------------------------


def test_two_models_have_the_log_odds_of_the_win_rate() -> None:
    first, second = strengths(np.array([[0.0, 7e6], [3e6, 0.0]]))  # the imaginary games weigh nothing beside so many
    assert (first - second, first + second) == pytest.approx((np.log(7 / 3), 0), abs=1e-6)


def test_imaginary_games_by_hand() -> None:
    """With a game each against strength 0: 8 of 10 wins, so 8 + 1/2 = 10 p(2s) + p(s), by bisection."""
    found = strengths(np.array([[0.0, 8.0], [2.0, 0.0]]))
    root = scipy.optimize.brentq(lambda s: 10 * expit(2 * s) + expit(s) - 8.5, 0, 5)
    assert found == pytest.approx([root, -root])


def negative(found: np.ndarray, wins: np.ndarray) -> float:
    gaps = found[:, None] - found[None]
    return -float((wins * log_expit(gaps)).sum()) - 0.5 * float((log_expit(found) + log_expit(-found)).sum())


@pytest.mark.parametrize("kind", ["usual", "undefeated", "sparse"])
def test_strengths_are_those_of_a_general_optimiser(kind: str) -> None:
    wins = np.random.default_rng(1).integers(0, 60, (5, 5)).astype(float)
    np.fill_diagonal(wins, 0)
    if kind == "undefeated":
        wins[0, 1:], wins[1:, 0], wins[2, :] = 500, 0, 0
    if kind == "sparse":
        wins *= np.eye(5, k=1) + np.eye(5, k=-1)
    best = scipy.optimize.minimize(negative, np.zeros(5), args=(wins,), method="BFGS", options={"gtol": 1e-9})
    found = strengths(wins)
    assert found == pytest.approx(best.x - best.x.mean(), abs=1e-4)
    assert found.sum() == pytest.approx(0)
    assert np.all(np.isfinite(found))


def test_known_strengths_are_found_with_their_intervals() -> None:
    true = np.array([1.0, 0.0, -1.0])
    generator = np.random.default_rng(0)
    wins = np.zeros((600, 3, 3))
    for first, second in ((0, 1), (0, 2), (1, 2)):
        won = generator.random(600) < expit(true[first] - true[second])
        wins[:, first, second], wins[:, second, first] = won, ~won
    found = strength_intervals(wins)
    for value, expected in zip(found, true, strict=True):
        assert value.low < expected < value.high
        assert value.low < value.value < value.high
        assert value.n == 1200


def drawn_wins(true: list[float], images: int, seed: int) -> np.ndarray:
    """One game between every two models about each image."""
    generator, strength = np.random.default_rng(seed), np.array(true)
    won = generator.random((images, len(true), len(true))) < expit(strength[:, None] - strength)
    upper = np.triu(won, 1)
    return upper + np.swapaxes(np.triu(~won, 1), 1, 2).astype(float)


@pytest.mark.parametrize("true", [[0.0, 0.0, 0.0], [1.0, 0.0, -1.0]])
def test_coverage_of_strengths(true: list[float]) -> None:
    """Of 500 samples of 50 images, with a standard error of .01: .93 to .98 at every strength."""
    tables = [strength_intervals(drawn_wins(true, 50, seed)) for seed in range(500)]
    for place, strength in enumerate(true):
        held = np.mean([table[place].low <= strength <= table[place].high for table in tables])
        assert 0.93 <= held <= 0.98


def test_limits_are_those_of_logistic_regression_with_grouped_errors() -> None:
    """Two models: the difference is a logit of a rate, whose limits `length_controlled` makes by the same recipe."""
    wins = drawn_wins([0.4, -0.4], 5000, 3)
    first, second = strength_intervals(wins)
    plain = length_controlled(wins[:, 0, 1], np.ones((5000, 2)), each(5000))
    gap = first.high - second.low  # the two move against each other, so the difference reaches twice as far as each
    assert expit(first.value - second.value) == pytest.approx(plain.value, abs=1e-3)
    assert expit(gap) == pytest.approx(plain.high, abs=1e-3)


def test_a_model_that_always_won_has_an_open_interval_and_images_without_a_game_do_not_count() -> None:
    wins = np.zeros((30, 2, 2))
    wins[:20, 0, 1] = 1.0
    best, _ = strength_intervals(wins)
    assert best.high - best.value > 1.0
    assert [(v.low, v.high, v.n) for v in strength_intervals(wins[:20])] == [
        (v.low, v.high, v.n) for v in strength_intervals(wins)
    ]
    (one, _) = strength_intervals(wins[:1])
    assert one.low < -2 < one.value < 2 < one.high


def test_images_are_drawn_and_not_pairs() -> None:
    wins = np.zeros((40, 3, 3))
    wins[:20, 0, 1] = wins[20:, 1, 0] = wins[:20, 1, 2] = wins[20:, 2, 1] = 1.0
    narrow, wide = strength_intervals(wins)[0], strength_intervals(wins.reshape(4, 10, 3, 3).sum(1))[0]
    assert wide.value == pytest.approx(narrow.value)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_who_is_compared_with_whom() -> None:
    wins = np.zeros((4, 4))
    wins[0, 1] = wins[3, 2] = 1.0
    assert not connected(wins)
    wins[2, 1] = 0.5
    assert connected(wins)
