"""`facts`: answers by their judged claims; worked by hand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from errno import ENOSPC
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_builders import facts
from data_builders.running.build import BuildResult, build
from data_builders.tables import spool
from data_builders.tables.config import table_rows
from mmdpo.errors import ConfigError, DataError

FAITHSCORE = Path(__file__).resolve().parents[3] / "shared" / "data" / "faithscore" / "annotation.jsonl"
LABELS = {"right": [1], "wrong": [0]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    folder.mkdir()
    for index in range(3):
        Image.new("RGB", (8, 8), (60 * index, 0, 0)).save(folder / f"photo_{index}.png")
    return folder


def run(root: Path, rows: list[dict[str, Any]], out: str = "out", **config: Any) -> BuildResult:
    data = root.parent / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    base = {"data": data, "media_root": root, "media_path": "photo_{image}.png", "validation": 0.0, **LABELS}
    return build("facts", {**base, **config}, root.parent / out)


def judged(image: Any, answer: Any, *labels: Any, **beside: Any) -> dict[str, Any]:
    return {"image": image, "answer": answer, "facts": {f"claim {n}": one for n, one in enumerate(labels)}, **beside}


def reasons(result: BuildResult) -> dict[str, int]:
    return dict(Counter(entry.reason for entry in result.set_aside))


def texts(result: BuildResult) -> list[tuple[str, ...]]:
    return [tuple(candidate.text for candidate in record.candidates) for record in result.records]


def test_the_larger_share_of_right_claims_is_chosen(root: Path) -> None:
    rows = [judged(0, "half", 1, 0), judged(0, "most", 1, 1, 0), judged(0, "all wrong", 0)]
    result = run(root, rows)
    (record,) = result.records
    assert texts(result) == [("most", "all wrong")]
    assert [candidate.score for candidate in record.candidates] == [pytest.approx(2 / 3, abs=1e-6), 0.0]
    assert record.higher_is_better is True
    assert record.media["images"][0].path == "photo_0.png"
    assert record.meta["claims"] == [
        [[["claim 0", True], ["claim 1", True], ["claim 2", False]]],
        [[["claim 0", False]]],
    ]
    assert record.meta["rows"] == [[2], [3]]
    assert reasons(result) == {"not_selected": 1}
    assert result.quality["claims"] == {"right": 3, "wrong": 3, "unlabelled": 0}


def test_one_means_wrong_where_that_is_said(root: Path) -> None:
    rows = [judged(0, "half", 1, 0), judged(0, "none", 0, 0)]
    assert texts(run(root, rows)) == [("half", "none")]
    assert texts(run(root, rows, out="turned", right=[0], wrong=[1])) == [("none", "half")]


def test_fewest_wrong_claims_first(root: Path) -> None:
    """Of 9 right and 2 wrong claims against 1 and 1, the share prefers the first, the number wrong the second."""
    rows = [judged(0, "long", *[1] * 9, 0, 0), judged(0, "short", 1, 0)]
    assert texts(run(root, rows)) == [("long", "short")]
    counted = run(root, rows, out="counted", score="fewest_wrong")
    assert texts(counted) == [("short", "long")]
    assert [candidate.score for candidate in counted.records[0].candidates] == [-1.0, -2.0]


def test_lists_and_answers_to_other_questions(root: Path) -> None:
    rows = [judged(0, f"answer {n}", *[1] * n, *[0] * (3 - n), asked="What?") for n in range(4)]
    rows += [judged(0, "another", 1, asked="Where?")]
    result = run(root, rows, pairing="list", columns={"prompt": "asked"})
    assert texts(result) == [("answer 3", "answer 2", "answer 1", "answer 0")]
    assert reasons(result) == {"single_caption": 1}


def test_an_answer_that_was_judged_twice_has_the_mean(root: Path) -> None:
    result = run(root, [judged(0, "a", 1, 1), judged(0, "a", 0, 1), judged(0, "b", 1, 1, 0)])
    (record,) = result.records
    assert [candidate.score for candidate in record.candidates] == [0.75, pytest.approx(2 / 3, abs=1e-6)]
    assert record.meta["rows"] == [[1, 2], [3]]


def test_wrong_claims_that_stand_in_a_rejected_answer_are_marked(root: Path) -> None:
    text = "A dog sleeps. the  Sofa is red, and hence two cats. The sofa is redder."
    rows = [
        {"image": 0, "answer": "A dog. The sofa is red.", "facts": {"A dog sleeps.": 1, "The sofa is red.": 1}},
        {
            "image": 0,
            "answer": text,
            "facts": {"The sofa is red.": 0, "The sofa": 0, "two cats": 0, "A dog sleeps.": 1, "There is a hen.": 0},
        },
    ]
    result = run(root, rows)
    (record,) = result.records
    assert record.candidates[0].spans == ()
    marked = [text[start:end] for start, end in record.candidates[1].spans]
    assert marked == ["the  Sofa is red", "two cats", "The sofa"]  # the longest claim; none inside of "redder"
    assert result.quality["records_with_marks"] == 1


def test_every_form_of_claims_says_the_same(root: Path) -> None:
    given: list[Any] = [
        {"dog": "Yes", "cat": "no"},
        [{"fact": "dog", "label": "yes"}, {"fact": "cat", "label": " NO "}],
        '{"dog": "yes", "cat": "no", "hen": null}',
    ]
    for number, cell in enumerate(given):
        rows = [{"image": 0, "answer": "a", "facts": cell}, {"image": 0, "answer": "b", "facts": {"dog": "yes"}}]
        result = run(root, rows, out=f"out{number}", right="yes", wrong="no")
        assert texts(result) == [("b", "a")]
        assert result.records[0].meta["claims"][1] == [[["dog", True], ["cat", False]]]


def test_every_row_is_accounted_for(root: Path) -> None:
    rows = [
        judged(0, "good", 1, 1, None),
        judged(0, "bad", 0, 1),
        judged(0, "nothing said"),
        judged(0, "all open", None, ""),
        judged(0, "few", 1),
        {"image": 0, "answer": "list of texts", "facts": ["a dog"]},
        {"image": 0, "answer": "no JSON", "facts": "a dog"},
        {"image": 0, "answer": "a number", "facts": 3},
        {"image": 0, "answer": "blank claim", "facts": {" ": 1}},
        {"image": 0, "answer": "null claim", "facts": [{"label": 1}]},
        judged(0, "odd labels", 1, 7, "N/A", float("nan"), 1),
        {"image": 0, "answer": "twice", "facts": [{"fact": "dog", "label": n} for n in (1, 1, 0)]},
        judged(0, "", 1),
        judged(0, 5, 1),
        judged(None, "no picture", 1),
        judged(7, "absent", 1, 1),
        judged("/../../0", "outside", 1, 1),
        {"image": 0, "answer": "no column at all"},
    ]
    result = run(root, rows, min_claims=2)
    assert reasons(result) == {
        "no_claims": 3,
        "too_few_claims": 2,
        "bad_claims": 5,
        "unknown_label": 2,
        "repeated_claim": 2,
        "empty_caption": 1,
        "not_text": 1,
        "no_image": 1,
        "missing_media": 1,
        "outside_root": 1,
        "not_selected": 1,  # "odd labels" is as good as "good" by its two claims that have labels
    }
    assert result.quality["rows"] == {"read": 18, "used": 2, "set_aside": 16}
    assert result.quality["claims"]["unlabelled"] == 4  # NaN is how tables say null
    told = {entry.reason: entry for entry in result.set_aside}
    assert (told["unknown_label"].column, told["repeated_claim"].value) == ("facts", 0)
    assert "right is 1; wrong is 0" in told["unknown_label"].message
    assert '{"There is a dog.": 1}' in told["bad_claims"].message


def test_what_a_label_means_has_to_be_said(root: Path) -> None:
    rows = [judged(0, "a", 1), judged(0, "b", 0)]
    with pytest.raises(ConfigError, match="right"):
        build("facts", {"data": root.parent / "rows.jsonl", "wrong": [0]}, root.parent / "out")
    with pytest.raises(ConfigError, match="cannot mean both"):
        run(root, rows, right=[1, "yes"], wrong=["YES"])


def test_more_answers_than_memory_holds(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [judged(image, f"answer {n}", *[1] * n, 0, source="x") for image in range(3) for n in range(5)]
    at_once = run(root, rows, pairing="all", columns={"source": "source"})
    monkeypatch.setattr(spool.Spool.__init__, "__kwdefaults__", {"limit": 4})
    in_parts = run(root, rows, out="parts", pairing="all", columns={"source": "source"})
    assert sorted(texts(at_once)) == sorted(texts(in_parts)) and len(at_once.records) == 30
    assert {record.id: record.meta for record in at_once.records} == {
        record.id: record.meta for record in in_parts.records
    }


def test_interrupted_and_resumed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [judged(0, "a", 1), judged(0, "b", 0)]

    def stopped(*arguments: Any) -> Iterator[Any]:
        yield from islice(table_rows(*arguments), 1)
        raise KeyboardInterrupt

    monkeypatch.setattr(facts, "table_rows", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(root, rows)
    assert not (root.parent / "out" / "data").exists()
    monkeypatch.undo()
    base = {"data": root.parent / "rows.jsonl", "media_root": root, "media_path": "photo_{image}.png"}
    resumed = build("facts", {**base, "validation": 0.0, **LABELS}, root.parent / "out", resume=True)
    assert texts(resumed) == [("a", "b")]


def test_a_full_disk_leaves_no_half_data_set(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(ENOSPC, "No space left on device")

    monkeypatch.setattr(spool.Spool, "_spill", full)
    monkeypatch.setattr(spool.Spool.__init__, "__kwdefaults__", {"limit": 0})
    with pytest.raises((OSError, DataError)):
        run(root, [judged(0, "a", 1), judged(0, "b", 0)])
    assert not (root.parent / "out" / "data").exists()


@pytest.mark.skipif(not FAITHSCORE.exists(), reason="the labels of FaithScore are not here")
def test_descriptions_of_faithscore(tmp_path: Path) -> None:
    data = tmp_path / "descriptions.jsonl"
    lines = FAITHSCORE.read_text(encoding="utf-8").splitlines(keepends=True)[1::3]
    data.write_text("".join(lines), encoding="utf-8")
    config = {"data": data, "columns": {"image": "id", "facts": "stage 2"}, "media": "optional", **LABELS}
    result = build("facts", {**config, "media_path": "COCO_val2014_{image}.jpg"}, tmp_path / "out")
    assert result.quality["rows"] == {"read": 60, "used": 58, "set_aside": 2}
    assert result.quality["claims"] == {"right": 669, "wrong": 223, "unlabelled": 0}
    assert len(result.records) == 29
