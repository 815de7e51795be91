"""`build ratings`, grown up: weights, aspects, standardised raters, lists, balanced lengths, several tables, parts."""

from __future__ import annotations

import csv
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_builders.rating.pairing import Rating
from data_builders.rating.rater_scales import RaterScales
from data_builders.running.build import BuildResult, build
from data_builders.tables import spool
from mmdpo.errors import ConfigError
from mmdpo.media import Media

Rows = list[tuple[Any, ...]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(6):
        Image.new("RGB", (8, 8), (40 * index, 0, 0)).save(folder / f"{index}.png")
    return folder


def write(path: Path, rows: Rows, columns: tuple[str, ...]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def run(
    root: Path,
    rows: Rows,
    header: tuple[str, ...] = ("image", "caption", "rating", "rater"),
    out: str = "out",
    **config: Any,
) -> BuildResult:
    data = config.pop("data", None) or write(root.parent / "ratings.csv", rows, header)
    defaults = {"scale": {"min": 1, "max": 5}, "higher_is_better": True, "media_root": root, "validation": 0.0}
    return build("ratings", {"data": data, **defaults, **config}, root.parent / out)


def reasons(result: BuildResult) -> dict[str, int]:
    return dict(Counter(entry.reason for entry in result.set_aside))


def scores(result: BuildResult) -> dict[str, float | None]:
    return {candidate.text: candidate.score for record in result.records for candidate in record.candidates}


def test_weights_of_raters_and_of_rows(root: Path) -> None:
    rows = [
        ("0.png", "a", 5, "ann", 1),
        ("0.png", "a", 2, "bob", 2),
        ("0.png", "b", 3, "ann", 1),
        ("0.png", "c", 1, "x", 0),
    ]
    columns = ("image", "caption", "rating", "rater", "weight")
    result = run(root, rows, columns, columns={"weight": "weight"}, weights={"ann": 4})
    # a: (4 * 5 + 2 * 2) / 6; c has no weight at all
    assert scores(result) == pytest.approx({"a": 4.0, "b": 3.0})
    assert reasons(result) == {"too_few_raters": 1}


@pytest.mark.parametrize("weight", ["", "many", "-1", "nan"])
def test_a_weight_is_a_number_from_0_on(root: Path, weight: str) -> None:
    rows = [("0.png", "a", 5, "x", weight), ("0.png", "b", 4, "x", 1), ("0.png", "c", 1, "x", 1)]
    result = run(root, rows, ("image", "caption", "rating", "rater", "weight"), columns={"weight": "weight"})
    assert reasons(result) == {"bad_weight": 1}
    with pytest.raises(ConfigError, match="median, which has no weights"):
        run(root, rows, out="median", aggregate="median", weights={"x": 2})


def test_several_aspects_make_one_score(root: Path) -> None:
    rows = [
        ("0.png", "a", 5, 1, "x"),
        ("0.png", "a", 3, 1, "y"),
        ("0.png", "b", 2, 5, "x"),
        ("0.png", "b", 2, "N/A", "y"),
    ]
    columns = ("image", "caption", "helpful", "faithful", "rater")
    both = {"aspects": {"helpful": "helpful", "faithful": "faithful"}}
    result = run(root, rows, columns, columns=both, aspects={"faithful": 3.0})
    # a: helpful 4, faithful 1 -> (4 + 3) / 4; b: helpful 2, faithful 5 -> (2 + 15) / 4
    assert scores(result) == pytest.approx({"b": 4.25, "a": 1.75})
    (record,) = result.records
    assert record.meta["aspects"] == [{"helpful": 2.0, "faithful": 5.0}, {"helpful": 4.0, "faithful": 1.0}]
    (entry,) = result.set_aside
    assert (entry.reason, entry.row, entry.column, entry.value) == ("not_a_number", 4, "faithful", "N/A")
    assert set(result.quality["agreement"]["by_aspect"]) == {"helpful", "faithful"}
    with pytest.raises(ConfigError, match="aspects has a weight for 'kind'"):
        run(root, rows, columns, out="other", columns=both, aspects={"kind": 1})


def test_an_aspect_that_nobody_rated_is_missing(root: Path) -> None:
    rows = [("0.png", "a", 5, ""), ("0.png", "b", 2, 5), ("0.png", "c", 1, 1)]
    both = {"aspects": {"helpful": "helpful", "faithful": "faithful"}, "rater": None}
    result = run(root, rows, ("image", "caption", "helpful", "faithful"), columns=both)
    assert set(scores(result)) == {"b", "c"}
    assert reasons(result) == {"too_few_raters": 1}


def rating(rater: str, value: float) -> Rating:
    return Rating(1, None, Media("0.png"), "?", f"{rater} {value}", rater, True, value, None)


def test_raters_are_brought_onto_one_scale() -> None:
    """A strict rater (1 to 3) and a mild one (3 to 5) who agree on everything."""
    strict, mild = [1.0, 1.0, 2.0, 3.0, 3.0], [3.0, 3.0, 4.0, 5.0, 5.0]
    few, same = [5.0] * 4, [2.0] * 6
    given = {"strict": strict, "mild": mild, "few": few, "same": same}
    scales = RaterScales.of(rating(name, value) for name, values in given.items() for value in values)
    everything = [value for values in given.values() for value in values]
    mean = sum(everything) / len(everything)
    spread = math.sqrt(sum((value - mean) ** 2 for value in everything) / len(everything))
    own = math.sqrt(4 / 5)
    for low, high in zip(strict, mild, strict=True):
        ours = scales.standardised(rating("strict", low))
        assert ours == pytest.approx(scales.standardised(rating("mild", high)))
        assert ours == pytest.approx(mean + (low - 2) / own * spread)
    assert scales.standardised(rating("few", 5.0)) == 5.0
    assert scales.standardised(rating("same", 2.0)) == 2.0
    (note,) = scales.notes()
    assert note.startswith("2 of 4 raters")


def test_standardised_scores_change_the_order(root: Path) -> None:
    """x is rated by the mild rater alone, y by the strict one alone: a 4 of a mean of 4, and a 3 of a mean of 2."""
    rows: Rows = [("0.png", "x", 4, "mild"), ("0.png", "y", 3, "strict")]
    for n, (low, high) in enumerate([(1, 3), (1, 3), (3, 5), (2, 4), (2, 4)], start=1):
        rows += [(f"{n}.png", "c", low, "strict"), (f"{n}.png", "c", high, "mild")]
    raw = run(root, rows, out="raw").records[0]
    fair = run(root, rows, out="fair", standardise="rater").records[0]
    assert (raw.chosen.text, fair.chosen.text) == ("x", "y")


def test_lists_hold_every_caption_best_first(root: Path) -> None:
    rows = [("0.png", "b", 3, "r"), ("0.png", "a", 5, "r"), ("0.png", "C", 1, "r"), ("0.png", " c ", 2, "r")]
    rows += [("1.png", "x", 2, "r"), ("1.png", "y", 2, "r")]
    result = run(root, rows, pairing="list")
    (record,) = result.records
    assert [(c.text, c.score) for c in record.candidates] == [("a", 5.0), ("b", 3.0), ("c", 2.0)]
    assert record.form == "list"
    assert result.quality["possible_pairs"] == {
        "n": 7, "ties": 1, "below_margin": 0, "equal_captions": 1, "not_selected": 2, "length_balance": 0, "used": 3,
    }  # fmt: skip
    assert reasons(result) == {"not_selected": 1, "no_margin": 2}


def test_lengths_are_balanced_by_the_smallest_margins(root: Path) -> None:
    rows: Rows = []
    for n, margin in enumerate([4, 3, 2, 1]):  # the longer caption is better, by less and less
        rows += [(f"{n}.png", f"a long caption {n}", 1 + margin, "r"), (f"{n}.png", f"short {n}", 1, "r")]
    rows += [("4.png", "brief", 5, "r"), ("4.png", "a lengthy caption", 1, "r")]  # and once the shorter one
    rows += [("5.png", "two words", 5, "r"), ("5.png", "same length", 1, "r")]
    result = run(root, rows, balance_length=True)
    assert {record.chosen.text for record in result.records} == {"a long caption 0", "brief", "two words"}
    assert reasons(result) == {"length_balance": 6}
    assert result.quality["possible_pairs"]["length_balance"] == 3
    assert result.quality["records"]["length"]["longer_is_chosen"]["value"] == 0.5


def test_several_tables_that_disagree(root: Path) -> None:
    columns = ("image", "caption", "rating", "rater")
    first = write(root.parent / "one.csv", [("0.png", "a", 5, "ann"), ("0.png", "b", 1, "ann")], columns)
    second = write(root.parent / "two.csv", [("0.png", "a", 2, "ann"), ("0.png", "b", 1, "ann")], columns)
    result = run(root, [], data=[first, second])
    assert [(entry.reason, entry.row) for entry in result.set_aside] == [
        ("conflicting_rating", 3),
        ("duplicate_row", 4),
    ]
    assert result.quality["source"] == [str(first), str(second)]
    assert result.quality["rows"] == {"read": 4, "used": 2, "set_aside": 2}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1"])
def test_encodings(root: Path, encoding: str) -> None:
    text = "image,caption,rating,rater\r\n0.png,Ein Käfer,5,r\r\n0.png,Ein Hund,1,r\r\n"
    path = root.parent / "ratings.csv"
    path.write_bytes(text.encode(encoding))
    said = {"encoding": "latin-1"} if encoding == "latin-1" else {}
    (record,) = run(root, [], data=path, **said).records
    assert record.chosen.text == "Ein Käfer"


def test_a_wrong_encoding_is_told(root: Path) -> None:
    path = root.parent / "ratings.csv"
    rows = "0.png,Ein Käfer,5,r\n0.png,Ein Hund,1,r\n0.png,Eine Katze,3,r\n"
    path.write_bytes(f"image,caption,rating,rater\n{rows}".encode("latin-1"))
    (entry,) = [entry for entry in run(root, [], data=path).set_aside if entry.reason == "bad_text"]
    assert "encoding=latin-1" in entry.message
    with pytest.raises(ConfigError, match="no encoding 'utf-88'"):
        run(root, [], data=path, out="other", encoding="utf-88")


def test_one_rating_and_equal_ratings(root: Path) -> None:
    rows = [("0.png", caption, 3, rater) for caption in "ab" for rater in ("x", "y")] + [("1.png", "alone", 5, "once")]
    with pytest.raises(Exception, match="no record came out of 5 rows"):
        run(root, rows, standardise="rater")


@pytest.mark.parametrize("pairing", ["best_worst", "all", "list"])
def test_parts_of_what_memory_holds_give_the_same_records(
    root: Path, monkeypatch: pytest.MonkeyPatch, pairing: str
) -> None:
    rows = [(f"{n % 6}.png", f"caption {n // 12}", 1 + (7 * n) % 5, f"r{n % 4}") for n in range(72)]
    whole = run(root, rows, out="whole", pairing=pairing)
    monkeypatch.setattr(spool.Spool.__init__, "__kwdefaults__", {"limit": 10})
    parts = run(root, rows, out="parts", pairing=pairing)
    assert sorted(parts.records, key=lambda r: r.id) == sorted(whole.records, key=lambda r: r.id)
    for key in ("rows", "set_aside", "set_aside_values", "possible_pairs", "ratings", "agreement", "raters"):
        assert parts.quality[key] == whole.quality[key], key
