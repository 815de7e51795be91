"""The rows of a record: views resolved, ratings turned, labels read; what a record does not have is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from core.oracle import picture, record
from mmdpo.encoding.companions import Companions
from mmdpo.encoding.planning import media_names, oriented_score, outline, plan
from mmdpo.records import Candidate, Record
from mmdpo.views import View


def views(*texts: str) -> list[View]:
    return [View.parse(text) for text in texts]


def lists(**fields: Sequence[Any]) -> Record:
    """A list of candidates with one value each of some fields."""
    count = len(next(iter(fields.values())))
    made = [Candidate(f"answer {k}", **{name: values[k] for name, values in fields.items()}) for k in range(count)]
    return replace(record("list", "?", ["x"]), candidates=tuple(made), higher_is_better=True)


def rows(of: Record, *texts: str, among: Sequence[Record] = ()) -> list[tuple[str, str]]:
    planned = plan(of, views(*texts), Companions([of, *among]))
    return [(str(row.view), row.answer.text) for row in planned.rows]


OTHER = record("other", "?", ["theirs", "their worse"], picture(2))
PAIR = record("pair", "?", ["ours", "our worse"], picture(1))


def test_every_candidate_is_a_row_once() -> None:
    ours = lists(score=[3.0, 2.0, 1.0])
    assert rows(ours, "every", "chosen", "2") == [
        (name, f"answer {k}") for k, name in enumerate(["chosen", "rejected", "2"])
    ]
    assert rows(ours, "chosen", "3") == [("chosen", "answer 0")]


def test_a_record_without_media_has_its_clean_rows_alone() -> None:
    text = replace(PAIR, media={})
    wanted = ("chosen", "rejected", "chosen/none", "chosen/crop", "chosen/swap", "partner", "partner/swap")
    assert rows(text, *wanted, among=[OTHER]) == [("chosen", "ours"), ("rejected", "our worse")]


def test_rows_of_the_partner() -> None:
    planned = plan(PAIR, views("chosen/swap", "partner", "partner/swap", "partner/none"), Companions([PAIR, OTHER]))
    assert planned.partner is OTHER
    found = {str(row.view): row.answer.text for row in planned.rows}
    assert found == {"chosen/swap": "ours", "partner": "theirs", "partner/swap": "theirs", "partner/none": "theirs"}
    assert plan(PAIR, views("chosen", "mismatched"), Companions([PAIR, OTHER])).partner is None
    assert rows(PAIR, "chosen", "chosen/swap", "partner") == [("chosen", "ours")], "nobody is there to swap with"


def test_the_partners_answer_is_its_best() -> None:
    ranked = [Candidate("worse", score=1.0), Candidate("best", score=4.0), Candidate("good", score=3.0)]
    other = replace(OTHER, candidates=tuple(ranked), higher_is_better=True)
    assert [text for _, text in rows(PAIR, "partner", among=[other])] == ["best"]
    assert [text for _, text in rows(PAIR, "partner", among=[replace(other, higher_is_better=False)])] == ["worse"]
    some = replace(other, candidates=(replace(ranked[0], score=None), *ranked[1:]))
    assert [text for _, text in rows(PAIR, "partner", among=[some])] == ["worse"], "the first, if not all are rated"


def test_what_belongs_to_others_has_no_rating_and_no_label() -> None:
    rated = replace(
        OTHER, candidates=tuple(replace(c, score=5.0, label=True) for c in OTHER.candidates), higher_is_better=True
    )
    planned = plan(PAIR, views("chosen", "mismatched", "partner"), Companions([PAIR, rated]))
    assert {str(row.view): (math.isnan(row.score), row.label) for row in planned.rows} == {
        "mismatched": (True, 0),
        "partner": (True, 0),
        "chosen": (True, 1),
    }


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"score": [3.0, 1.0]}, [3.0, 1.0]),
        ({"rank": [2, 1]}, [2.0, 1.0]),
        ({"score": [3.0, 1.0], "rank": [7, 8]}, [3.0, 1.0]),
        ({"score": [3.0, None, 1.0]}, [3.0, math.nan, 1.0]),
        ({"rank": [3, None]}, [3.0, math.nan]),
        ({"score": [0.9, None], "rank": [1, 2]}, [1.0, 2.0]),
        ({"score": [0.9, None], "rank": [1, None]}, [0.9, math.nan]),
        ({"score": [0.9, None], "rank": [None, 2]}, [0.9, math.nan]),
        ({"score": [None, None]}, [math.nan, math.nan]),
    ],
)
def test_scores_and_ranks_are_never_mixed(fields: dict[str, Any], expected: list[float]) -> None:
    of = lists(**fields)
    assert [oriented_score(of, c) for c in of.candidates] == pytest.approx(expected, nan_ok=True)
    lower = replace(of, higher_is_better=False)
    assert [oriented_score(lower, c) for c in of.candidates] == pytest.approx([-v for v in expected], nan_ok=True)
    unsaid = replace(of, higher_is_better=None)
    assert all(math.isnan(oriented_score(unsaid, c)) for c in of.candidates)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([None, None], [1, -1]),
        ([False, True], [-1, 1]),
        ([None, True], [1, 1]),
        ([True], [1]),
        ([None], [0]),
        ([None, None, False], [0, 0, -1]),
    ],
)
def test_labels_come_first_and_then_the_place_in_a_pair(labels: list[bool | None], expected: list[int]) -> None:
    planned = plan(lists(label=labels), views("every"), Companions([]))
    assert [row.label for row in planned.rows] == expected


def test_media_variants_stand_in_one_order() -> None:
    wanted = views("chosen/swap", "chosen/crop", "rejected", "chosen/blur:4")
    assert media_names(wanted) == media_names(wanted[::-1]) == ("clean", "blur:4", "crop", "swap")
    forward, backward = (plan(PAIR, order, Companions([PAIR, OTHER])) for order in (wanted, wanted[::-1]))
    assert forward == backward
    assert [row.view.media for row in forward.rows] == ["clean", "blur:4", "crop", "swap"]


def test_an_outline_counts_without_reading_a_text() -> None:
    """One row for each view of each record, with all that counting needs, and no number of a model."""
    marked = replace(PAIR, candidates=(replace(PAIR.candidates[0], spans=((0, 2),)), PAIR.candidates[1]))
    records = [lists(score=[2.0, 1.0, 0.0]), marked]
    table = outline(records, views("every", "chosen/crop"), Companions(records))
    assert table.example.tolist() == [0, 0, 0, 1, 1, 1]
    assert table.candidate.tolist() == [0, 1, 2, 0, 1, 0]
    assert [table.media_names[place] for place in table.media] == ["clean"] * 5 + ["crop"]
    assert table.score[:3].tolist() == [2.0, 1.0, 0.0]
    assert table.label.tolist() == [0, 0, 0, 1, -1, 1]
    assert table.marks.squeeze(1).tolist() == [False, False, False, True, False, True]
    assert table.logp.isnan().all() and table.logp.shape == (6, 1)
    assert outline([], views("every"), Companions([])).logp.shape == (0, 1)
