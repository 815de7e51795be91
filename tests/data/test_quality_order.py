"""Contradictions, circles, close calls, raters against everybody, places, and the kappa of a published package."""

import random

import numpy as np
import pytest

from data_builders.quality.order import PreferenceGraph, ambiguous, position_bias
from data_builders.quality.raters import disagreeing_raters
from data_builders.quality.sample import Draw, Sample
from data_builders.rating.agreement import fleiss_kappa
from mmdpo.records import Candidate, Media, Record, user_message


def pair(name: str, better: str, worse: str, image: str = "a", **meta: object) -> Record:
    media = {"images": (Media(image),)}
    candidates = (Candidate(better, score=2.0), Candidate(worse, score=1.0))
    return Record(name, (user_message("?", images=1),), candidates, media, True, meta)


def found_in(*records: Record):
    graph, draw = PreferenceGraph(), Draw(0)
    for record in records:
        graph.add(record)
        draw.add(record, "train")
    return graph.result(draw.sample(None))


def sample_of(*records: Record) -> Sample:
    draw = Draw(0)
    for record in records:
        draw.add(record, "train")
    return draw.sample(None)


def test_opposite_pairs_and_a_circle():
    numbers, (found,) = found_in(
        pair("1", "x", "y"), pair("2", "Y ", "x"),  # each other's opposite, case and white space apart
        pair("3", "p", "q", "b"), pair("4", "q", "r", "b"), pair("5", "r", "p", "b"), pair("6", "r", "s", "b"),
        pair("7", "y", "x", "c"),  # another picture
    )  # fmt: skip
    assert (numbers["comparisons"], numbers["opposite"], numbers["circles"], numbers["repeated"]) == (7, 2, 1, 0)
    assert found["value"] == pytest.approx(5 / 7), "the two, and the three of the circle"
    assert {example["id"] for example in numbers["examples"]} == {"1", "2", "3", "4", "5"}


def test_data_without_contradictions_and_repeats():
    numbers, (found,) = found_in(pair("1", "x", "y"), pair("2", "y", "z"), pair("3", "x", "z"), pair("4", "x", "y"))
    assert (numbers["opposite"], numbers["circles"], numbers["repeated"], found["value"]) == (0, 0, 1, 0.0)
    assert "None of 4 comparisons" in found["message"]


def test_lists_are_compared_two_by_two_and_ties_are_no_comparison():
    candidates = tuple(Candidate(text, score=score) for text, score in (("x", 3.0), ("y", 2.0), ("z", 2.0)))
    lower = Record("1", (user_message("?"),), candidates, {}, higher_is_better=False)
    numbers, _ = found_in(lower)
    assert numbers["comparisons"] == 2, "y and z each over x; the two are tied"
    upside = Record("2", (user_message("?"),), candidates, {}, higher_is_better=True)
    assert found_in(lower, upside)[0]["opposite"] == 4


def test_answers_labelled_both_ways():
    def single(name: str, text: str, label: bool) -> Record:
        return Record(name, (user_message("?"),), (Candidate(text, label=label),))

    numbers, (found,) = found_in(single("1", "x", True), single("2", "x", False), single("3", "y", True))
    assert numbers == {"answers_labelled_both_ways": 1, "labelled_answers": 2}
    assert found["value"] == 0.5
    assert found_in(Record("1", (user_message("?"),), (Candidate("x"),))) == (None, [])


def test_close_calls_need_ranges_that_meet():
    records = [
        pair("1", "x", "y", "a", ratings=[[3, 4, 4], [1, 2, 2]]),
        pair("2", "x", "y", "b", ratings=[[2, 4, 4], [1, 2, 2]]),
        pair("3", "x", "y", "c", ratings=[[1, 4, 4], [1, 1, 3]]),
        pair("4", "x", "y", "d"),
    ]
    numbers, (found,) = ambiguous(sample_of(*records))
    assert (found["value"], found["n"]) == (pytest.approx(2 / 3), 3)
    assert [example["id"] for example in numbers["examples"]] == ["3", "2"], "the widest overlap first"
    assert ambiguous(sample_of(records[3])) == (None, [])


def test_close_calls_where_less_is_better():
    record = pair("1", "x", "y", ratings=[[1, 1], [2, 3]])
    turned = Record("1", record.prompt, record.candidates, record.media, False, record.meta)
    assert ambiguous(sample_of(turned))[1][0]["value"] == 0
    assert ambiguous(sample_of(record))[1][0]["value"] == 1


def test_place_in_the_source():
    records = [pair(str(n), "x", "y", str(n), rows=[[n + 2 * (n % 4 == 0)], [n + 1]]) for n in range(40)]
    numbers, (found,) = position_bias(sample_of(*records))
    assert numbers["chosen_first"]["value"] == pytest.approx(0.75) and found["low"] > 0.55
    assert position_bias(sample_of(pair("1", "x", "y", rows=[[3], [3]]))) == (None, []), "both in one row"


def rated(turned: bool, names: tuple[str, ...] = ("ann", "bob", "cid", "dan")) -> Sample:
    generator = random.Random(0)
    records = []
    for n in range(60):
        sides = []
        for truth in (4, 2):
            given = [min(5, max(1, truth + generator.choice((-1, 0, 0, 1)))) for _ in names]
            given[3] = 6 - given[3] if turned else given[3]
            given[0] = max(1, given[0] - 1)
            sides.append([float(value) for value in given])
        records.append(pair(str(n), f"x{n}", f"y{n}", str(n), ratings=sides, raters=[list(names)] * 2))
    return sample_of(*records)


def test_the_rater_who_reads_the_scale_the_other_way_round_is_named():
    numbers, (found,) = disagreeing_raters(rated(turned=True))
    assert numbers["flagged"] == ["dan"] and found["value"] == 0.25
    (row,) = (row for row in numbers["by_rater"] if row["rater"] == "dan")
    assert row["correlation"]["high"] < 0 and row["n"] == 120
    assert "dan disagrees" in found["message"]


def test_nobody_is_named_without_cause_and_strictness_is_told():
    numbers, (found,) = disagreeing_raters(rated(turned=False))
    assert numbers["flagged"] == [] and found["value"] == 0
    ann = next(row for row in numbers["by_rater"] if row["rater"] == "ann")
    assert ann["shift"] < -0.5 and "Lowest ratings: ann" in found["message"]


def test_the_correlation_is_pearsons():
    sample = rated(turned=True)
    numbers, _ = disagreeing_raters(sample)
    given = np.array([side for record in sample.records for side in record.meta["ratings"]])
    expected = np.corrcoef(given[:, 1], given[:, [0, 2, 3]].mean(1))[0, 1]
    bob = next(row for row in numbers["by_rater"] if row["rater"] == "bob")
    assert bob["correlation"]["value"] == pytest.approx(expected)


def test_a_place_is_no_rater():
    names = tuple(f"rating of row {n}" for n in (1, 2, 3, 4))
    numbers, (found,) = disagreeing_raters(rated(turned=True, names=names))
    assert numbers is None and found["value"] is None and "No rater is named" in found["message"]
    assert disagreeing_raters(sample_of(pair("1", "x", "y"))) == (None, [])


def test_kappa_is_that_of_the_package():
    inter_rater = pytest.importorskip("statsmodels.stats.inter_rater", reason="comes with the eval extra")
    generator = np.random.default_rng(0)
    truth = generator.integers(1, 5, 80)
    table = np.clip(truth[:, None] + generator.integers(-1, 2, (80, 3)), 1, 4)
    counts = np.stack([(table == value).sum(1) for value in (1, 2, 3, 4)], axis=1)
    ours = fleiss_kappa(table.astype(float).ravel(), np.full(80, 3), np.arange(80))
    assert ours is not None and ours["value"] == pytest.approx(inter_rater.fleiss_kappa(counts, method="fleiss"))
    assert ours["low"] < ours["value"] < ours["high"]
