"""Agreement of scores with ratings: against scipy, brute force and worked numbers; ties; real ratings."""

import gzip
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from mmdpo.errors import DataError
from mmdpo.evals.agreement import agreement
from mmdpo.evals.preferences import Preferences
from mmdpo.evals.runner import compare, score
from mmdpo.evals.shared.files import read_rows

Write = Callable[[str, Iterable[Mapping[str, Any]]], Path]
SMALL = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=6)


def by_hand(scores: list[float], ratings: list[float]) -> dict[str, float]:
    """Means over every order that breaks the ties of the scores, and over every pair; slow and literal."""
    pairs = [(a, b) for a, b in itertools.combinations(range(len(ratings)), 2) if ratings[a] != ratings[b]]
    points = [
        0.5 if scores[a] == scores[b] else float((scores[a] > scores[b]) == (ratings[a] > ratings[b])) for a, b in pairs
    ]
    low, high = min(ratings), max(ratings)
    gains = [(rating - low) / (high - low) for rating in ratings]
    orders = [
        order
        for order in itertools.permutations(range(len(ratings)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]

    def dcg(order: Iterable[int]) -> float:
        return sum(gains[k] / math.log2(place + 1) for place, k in enumerate(order, 1))

    ideal = dcg(sorted(range(len(ratings)), key=lambda k: -gains[k]))
    return {
        "right": sum(points),
        "pairs": len(pairs),
        "ndcg": sum(map(dcg, orders)) / len(orders) / ideal,
        "top1": sum(ratings[order[0]] == high for order in orders) / len(orders),
    }


@given(SMALL)
def test_every_small_list_agrees_with_brute_force_and_with_scipy(rows: list[tuple[int, int]]) -> None:
    scores, ratings = [float(s) for s, _ in rows], [float(r) for _, r in rows]
    found = agreement(scores, ratings)
    if len(set(ratings)) == 1:
        assert set(found.values()) == {0.0}, "nothing to agree with counts nowhere"
        return
    assert {name: found[name] for name in ("right", "pairs", "ndcg", "top1")} == pytest.approx(by_hand(scores, ratings))
    tau = scipy.stats.kendalltau(scores, ratings).statistic
    assert found["tau"] == pytest.approx(0.0 if math.isnan(tau) else tau)
    assert found["lists"] == 1.0


def test_worked_numbers_of_one_list() -> None:
    # order by score: b (rated 1), a (3), c (2); pairs: a>b wrong, a>c right, c>b wrong
    found = agreement([0.4, 0.9, 0.1], [3, 1, 2])
    assert (found["right"], found["pairs"], found["top1"]) == (1.0, 3.0, 0.0)
    assert found["tau"] == pytest.approx(-1 / 3)
    assert found["ndcg"] == pytest.approx((1 / math.log2(3) + 0.5 / 2) / (1 + 0.5 / math.log2(3)))


def files(write: Write, ratings: list[list[float]], **sources: list[list[float]]) -> tuple[Path, Path]:
    """Lists and their scores, two lists an image."""
    lists = [{"id": n, "group": f"photo {n // 2}", "ratings": own} for n, own in enumerate(ratings)]
    rows = [{"id": n, "scores": {name: own[n] for name, own in sources.items()}} for n in range(len(ratings))]
    return write("lists.jsonl", lists), write(f"scores {len(sources)} {hash(str(sources))}.jsonl", rows)


def test_a_reward_that_orders_better_is_shown_and_one_that_does_not_is_said(write_lines: Write) -> None:
    ratings = [[2.0, 1.0] for _ in range(60)]
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    better = [wrong if n % 6 == 0 else right for n in range(60)]
    coin = [right if n % 2 else wrong for n in range(60)]
    good = score("preferences", *files(write_lines, ratings, likelihood=coin, reward=better))
    poor = score("preferences", *files(write_lines, ratings, likelihood=better, reward=coin))
    assert good.metrics["reward_over_likelihood"].value == pytest.approx(50 / 60 - 30 / 60)
    assert good.metrics["reward_over_likelihood"].low > 0
    assert not [flag for flag in good.flags if flag.startswith("reward_not_over")]
    (said,) = (flag for flag in poor.flags if flag.startswith("reward_not_over_likelihood"))
    assert "worse than" in said and "-0.333" in said
    even = score("preferences", *files(write_lines, ratings, likelihood=better, reward=better))
    assert any("not shown to be better than" in flag and "+0.000" in flag for flag in even.flags)


def test_brier_score_and_ece_of_rewards_are_those_of_the_preference_probability(write_lines: Write) -> None:
    margins = [math.log(3), -math.log(3), 0.0, math.log(3)]  # .75, .25, .5 and .75 for the preferred answer
    lists = [[margin, 0.0] for margin in margins]
    result = score("preferences", *files(write_lines, [[1.0, 0.0]] * 4, reward=lists))
    assert result.metrics["reward_brier"].value == pytest.approx((0.25**2 + 0.75**2 + 0.5**2 + 0.25**2) / 4)
    # four predictions fill one bin: mean confidence (.75 + .75 + .5 + .75) / 4, right 2.5 of 4
    assert result.metrics["reward_ece"].value == pytest.approx(2.75 / 4 - 2.5 / 4)


def test_results_of_two_models_are_compared_image_by_image(write_lines: Write, tmp_path: Path) -> None:
    ratings = [[2.0, 1.0, 1.5] for _ in range(40)]
    poor = [[0.0, 1.0, 2.0] if n % 3 else [2.0, 1.0, 0.0] for n in range(40)]
    best = [[3.0, 1.0, 2.0] for _ in range(40)]
    first = score("preferences", *files(write_lines, ratings, reward=poor, reward_mean=poor))
    second = score("preferences", *files(write_lines, ratings, reward=best, reward_mean=best))
    second.save(tmp_path / "saved")
    gaps = compare(first, type(second).load(tmp_path / "saved"))
    assert gaps["reward_pair_accuracy"]["difference"]["verdict"] == "better"
    difference = second.metrics["reward_ece"].value - first.metrics["reward_ece"].value
    assert gaps["reward_ece"]["difference"]["value"] == pytest.approx(difference)
    assert gaps["reward_ece"]["better"] == "lower"


@pytest.mark.parametrize(
    ("lists", "scores", "message"),
    [
        ([{"id": 1, "ratings": [1]}], [{"id": 1, "scores": {"a": [1]}}], "two or more ratings"),
        ([{"id": 1, "ratings": [1, None]}], [{"id": 1, "scores": {"a": [1, 2]}}], "two or more ratings"),
        ([{"id": 1, "ratings": [1, 2], "candidates": ["x"]}], [{"id": 1, "scores": {"a": [1, 2]}}], "one for each"),
        ([{"id": 1, "ratings": [1, 10**400]}], [{"id": 1, "scores": {"a": [1, 2]}}], "two or more ratings"),
        ([{"id": 1, "ratings": [1, 2], "candidates": "xy"}], [{"id": 1, "scores": {"a": [1, 2]}}], "one for each"),
        ([{"id": 1, "ratings": [1, 2], "candidates": 2}], [{"id": 1, "scores": {"a": [1, 2]}}], "one for each"),
        ([{"id": 1, "ratings": [1, 2], "media": ["a.jpg"]}], [{"id": 1, "scores": {"a": [1, 2]}}], "media of another"),
        (
            [{"id": 1, "ratings": [1, 2], "media": {"images": "a.jpg"}}],
            [{"id": 1, "scores": {"a": [1, 2]}}],
            "media of another",
        ),
        ([{"id": 1, "ratings": [1, 2]}], [{"id": 1, "scores": {"a": [1, 2, 3]}}], "2 rated candidates"),
        ([{"id": 1, "ratings": [1, 2]}], [{"id": 1, "scores": {"a": [1, math.nan]}}], "finite number"),
        ([{"id": 1, "ratings": [1, 2]}], [{"id": 1, "scores": [1, 2]}], "lists by source"),
        (
            [{"id": n, "ratings": [1, 2]} for n in (1, 2)],
            [{"id": 1, "scores": {"a": [1, 2]}}, {"id": 2, "scores": {"b": [1, 2]}}],
            "same sources",
        ),
    ],
)
def test_what_cannot_be_held_against_each_other_is_refused(
    write_lines: Write, lists: list[dict[str, Any]], scores: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        score("preferences", write_lines("lists.jsonl", lists), write_lines("scores.jsonl", scores))


def test_lists_that_are_rated_all_the_same_count_nowhere(write_lines: Write) -> None:
    data, answers = files(write_lines, [[1.0, 1.0], [2.0, 1.0]], clip=[[0.3, 0.1], [0.3, 0.1]])
    result = score("preferences", data, answers)
    assert (result.n, result.metrics["clip_kendall_tau"].n, result.metrics["clip_kendall_tau"].value) == (2, 1, 1.0)
    assert any(flag.startswith("equal_ratings: 1 lists") for flag in result.flags)
    assert [item.correct for item in result.items] == [None, True]


def test_real_experts_and_a_real_metric(real_data: Callable[[str], Path], write_lines: Write) -> None:
    """Flickr8k-Expert, and a published metric's scores for the same captions: every list agrees with scipy."""
    entries = json.loads((real_data("flickr8k_expert") / "flickr8k.json").read_text(encoding="utf-8"))
    lines = (real_data("flickr8k_expert") / "fleur_llava_scores.txt").read_text(encoding="utf-8").splitlines()
    files_of, captions, numbers = ([line.partition(" : ")[2] for line in lines[n::5]] for n in (0, 1, 3))
    metric = {(f.strip(), c.strip()): float(s) for f, c, s in zip(files_of, captions, numbers, strict=True)}
    lists, rows, taus = [], [], []
    for name, entry in entries.items():
        votes: dict[str, list[float]] = {}
        for vote in entry["human_judgement"]:
            votes.setdefault(vote["caption"].strip(), []).append(vote["rating"])
        if len(votes) < 2:
            continue
        ratings = [float(np.mean(given)) for given in votes.values()]
        scores = [metric[entry["image_path"], caption] for caption in votes]
        lists.append({"id": name, "ratings": ratings, "candidates": list(votes)})
        rows.append({"id": name, "scores": {"metric": scores}})
        if len(set(ratings)) > 1:
            tau = scipy.stats.kendalltau(scores, ratings).statistic
            taus.append(0.0 if math.isnan(tau) else tau)
    result = score("preferences", write_lines("lists.jsonl", lists), write_lines("scores.jsonl", rows))
    assert result.metrics["metric_kendall_tau"].value == pytest.approx(np.mean(taus))
    assert result.metrics["metric_kendall_tau"].n == len(taus)
    assert result.metrics["metric_pair_accuracy"].low > 0.6, "the metric was published for agreeing with these experts"
    assert len(Preferences().samples(Path(str(write_lines("again.jsonl", lists))))) == len(lists)


def test_real_captions_of_three_systems_rated_by_what_they_make_up(
    real_data: Callable[[str], Path], write_lines: Write
) -> None:
    """The same photos described by three systems, fewer made-up objects preferred: being shorter says nothing here."""
    folder, truth = real_data("chair_model_captions"), real_data("chair_gt") / "imid_to_objects.json.gz"
    systems = [read_rows(folder / f"{name}.jsonl") for name in ("r1-llava1.5-7b", "r2-vcd", "r3-opera")]
    ids = [str(int(Path(row["image_id"]).stem)) for row in systems[0][:150]]
    objects = json.loads(gzip.decompress(truth.read_bytes()))
    annotations = write_lines("objects.json", [])
    annotations.write_text(json.dumps({name: objects[name] for name in ids}), encoding="utf-8")
    captions = [
        {"image_id": name, "caption": row["text"]}
        for system in systems
        for name, row in zip(ids, system[:150], strict=True)
    ]
    items = score("chair", annotations, write_lines("captions.jsonl", captions)).items
    lists, rows, taus = [], [], []
    for n, name in enumerate(ids):
        ratings = [-float(item.counts["wrong_mentions"]) for item in items[n::150]]
        lengths = [-len(caption["caption"].split()) for caption in captions[n::150]]
        lists.append({"id": name, "ratings": ratings})
        rows.append({"id": name, "scores": {"shortness": lengths}})
        if len(set(ratings)) > 1:
            tau = scipy.stats.kendalltau(lengths, ratings).statistic
            taus.append(0.0 if math.isnan(tau) else tau)
    result = score("preferences", write_lines("lists.jsonl", lists), write_lines("scores.jsonl", rows))
    found = result.metrics["shortness_kendall_tau"]
    assert (found.value, found.n) == (pytest.approx(np.mean(taus)), len(taus))
    accuracy = result.metrics["shortness_pair_accuracy"]
    assert accuracy.low < 0.5 < accuracy.high
