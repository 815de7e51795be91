"""What training gained and cost: each measure on its side, with what became of it, worked out from its interval."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmdpo.jsonfiles import read_json, write_json
from mmdpo.report.balance import ROWS, Side, balance, fate
from mmdpo.report.pages import write_report
from mmdpo.report.reading import Run, read_run

from .conftest import change, estimate
from .parsed_page import Page

MakeRun = Callable[..., Path]
HOLM = {"method": "holm", "comparisons": 9, "level": 0.05}


def run_with(make_run: MakeRun, metrics: dict[str, Any], **more: Any) -> Run:
    path = make_run()
    write_json(path / "comparison.json", {"metrics": metrics, **more})
    return read_run(path)


def corrected(entry: dict[str, Any], p: float) -> dict[str, Any]:
    return {**entry, "difference": {**entry["difference"], "p_adjusted": p}}


def sides(make_run: MakeRun, metrics: dict[str, Any], **more: Any) -> tuple[Side, Side]:
    gained, cost = balance([run_with(make_run, metrics, **more)])
    return gained, cost


def names(side: Side) -> list[str]:
    return [measure.name for measure, _ in side.rows]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (change(0.5, 0.6), "gained"),
        (change(0.5, 0.4), "lost"),
        (change(0.5, 0.5, half=0.04), "kept"),  # at worst it lost 4 points
        (change(0.5, 0.5, half=0.06), "open"),
        (corrected(change(0.5, 0.4), 0.2), "open"),  # not confirmed, and 11 points may be lost
        ({**change(0.5, 0.4), "better": "neither"}, "changed"),
        ({**change(20.0, 20.0, half=0.9), "percent": False, "better": "neither"}, "kept"),  # 5% of 20 is 1
        ({**change(20.0, 20.0, half=1.1), "percent": False, "better": "neither"}, "open"),
        ({**change(0.5, 0.4), "after": estimate(0.4, n=0)}, "undefined"),
    ],
)
def test_what_became_of_a_measure(make_run: MakeRun, entry: dict[str, Any], expected: str) -> None:
    (found,) = run_with(make_run, {"vqa_accuracy": entry}).changes
    assert fate(found) == expected


def test_capability_and_habits_are_the_cost(make_run: MakeRun) -> None:
    able = {**change(0.6, 0.55), "role": "capability"}
    words = {**change(20.0, 12.0), "label": "Words per answer", "percent": False, "better": "neither"}
    gained, cost = sides(
        make_run,
        {"chair_i": change(0.2, 0.1), "recall": change(0.9, 0.9), "vqa_accuracy": able, "vqa_accuracy/number": able},
        habits={"chair_words_per_answer": {**words, "role": "capability"}},
    )
    assert names(gained) == ["chair_i"]
    assert names(cost) == ["vqa_accuracy", "chair_words_per_answer", "recall"]  # lost, changed, kept; no parts
    assert gained.sentences == ["Clearly better: CHAIR_i −10.0 pts (−11.0 to −9.0)."]
    (told,) = cost.sentences
    assert told.startswith("Lost: VQA: Accuracy −5.0 pts (−6.0 to −4.0). Changed")
    assert "CHAIR: Words per answer −8.00 (−8.01 to −7.99)." in told
    assert "Kept (a loss of more than 5 points" in told
    assert "not known" not in told


def test_without_other_benchmarks_the_cost_is_said_to_be_unknown(make_run: MakeRun) -> None:
    _, cost = sides(make_run, {"chair_i": change(0.2, 0.1)})
    assert cost.rows == []
    assert cost.sentences[0].strip().startswith("No benchmark of other abilities was run")


def test_many_measures_are_counted(make_run: MakeRun) -> None:
    metrics = {f"x{place}_f1": change(0.5, 0.6) for place in range(ROWS + 3)}
    gained, _ = sides(make_run, {**metrics, "chair_i": change(0.2, 0.2)})
    assert names(gained) == ["chair_i", *list(metrics)[: ROWS - 1]]
    assert gained.more == 4
    assert f"and {ROWS + 3 - 4} more. Without a clear change: CHAIR_i" in gained.sentences[0]


def test_runs_stand_side_by_side_with_what_each_measured(make_run: MakeRun) -> None:
    first, second = make_run("one"), make_run("two")
    write_json(first / "comparison.json", {"metrics": {"chair_i": change(0.2, 0.1)}})
    write_json(second / "comparison.json", {"metrics": {"chair_i": change(0.2, 0.3), "recall": change(0.9, 0.7)}})
    gained, cost = balance([read_run(first), read_run(second)])
    ((_, changes),) = gained.rows
    assert [one and one.outcome for one in changes] == ["better", "worse"]
    ((_, changes),) = cost.rows
    assert [one and one.outcome for one in changes] == [None, "worse"]
    assert len(gained.sentences) == len(cost.sentences) == 2


def test_nothing_compared_has_no_balance(make_run: MakeRun) -> None:
    path = make_run()
    (path / "comparison.json").unlink()
    assert balance([read_run(path)]) == []


def test_both_sides_stand_in_the_page(make_run: MakeRun) -> None:
    text = " ".join(Page(write_report([make_run()]).read_text(encoding="utf-8")).text.split())
    assert text.index("What it gained") < text.index("What it cost") < text.index("Before and after")


def test_habits_and_parts_of_questions_stand_apart(make_run: MakeRun) -> None:
    path = make_run()
    comparison = read_json(path / "comparison.json")
    comparison["metrics"]["vqa_accuracy/number"] = change(0.5, 0.6)
    comparison["habits"] = {"chair_refusal_rate": {**change(0.0, 0.3), "label": "Refusals", "better": "lower"}}
    write_json(path / "comparison.json", comparison)
    text = " ".join(Page(write_report([path]).read_text(encoding="utf-8")).text.split())
    assert "2 more: parts of the questions, and how answers are written" in text
    assert "CHAIR: Refusals" in text
    assert "VQA: Accuracy, Number" in text


def test_a_change_that_does_not_stand_after_the_correction_is_not_called_clear(make_run: MakeRun) -> None:
    entry = corrected(change(0.2, 0.1), 0.07)
    run = run_with(make_run, {"chair_i": entry, "recall": corrected(change(0.9, 0.8), 0.01)}, correction=HOLM)
    doubtful, clear = run.changes
    assert (doubtful.unconfirmed, doubtful.outcome) == (True, "unclear")
    assert (clear.unconfirmed, clear.outcome) == (False, "worse")
    assert run.correction is not None
    assert (run.correction.words, run.correction.comparisons) == ("Holm's correction", 9)
    (told, _) = (side.sentences[0] for side in balance([run]))
    assert told == "Without a clear change: CHAIR_i −10.0 pts (−11.0 to −9.0, not confirmed)."


def test_the_level_of_the_correction_is_that_of_the_file(make_run: MakeRun) -> None:
    entry = corrected(change(0.2, 0.1), 0.07)
    run = run_with(make_run, {"chair_i": entry}, correction={**HOLM, "level": 0.1})
    assert [one.outcome for one in run.changes] == ["better"]
