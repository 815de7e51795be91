"""Words follow from intervals: expected sentences worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmdpo.jsonfiles import write_json
from mmdpo.report.measures import format_bounds, format_difference, format_interval, format_p, format_value, measure
from mmdpo.report.reading import read_run
from mmdpo.report.verdict import NAMED, displacement, judge, limits

from .conftest import change

MakeRun = Callable[..., Path]


@pytest.mark.parametrize(
    ("name", "label", "better", "role"),
    [
        ("chair_i", "CHAIR_i", "lower", "hallucination"),
        ("recall", "Recall", "higher", "coverage"),
        ("pope_random_f1", "POPE random: F1", "higher", "other"),
        ("pope_adversarial_recall", "POPE adversarial: Recall", "higher", "other"),
        ("pope_yes_ratio", "POPE: Yes ratio", None, "other"),
        ("accuracy/yes_no", "Accuracy, Yes no", "higher", "other"),
        ("vqa_accuracy/yes_no", "VQA: Accuracy, Yes no", "higher", "other"),
        ("my_own/part", "My own part", None, "other"),
        ("hallucination_rate", "Hallucination rate", "lower", "hallucination"),
        ("my_own_metric", "My own metric", None, "other"),
    ],
)
def test_metric_names_in_words(name: str, label: str, better: str | None, role: str) -> None:
    found = measure(name)
    assert (found.name, found.label, found.better, found.role) == (name, label, better, role)


def test_a_benchmark_names_its_own_metrics() -> None:
    told = {"label": "Usual sound, absent", "meaning": "clips", "better": "lower", "role": "hallucination"}
    found = measure("usual_sound_rate", told)
    assert (found.label, found.meaning, found.better, found.role) == tuple(told.values())
    assert found.percent
    assert not measure("decibels", {"percent": False}).percent
    assert measure("recall", {"better": "neither"}).better is None
    assert measure("chair_i", {"better": "lower"}) == measure("chair_i")
    assert measure("chair_i", {"role": "nonsense", "label": None, "better": 3}) == measure("chair_i")


def test_numbers_in_words() -> None:
    rate, mean = measure("chair_i"), measure("objects_per_caption")
    assert format_value(rate, 0.1316) == "13.2%"
    assert format_value(mean, 2.314) == "2.31"
    assert format_value(rate, None) == "–"
    assert format_interval(rate, 0.121, 0.143) == "12.1 – 14.3"
    assert format_interval(rate, None, 0.143) == ""
    assert format_difference(rate, -0.099) == "−9.9 pts"
    assert format_bounds(rate, -0.112, 0.001) == "−11.2 to +0.1"
    assert [format_p(p) for p in (0.0, 0.0009, 0.03, 0.5, None)] == [
        "p < 0.001",
        "p < 0.001",
        "p = 0.030",
        "p = 0.50",
        "",
    ]


def test_verdict_of_a_good_run(make_run: MakeRun) -> None:
    verdict = judge(read_run(make_run()))
    assert verdict.tone == "good"
    assert verdict.headline == "It hallucinates less, at a small cost in what it names."
    assert "fell from 13.2% to 3.3% (−9.9 pts, 95% interval −10.9 to −8.9)" in verdict.paragraph
    assert "Of the 2 other measures with a better direction, 1 got clearly better and 1 did not" in verdict.paragraph


def test_saying_less_is_not_called_good(make_run: MakeRun) -> None:
    verdict = judge(read_run(make_run(recall_after=0.561)))
    assert verdict.tone == "mixed"
    assert verdict.headline == "It hallucinates less, but it also says less."


@pytest.mark.parametrize(
    ("metrics", "tone", "headline"),
    [
        ({"chair_i": change(0.1, 0.2)}, "bad", "It hallucinates more than before."),
        ({"chair_i": change(0.1, 0.105)}, "open", "No clear change: every interval of a difference includes zero."),
        ({"chair_i": change(0.2, 0.1), "chair_s": change(0.2, 0.3)}, "mixed", "Hallucination moved both ways."),
        (
            {"chair_i": change(0.2, 0.1), "pope_f1": change(0.9, 0.8)},
            "mixed",
            "It hallucinates less, and something else got worse.",
        ),
        (
            {"chair_i": change(0.2, 0.1), "recall": change(0.9, 0.9)},
            "good",
            "It hallucinates less, and nothing measured here got clearly worse.",
        ),
        ({"pope_f1": change(0.9, 0.8)}, "bad", "Clearly worse."),
        ({"yes_ratio": change(0.6, 0.5)}, "open", "No clear change: every interval of a difference includes zero."),
    ],
)
def test_headlines(make_run: MakeRun, metrics: dict[str, object], tone: str, headline: str) -> None:
    path = make_run()
    write_json(path / "comparison.json", {"metrics": metrics})
    verdict = judge(read_run(path))
    assert (verdict.tone, verdict.headline) == (tone, headline)


def test_a_comparison_says_what_its_metrics_mean(make_run: MakeRun) -> None:
    path = make_run()
    told = {"label": "Usual <sound>", "meaning": "clips with it", "better": "lower", "role": "hallucination"}
    write_json(path / "comparison.json", {"metrics": {"usual_sound_rate": {**change(0.4, 0.1), **told}}})
    verdict = judge(read_run(path))
    assert verdict.headline == "It hallucinates less, and nothing measured here got clearly worse."
    assert verdict.paragraph.startswith("Usual <sound> (clips with it) fell from 40.0% to 10.0%")


def corrected(entry: dict[str, Any], p: float) -> dict[str, Any]:
    return {**entry, "difference": {**entry["difference"], "p_adjusted": p}}


def test_a_change_that_is_not_confirmed_is_told_so_and_makes_no_headline(make_run: MakeRun) -> None:
    path = make_run()
    metrics = {"chair_i": corrected(change(0.2, 0.1), 0.3), "pope_f1": corrected(change(0.8, 0.9), 1.0)}
    correction = {"method": "holm", "comparisons": 2, "level": 0.05}
    write_json(path / "comparison.json", {"metrics": metrics, "correction": correction})
    run = read_run(path)
    verdict = judge(run)
    assert (verdict.headline, verdict.tone) == (
        "No clear change: no difference stands among so many comparisons.",
        "open",
    )
    assert "fell from 20.0% to 10.0% (−10.0 pts, 95% interval −11.0 to −9.0; not confirmed among" in verdict.paragraph
    told = " ".join(limits([run]))
    assert "p-values are corrected for 2 comparisons at once (Holm's correction)" in told
    assert "not corrected" not in told


def test_p_values_without_a_correction_are_said_to_have_none(make_run: MakeRun) -> None:
    path = make_run()
    assert "are not corrected for how many there are" in " ".join(limits([read_run(path)]))
    correction = {"method": "none", "comparisons": 2, "level": 0.05}
    write_json(path / "comparison.json", {"metrics": {"chair_i": change(0.2, 0.1)}, "correction": correction})
    assert "are not corrected for how many there are" in " ".join(limits([read_run(path)]))
    write_json(path / "comparison.json", {"metrics": {}})
    assert "p-values" not in " ".join(limits([read_run(path)]))


def test_saying_less_is_told_even_where_it_does_not_stand_among_many_comparisons(make_run: MakeRun) -> None:
    path = make_run()
    metrics = {"chair_i": corrected(change(0.2, 0.1), 0.001), "recall": corrected(change(0.9, 0.8), 0.06)}
    write_json(path / "comparison.json", {"metrics": metrics})
    assert judge(read_run(path)).headline == "It hallucinates less, but it also says less."


def test_a_lost_capability_is_something_that_got_worse(make_run: MakeRun) -> None:
    path = make_run()
    lost = {**change(0.6, 0.5), "role": "capability"}
    write_json(path / "comparison.json", {"metrics": {"chair_i": change(0.2, 0.1), "vqa_accuracy": lost}})
    verdict = judge(read_run(path))
    assert verdict.headline == "It hallucinates less, and something else got worse."
    assert "1 got clearly worse (VQA: Accuracy)" in verdict.paragraph


def test_a_metric_that_one_model_leaves_undefined_claims_nothing(make_run: MakeRun) -> None:
    path = make_run()
    silent = {**change(0.2, 0.0), "after": {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}}
    write_json(path / "comparison.json", {"metrics": {"chair_i": silent, "recall": change(0.9, 0.0)}})
    verdict = judge(read_run(path))
    assert verdict.headline == "No clear change in hallucination; other measures moved."
    assert "CHAIR_i (named objects that are not there) is undefined" in verdict.paragraph


def test_the_paragraph_counts_what_it_does_not_tell(make_run: MakeRun) -> None:
    path = make_run()
    metrics = {f"x{place}_chair_i": change(0.2, 0.1) for place in range(7)}
    write_json(path / "comparison.json", {"metrics": metrics})
    paragraph = judge(read_run(path)).paragraph
    assert paragraph.count("fell from") == NAMED
    assert f"Of the {7 - NAMED} other measures with a better direction, {7 - NAMED} got clearly better." in paragraph


def test_displacement_needs_both_rewards_clearly_below_zero() -> None:
    def events(chosen: float, noise: float) -> list[dict[str, float]]:
        return [
            {"step": step, "rewards/chosen": chosen + noise * (-1) ** step, "rewards/rejected": -3.0}
            for step in range(50)
        ]

    assert displacement(events(1.0, 0.1)) is None
    assert displacement(events(-0.01, 0.5)) is None
    assert displacement([]) is None
    found = displacement(events(-1.0, 0.1))
    assert found is not None
    assert found.chosen == pytest.approx(-1.0)
    assert found.rejected == pytest.approx(-3.0)


def test_limits_name_unparsed_answers_and_displacement(make_run: MakeRun) -> None:
    sentences = " ".join(limits([read_run(make_run(chosen=-0.02))]))
    assert "1 of 5 answers to chair could not be parsed" in sentences
    assert "first, chair: note: a flag." in sentences
    assert "likelihood displacement" in sentences
    assert "seed of training" in sentences


def test_a_resume_from_an_earlier_step_replaces_what_was_logged_after_it(make_run: MakeRun) -> None:
    path = make_run()
    with (path / "log.jsonl").open("a") as file:
        file.write('{"step": 50, "loss": 9.0}\n{"step": 51, "loss": "nan"}\n')
    training = read_run(path).training
    assert [event["step"] for event in training[-3:]] == [49, 50, 51]
    assert training[-2]["loss"] == 9.0
