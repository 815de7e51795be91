"""Rates where captions cover as much: worked counts, an oracle of captions cut short, two models side by side."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.base import Result
from mmdpo.evals.comparing.equal_coverage import compare_at_equal_coverage
from mmdpo.evals.coverage import Target, depth_counts, targets
from mmdpo.evals.runner import score

OBJECTS = ["dog", "cat", "car", "bus", "bench", "kite", "pizza", "couch"]
TRUTH = {"1": ["cat", "dog"], "2": ["kite"]}
CAPTIONS = [
    {"image_id": 1, "caption": "A dog, a car, a cat."},
    {"image_id": 2, "caption": "A bus, a kite."},
]


@pytest.fixture
def scored(write_json: Callable[..., Path], write_lines: Callable[..., Path]) -> Callable[..., Result]:
    def run(captions: Sequence[dict[str, Any]] = CAPTIONS, truth: Any = TRUTH, **options: Any) -> Result:
        return score("chair", write_json("truth.json", truth), write_lines("captions.jsonl", captions), **options)

    return run


def test_what_each_mention_adds() -> None:
    assert depth_counts(["dog", "car", "dog", "bus", "cat"], {"dog", "cat"}) == {
        **{f"mention_{place}": 1.0 for place in range(1, 6)},
        **dict(zip((f"wrong_{place}" for place in range(1, 6)), (0.0, 1.0, 0.0, 1.0, 0.0), strict=True)),
        **dict(zip((f"first_wrong_{place}" for place in range(1, 6)), (0.0, 1.0, 0.0, 0.0, 0.0), strict=True)),
        **dict(zip((f"new_{place}" for place in range(1, 6)), (1.0, 0.0, 0.0, 0.0, 1.0), strict=True)),
    }


# Totals up to depth 1, 2, 3: mentions 2 4 5, wrong 1 2 2, captions with a wrong one 1 2 2, found 1 2 3 of 3.
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"at_recall": 1 / 3}, {"chair_s": 1 / 2, "chair_i": 1 / 2, "objects_per_caption": 1.0}),
        ({"at_recall": 1 / 2}, {"chair_s": 1.5 / 2, "chair_i": 1.5 / 3, "objects_per_caption": 1.5}),
        ({"at_recall": "1"}, {"chair_s": 1.0, "chair_i": 2 / 5, "objects_per_caption": 2.5}),
        ({"at_objects": 0.5}, {"chair_s": 0.5 / 2, "chair_i": 0.5 / 1, "recall": 0.5 / 3}),
        ({"at_objects": "2"}, {"chair_s": 1.0, "chair_i": 2 / 4, "recall": 2 / 3}),
        ({"at_objects": 2.25}, {"chair_s": 1.0, "chair_i": 2 / 4.5, "recall": 2.5 / 3}),
    ],
)
def test_worked_levels(scored: Callable[..., Result], options: dict[str, Any], expected: dict[str, float]) -> None:
    (option,) = options
    result = scored(**options)
    found = {name: result.metrics[f"{name}_{option}"].value for name in expected}
    assert found == pytest.approx(expected, abs=1e-12)
    assert result.rule == f"lemma; {Target.read(option.removeprefix('at_'), options[option])}"
    assert result.flags == []


def test_a_level_that_is_not_reached(scored: Callable[..., Result]) -> None:
    result = scored(at_objects=3, at_recall=0.9)
    assert result.metrics["chair_s_at_recall"].n == 2
    assert [flag.split(":")[0] for flag in result.flags] == [
        "chair_s_at_objects_undefined",
        "chair_i_at_objects_undefined",
        "recall_at_objects_undefined",
        "objects_not_reached",
    ]
    assert "whole captions have 2.500, below 3" in result.flags[-1]
    one = scored([{"image_id": 1, "caption": "A dog."}, {"image_id": 2, "caption": "A kite."}], at_recall=0.7)
    assert one.flags[-1] == "recall_not_reached: whole captions have 0.667, below 0.7"
    assert scored(at_recall=1, at_objects=2.5).flags == []


def test_nothing_present_and_nothing_said(scored: Callable[..., Result]) -> None:
    empty = scored(truth={"1": [], "2": []}, at_recall=0.5)
    assert any(flag.startswith("recall_not_reached") for flag in empty.flags)
    silent = scored([{**row, "caption": ""} for row in CAPTIONS], at_recall=0.5, at_objects=1)
    assert {name for name, entry in silent.metrics.items() if entry.n} == {"chair_s", "recall", "objects_per_caption"}
    mentions = silent.metrics["objects_per_caption"]
    assert (mentions.value, mentions.low) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("kind", "level"),
    [("recall", 0), ("recall", 1.1), ("recall", "nan"), ("recall", "all"), ("objects", -1), ("objects", "inf")],
)
def test_levels_that_are_none(kind: Any, level: Any) -> None:
    with pytest.raises(ConfigError, match=f"at_{kind} .* is no coverage"):
        Target.read(kind, level)


def test_targets_are_known_from_saved_columns(scored: Callable[..., Result], tmp_path: Path) -> None:
    result = scored(at_objects=2, at_recall=0.5)
    result.save(tmp_path / "saved")
    columns = {column for item in Result.load(tmp_path / "saved").items for column in item.counts}
    assert targets(columns) == [Target("recall", 0.5), Target("objects", 2.0)]


# -- an oracle --------------------------------------------------------------------------------------------------------


def cut_short(captions: Sequence[Sequence[str]], truth: Sequence[set[str]], depth: int) -> dict[str, float]:
    """Totals of captions that end after some mentions."""
    totals = {"mentions": 0.0, "wrong": 0.0, "bad": 0.0, "found": 0.0}
    for mentions, present in zip(captions, truth, strict=True):
        kept = mentions[:depth]
        totals["mentions"] += len(kept)
        totals["wrong"] += sum(name not in present for name in kept)
        totals["bad"] += any(name not in present for name in kept)
        totals["found"] += len(set(kept) & present)
    return totals


@pytest.mark.parametrize("seed", range(8))
def test_every_level_is_between_captions_cut_short(scored: Callable[..., Result], seed: int) -> None:
    generator = random.Random(seed)
    truth = [set(generator.sample(OBJECTS, 3)) for _ in range(12)]
    captions = [generator.choices(OBJECTS, k=generator.randrange(7)) for _ in truth]
    rows = [{"image_id": n, "caption": ", ".join(f"a {name}" for name in names)} for n, names in enumerate(captions)]
    present = sum(map(len, truth))
    whole = cut_short(captions, truth, 9)["found"] / present
    level = generator.uniform(0.05, 0.95) * whole
    below, above = next(
        (cut_short(captions, truth, depth - 1), cut_short(captions, truth, depth))
        for depth in range(1, 9)
        if cut_short(captions, truth, depth)["found"] / present >= level
    )
    share = (level * present - below["found"]) / (above["found"] - below["found"])
    read = {name: below[name] + share * (above[name] - below[name]) for name in below}
    metrics = scored(rows, {n: sorted(names) for n, names in enumerate(truth)}, at_recall=level).metrics
    assert metrics["chair_i_at_recall"].value == pytest.approx(read["wrong"] / read["mentions"], abs=1e-12)
    assert metrics["chair_s_at_recall"].value == pytest.approx(read["bad"] / 12, abs=1e-12)
    assert metrics["objects_per_caption_at_recall"].value == pytest.approx(read["mentions"] / 12, abs=1e-12)
    assert metrics["chair_i_at_recall"].low < metrics["chair_i_at_recall"].high


# -- two models -------------------------------------------------------------------------------------------------------


@pytest.fixture
def models(scored: Callable[..., Result]) -> tuple[Result, Result]:
    """A model, and the same model that stops after two objects."""
    generator = random.Random(4)
    truth = {str(n): generator.sample(OBJECTS, 6) for n in range(30)}
    named = {image: generator.sample(OBJECTS, 5) for image in truth}
    long, short = (
        [{"image_id": image, "caption": ", ".join(names[:depth])} for image, names in named.items()] for depth in (5, 2)
    )
    return scored(long, truth), scored(short, truth)


@pytest.mark.parametrize("kind", ["recall", "objects"])
def test_a_model_that_merely_says_less_is_no_better(models: tuple[Result, Result], kind: Any) -> None:
    long, short = models
    assert long.metrics["chair_s"].value > short.metrics["chair_s"].value + 0.1
    told = compare_at_equal_coverage(long, short, kind)
    reached = {"recall": "recall", "objects": "objects_per_caption"}[kind]
    assert told["level"] == pytest.approx(0.95 * short.metrics[reached].value)
    for name, entry in told["metrics"].items():
        assert entry["difference"]["value"] == pytest.approx(0, abs=1e-12), name
        assert entry["before"] == pytest.approx(entry["after"])
        assert entry["difference"]["verdict"].startswith("no difference shown")
    assert set(told["metrics"]) == {
        f"chair_s_at_{kind}",
        f"chair_i_at_{kind}",
        "objects_per_caption_at_recall" if kind == "recall" else "recall_at_objects",
    }


def test_the_whole_of_what_the_shorter_one_covers_can_be_asked_for(models: tuple[Result, Result]) -> None:
    long, short = models
    level = short.metrics["objects_per_caption"].value
    entry = compare_at_equal_coverage(long, short, "objects", level)["metrics"]["chair_i_at_objects"]
    assert entry["after"]["value"] == pytest.approx(short.metrics["chair_i"].value)
    assert entry["after"]["n"] == 60


def test_a_model_that_hallucinates_more_is_worse_at_equal_coverage(scored: Callable[..., Result]) -> None:
    truth = {str(n): ["dog", "cat", "kite"] for n in range(40)}
    good, bad = (
        scored([{"image_id": image, "caption": caption} for image in truth], truth)
        for caption in ("a dog, a cat, a kite", "a bus, a dog, a car, a cat")
    )
    told = compare_at_equal_coverage(good, bad, level=1 / 3)
    gap = told["metrics"]["chair_i_at_recall"]
    assert (gap["before"]["value"], gap["after"]["value"]) == (0.0, 0.5)
    assert (gap["difference"]["value"], gap["difference"]["verdict"], gap["better"]) == (0.5, "worse", "lower")


def test_models_that_cannot_be_compared(models: tuple[Result, Result], scored: Callable[..., Result]) -> None:
    long, short = models
    with pytest.raises(DataError, match=r"has a coverage \(recall\) of .* only, below 0.9"):
        compare_at_equal_coverage(long, short, level=0.9)
    with pytest.raises(ConfigError, match="at_recall 2 is no coverage"):
        compare_at_equal_coverage(long, short, level=2)
    with pytest.raises(DataError, match=r"cannot be compared with chair by .lemma; at recall 0\.5."):
        compare_at_equal_coverage(long, scored(at_recall=0.5))
    with pytest.raises(DataError, match="share 2 captions that cannot be compared"):
        compare_at_equal_coverage(scored(), scored(truth={"1": ["dog"], "2": ["kite"]}))
    with pytest.raises(DataError, match="share 1 captions that cannot be compared"):
        compare_at_equal_coverage(scored(), scored(CAPTIONS[:1]))
    silent = scored([{**row, "caption": ""} for row in CAPTIONS])
    with pytest.raises(ConfigError, match=r"at_recall 0.0 is no coverage"):
        compare_at_equal_coverage(silent, silent)
