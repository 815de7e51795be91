"""The rule by which a run stops early, alone: where a run stands, and which metric a name means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.base import Interval
from mmdpo.evals.runner import make_benchmark
from mmdpo.runs.eval_settings import metrics_of
from mmdpo.runs.stopping import StopRule, Which, resolved, standing, told

MADE_UP, RECALL = Which("chair", "chair_i"), Which("chair", "recall")


def run_of(*values: tuple[float | None, float | None]) -> dict[int, dict[Which, Interval]]:
    """Evaluations at steps 0, 10, 20 and so on, each a rate and a recall; None is undefined."""

    def interval(value: float | None) -> Interval:
        return Interval(value or 0.0, 0.0, 1.0, 0 if value is None else 50)

    return {
        10 * n: {MADE_UP: interval(made_up), RECALL: interval(recall)} for n, (made_up, recall) in enumerate(values)
    }


def rule_of(recall: float = 0.02, min_delta: float = 0.0, better: Any = "lower", keep: Any = "higher") -> StopRule:
    return StopRule(MADE_UP, better, {RECALL: (recall, keep)}, patience=3, min_delta=min_delta)


@pytest.mark.parametrize(
    ("values", "rule", "best_step", "waited"),
    [
        ([(0.3, 0.6)], rule_of(), 0, 0),
        ([(0.3, 0.6), (0.2, 0.6), (0.25, 0.6), (0.2, 0.6)], rule_of(), 10, 2),  # as good is not better
        ([(0.3, 0.6), (0.4, 0.6), (0.35, 0.6)], rule_of(), 0, 2),  # better than the last, not than before training
        ([(0.3, 0.6), (0.25, 0.58), (0.1, 0.57), (0.24, 0.7)], rule_of(), 30, 0),  # 0.6 - 0.02 is kept, less is not
        ([(0.3, 0.6), (0.26, 0.6), (0.25, 0.6), (0.24, 0.6)], rule_of(min_delta=0.05), 30, 0),  # measured from the best
        ([(0.3, 0.6), (0.2, 0.6)], rule_of(better="higher"), 0, 1),
        ([(0.3, 0.6), (0.4, 0.6)], rule_of(better="higher"), 10, 0),
        ([(0.3, 0.6), (0.2, 0.9)], rule_of(keep="lower"), 0, 1),
        ([(0.3, 0.6), (0.2, 0.63)], rule_of(keep="neither"), 0, 1),
        ([(0.3, 0.6), (0.2, 0.61)], rule_of(keep="neither"), 10, 0),
        ([(0.3, 0.6), (None, 0.6)], rule_of(), 0, 1),  # a model that names nothing has a rate of 0
        ([(0.3, 0.6), (0.2, None)], rule_of(), 0, 1),
    ],
)
def test_where_a_run_stands(values: list[Any], rule: StopRule, best_step: int, waited: int) -> None:
    now = standing(rule, run_of(*values))
    assert (now.best_step, now.waited) == (best_step, waited)
    assert now.best == values[best_step // 10][0]


def test_what_is_undefined_before_training_cannot_become_better() -> None:
    with pytest.raises(DataError, match="chair_i is undefined before training"):
        standing(rule_of(), run_of((None, 0.6), (0.2, 0.6)))
    with pytest.raises(DataError, match="chair_recall is undefined"):
        standing(rule_of(), run_of((0.2, None)))


def test_where_a_run_stands_in_words() -> None:
    words = told(rule_of(), standing(rule_of(), run_of((0.3, 0.6), (0.25, 0.6), (0.2, 0.5))))
    assert words == (
        "chair_i was 0.3000 before training, 0.2000 at step 20; the best is 0.2500 at step 10; step 20 does not "
        "count, because chair_recall is 0.5000, more than 0.02 from 0.6000 before training"
    )


KNOWN: Any = {
    "pope": {"f1": "higher", "recall": "higher", "yes_ratio": "neither"},
    "chair": {"chair_i": "lower", "chair_s": "lower", "recall": "higher"},
}


@pytest.mark.parametrize(
    ("name", "at_home", "which"),
    [
        ("chair_i", "", ("chair", "chair_i")),
        ("chair/chair_i", "", ("chair", "chair_i")),
        ("pope_f1", "", ("pope", "f1")),
        ("pope/f1", "", ("pope", "f1")),
        ("f1", "", ("pope", "f1")),
        ("recall", "chair", ("chair", "recall")),
        ("yes_ratio", "chair", ("pope", "yes_ratio")),
        ("chair_recall", "pope", ("chair", "recall")),
    ],
)
def test_names_of_metrics(name: str, at_home: str, which: tuple[str, str]) -> None:
    assert resolved(name, KNOWN, at_home) == which


def test_names_that_mean_no_metric_or_several() -> None:
    with pytest.raises(ConfigError, match="'recall' is a metric of pope and of chair") as several:
        resolved("recall", KNOWN)
    assert "pope/recall or chair/recall" in several.value.fix
    with pytest.raises(ConfigError, match=r"'chair_ii' is no metric of pope or chair\nDid you mean 'chair_i'"):
        resolved("chair_ii", KNOWN)


@pytest.mark.parametrize("name", ["perplexity", "diversity"])
def test_metrics_of_benchmarks_that_are_not_answered_once(name: str, tmp_path: Path) -> None:
    """Known without a model: of texts that are scored, and of several answers to one prompt."""
    rows = [{"image": f"{n}.png", "caption": "A dog on a beach."} for n in range(2)]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    benchmark = make_benchmark(name)
    found = metrics_of(benchmark, benchmark.samples(tmp_path / "captions.jsonl"))
    expected = {
        "perplexity": {"perplexity": "lower"},
        "diversity": {"distinct_1": "higher", "self_similarity": "lower"},
    }
    assert expected[name].items() <= found.items()
