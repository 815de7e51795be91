"""`build ratings`: every row ends in the records or in the ledger, and pairs are what the settings say."""

import csv
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data_builders.running.build import BuildResult, build
from mmdpo.errors import ConfigError, DataError
from mmdpo.records import load_records

COLUMNS = ("image", "caption", "rating", "rater")
Rows = list[tuple[Any, ...]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(6):
        Image.new("RGB", (8, 8), (40 * index, 0, 0)).save(folder / f"{index}.png")
    return folder


def write(folder: Path, rows: Rows, columns: tuple[str, ...] = COLUMNS) -> Path:
    path = folder / "ratings.csv"
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerows([columns, *rows])
    return path


def run(root: Path, rows: Rows, *, header: tuple[str, ...] = COLUMNS, out: str = "out", **config: Any) -> BuildResult:
    defaults = {"scale": {"min": 1, "max": 5}, "higher_is_better": True, "media_root": root, "validation": 0.0}
    return build("ratings", {"data": write(root.parent, rows, header), **defaults, **config}, root.parent / out)


def pairs(result: BuildResult) -> list[tuple[str, str]]:
    return sorted((record.chosen.text, record.rejected.text) for record in result.records)


def reasons(result: BuildResult) -> dict[str, int]:
    return dict(Counter(entry.reason for entry in result.set_aside))


def one_image(*scores: float, raters: int = 1) -> Rows:
    return [("0.png", f"caption {score:g}", score, f"r{k}") for score in scores for k in range(raters)]


def test_several_raters_are_averaged(root: Path):
    rows = [
        ("0.png", "a", 5, "x"),
        ("0.png", "a", 2, "y"),
        ("0.png", "a", 2, "z"),
        ("0.png", "b", 2.5, "x"),
        ("0.png", "b", 2.5, "y"),
    ]
    mean, median = run(root, rows), run(root, rows, aggregate="median", out="median")
    assert pairs(mean) == [("a", "b")] and pairs(median) == [("b", "a")]
    record = mean.records[0]
    assert (record.chosen.score, record.rejected.score) == (3, 2.5)
    assert record.meta["ratings"] == [[5, 2, 2], [2.5, 2.5]] and record.meta["rows"] == [[1, 2, 3], [4, 5]]
    assert record.higher_is_better is True
    assert record.prompt[0]["content"] == [{"type": "image"}, {"type": "text", "text": "Describe the image."}]
    assert mean.quality["rows"] == {"read": 5, "used": 5, "set_aside": 0}


def test_lower_can_be_better(root: Path):
    assert pairs(run(root, one_image(1, 5), higher_is_better=False)) == [("caption 1", "caption 5")]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pairing": "best_worst"}, {("5", "1")}),
        ({"pairing": "adjacent"}, {("5", "4"), ("4", "2"), ("2", "1")}),
        ({"pairing": "all"}, {("5", "4"), ("5", "2"), ("5", "1"), ("4", "2"), ("4", "1"), ("2", "1")}),
        ({"pairing": "all", "min_margin": 3}, {("5", "2"), ("5", "1"), ("4", "1")}),
        ({"pairing": "all", "max_pairs_per_image": 1}, {("5", "1")}),
        ({"pairing": "adjacent", "min_margin": 2}, {("4", "2")}),
    ],
)
def test_pairing(root: Path, config: dict[str, Any], expected: set[tuple[str, str]]):
    result = run(root, one_image(4, 1, 5, 2), **config)
    assert {(a.split()[1], b.split()[1]) for a, b in pairs(result)} == expected
    tally = result.quality["possible_pairs"]
    assert tally["n"] == 6 and tally["used"] == len(expected)
    assert tally["n"] == sum(tally[key] for key in ("ties", "below_margin", "equal_captions", "not_selected", "used"))


def test_ties_make_no_pair_and_are_counted(root: Path):
    rows = [("0.png", "a", 3, "x"), ("0.png", "b", 3, "x"), ("1.png", "c", 4, "x"), ("1.png", "d", 1, "x")]
    result = run(root, rows, pairing="all")
    assert pairs(result) == [("c", "d")]
    assert reasons(result) == {"no_margin": 2} and result.quality["possible_pairs"]["ties"] == 1


def test_means_that_differ_in_the_last_bit_are_ties(root: Path):
    rows = [("0.png", "a", v, str(k)) for k, v in enumerate((1.1, 2.2, 3.3))]
    rows += [("0.png", "b", v, str(k)) for k, v in enumerate((3.3, 2.2, 1.1))]
    rows += one_image(5)
    assert len(run(root, rows, pairing="all").records) == 2


def test_the_cap_holds_over_all_prompts_of_an_image(root: Path):
    rows = [("0.png", f"{c}{q}", r, "x", q) for q in ("What?", "Where?") for c, r in (("a", 5), ("b", 1))]
    rows.append(("0.png", "cWhat?", 2, "x", "What?"))
    header, columns = (*COLUMNS, "question"), {"prompt": "question"}
    both = run(root, rows, header=header, columns=columns)
    assert [record.prompt[0]["content"][1]["text"] for record in both.records] == ["What?", "Where?"]
    assert pairs(both) == [("aWhat?", "bWhat?"), ("aWhere?", "bWhere?")]
    capped = run(root, rows, header=header, columns=columns, pairing="all", max_pairs_per_image=3, out="capped")
    assert Counter(record.meta["margin"] for record in capped.records) == {4: 2, 3: 1}, "the largest margins stay"


def test_bad_values_are_set_aside_with_their_row(root: Path):
    (root / "text.jpg").write_text("hello")
    (root / "cut.png").write_bytes((root / "1.png").read_bytes()[:50])
    rows: Rows = [
        ("0.png", "good", 5, "x"),  # 1
        ("0.png", "bad", 1, "x"),
        ("0.png", "good", 5, "x"),  # 3: the same rating again
        ("0.png", "good", 4, "x"),  # 4: the same rater, another rating
        ("0.png", " ", 3, "x"),  # 5
        ("", "no image", 3, "x"),
        ("0.png", "words", "three", "x"),  # 7
        ("0.png", "nan", "nan", "x"),
        ("0.png", "infinite", "inf", "x"),
        ("0.png", "low", 0, "x"),  # 10
        ("0.png", "high", 5.01, "x"),
        ("0.png", "blank", "", "x"),
        ("0.png", "nobody", 3, ""),  # 13: somebody without a name
        ("absent.png", "x", 3, "x"),  # 14
        ("text.jpg", "x", 3, "x"),
        ("cut.png", "x", 3, "x"),
        ("../ratings.csv", "x", 3, "x"),
        ("http://a/b.png", "x", 3, "x"),
        ("1.png", "alone", 3, "x"),  # 19
        ("0.png", "short", 3),
        ("0.png", "caf\udce9", 3, "x"),  # a Latin-1 byte in a UTF-8 file
    ]
    result = run(root, rows, pairing="all")
    assert pairs(result) == [("good", "bad"), ("good", "nobody"), ("nobody", "bad")]
    assert [(entry.row, entry.reason) for entry in sorted(result.set_aside, key=lambda entry: entry.row)] == [
        (3, "duplicate_row"),
        (4, "conflicting_rating"),
        (5, "empty_caption"),
        (6, "no_image"),
        (7, "not_a_number"),
        (8, "not_a_number"),
        (9, "not_a_number"),
        (10, "out_of_scale"),
        (11, "out_of_scale"),
        (12, "no_rating"),
        (14, "missing_media"),
        (15, "not_an_image"),
        (16, "truncated_image"),
        (17, "outside_root"),
        (18, "remote_url"),
        (19, "single_caption"),
        (20, "unreadable_row"),
        (21, "bad_text"),
    ]
    assert result.quality["rows"] == {"read": 21, "used": 3, "set_aside": 18}
    assert sum(result.quality["set_aside"].values()) == 18
    assert result.quality["repeated_rows"] == 1
    written = [json.loads(line) for line in (root.parent / "out/set_aside.jsonl").read_text().splitlines()]
    assert Counter(entry["reason"] for entry in written) == reasons(result)
    assert next(entry["value"] for entry in written if entry["row"] == 11) == 5.01


def test_ratings_without_a_name_are_different_peoples(root: Path):
    """A missing name is null, blank, or NaN from pandas; none of them is a person who rated everything."""
    cells = zip(("ann", None, math.nan, " ", math.nan), (5, 4, 3, 2, 1), strict=True)
    rows = [{"image": "0.png", "caption": "good", "rating": rating, "rater": name} for name, rating in cells]
    rows += [{"image": "0.png", "caption": "bad", "rating": 1, "rater": "ann"}]
    path = root.parent / "ratings.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"data": path, "scale": {"min": 1, "max": 5}, "higher_is_better": True, "media_root": root}
    result = build("ratings", config | {"validation": 0.0}, root.parent / "out")
    (record,) = result.records
    assert record.chosen.score == 3.0 and record.meta["ratings"][0] == [5, 4, 3, 2, 1] and not result.set_aside
    assert any("4 of 6 ratings name nobody" in note for note in result.quality["notes"])
    assert [row["rater"] for row in result.quality["raters"]] == ["ann"]


def test_placeholder_text_stays_text(root: Path):
    rows = [("0.png", "An <image> of </s> <|im_end|>", 5, "x"), ("0.png", "<|vision_start|>", 1, "x")]
    record = run(root, rows).records[0]
    assert record.chosen.text == "An <image> of </s> <|im_end|>"
    assert load_records(root.parent / "out")[0].candidates == record.candidates


def test_captions_that_differ_only_in_case_are_no_pair(root: Path):
    result = run(root, [("0.png", "A dog", 5, "x"), ("0.png", "a  DOG", 1, "x"), *one_image(3)], pairing="all")
    assert len(result.records) == 2
    assert result.quality["possible_pairs"]["equal_captions"] == 1


def test_the_best_and_the_worst_pair_that_can_be_used(root: Path):
    """The ends say the same, so the next wider pair is taken; the picture does not lose its only one."""
    rows: Rows = [("0.png", "A dog", 5, "x"), ("0.png", "a cat", 4, "x"), ("0.png", "two", 2, "x")]
    result = run(root, [*rows, ("0.png", "a  DOG", 1, "x")])
    assert pairs(result) == [("A dog", "two")] or pairs(result) == [("a cat", "a  DOG")]
    assert result.records[0].meta["margin"] == 3 and len(result.records) == 1


def test_optional_media(root: Path):
    rows = [("absent.png", "a", 5, "x"), ("absent.png", "b", 1, "x"), *one_image(2, 4)]
    assert len(run(root, rows).records) == 1
    result = run(root, rows, media="optional", out="optional")
    assert len(result.records) == 2
    hashes = {record.media["images"][0].path: record.media["images"][0].sha256 for record in result.records}
    assert hashes["absent.png"] is None and hashes["0.png"] is not None


def test_one_photo_under_two_names_is_one_image(root: Path):
    (root / "copy.png").write_bytes((root / "0.png").read_bytes())
    rows = [("0.png", "a", 5, "x"), ("copy.png", "b", 1, "x"), ("1.png", "c", 5, "x"), ("1.png", "d", 1, "x")]
    assert pairs(run(root, rows)) == [("a", "b"), ("c", "d")]


def test_splits_share_no_image(root: Path):
    rows = [(f"{i}.png", f"{c}{k}", 5 - 4 * k, "x") for i in range(6) for c in "ab" for k in range(2)]
    result = run(root, rows, validation=0.34, pairing="all")
    images = {name: {r.media["images"][0].sha256 for r in part} for name, part in result.splits.items()}
    assert {name: len(found) for name, found in images.items()} == {"train": 4, "validation": 2}
    assert not images["train"] & images["validation"]
    assert len(load_records(root.parent / "out", split="validation")) == len(result.splits["validation"])


def test_wide_tables(root: Path):
    rows = [("0.png", "a", 5, 4, ""), ("0.png", "b", 1, 9, 2), ("0.png", "c", "", "", "")]
    columns = {"rating": ["expert1", "expert2", "expert3"], "rater": None}
    result = run(root, rows, header=("image", "caption", "expert1", "expert2", "expert3"), columns=columns)
    record = result.records[0]
    assert (record.chosen.score, record.rejected.score) == (4.5, 1.5)
    assert record.meta["raters"] == [["expert1", "expert2"], ["expert1", "expert3"]]
    assert result.quality["rows"] == {"read": 3, "used": 2, "set_aside": 1}
    assert result.quality["set_aside"] == {"no_rating": 1}
    assert result.quality["set_aside_values"] == {"out_of_scale": 1}
    assert [entry["rater"] for entry in result.quality["raters"]] == ["expert1", "expert2", "expert3"]


def test_lists_of_ratings_and_embedded_images(root: Path, tmp_path: Path):
    image = {"bytes": (root / "0.png").read_bytes(), "path": None}
    rows = [{"image": image, "caption": c, "rating": r} for c, r in (("a", [4, 5]), ("b", [1, None]), ("a", [3, 4]))]
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    config = {"data": tmp_path / "t.parquet", "scale": {"min": 1, "max": 5}, "higher_is_better": True}
    result = build("ratings", {**config, "columns": {"rater": None}}, tmp_path / "out")
    assert result.records[0].meta["ratings"] == [[4, 5, 3, 4], [1]], "unnamed raters of two rows are different people"
    assert load_records(tmp_path / "out")[0].media["images"][0].data == image["bytes"]


def test_names_become_paths_and_rows_are_chosen(root: Path):
    rows = [("old/0.jpg", "a", 5, "x", "yes"), ("old/0.jpg", "b", 1, "x", "yes"), ("old/0.jpg", "c", 3, "x", "no")]
    result = run(root, rows, header=(*COLUMNS, "keep"), media_path="{stem}.png", where={"keep": ["yes"]}, pairing="all")
    assert [record.media["images"][0].path for record in result.records] == ["0.png"]
    assert result.quality["rows_filtered_out"] == 1 and result.quality["rows"]["read"] == 2


def test_too_few_raters(root: Path):
    rows = [*one_image(1, 5, raters=2), *one_image(3)]
    result = run(root, rows, min_raters=2, pairing="all")
    assert len(result.records) == 1 and reasons(result) == {"too_few_raters": 1}


def test_the_same_seed_gives_the_same_records(root: Path):
    rows = [(f"{i}.png", f"{c}", 5 if c < "c" else 1, "x") for i in range(6) for c in "abcd"]
    first = run(root, rows, validation=0.2)
    again = run(root, rows[::-1], validation=0.2, out="again")
    assert {r.id for r in first.splits["validation"]} == {r.id for r in again.splits["validation"]}
    assert sorted(r.id for r in first.records) == sorted(r.id for r in again.records)
    other = run(root, rows, validation=0.2, seed=5, out="other")
    assert sorted(r.id for r in first.records) != sorted(r.id for r in other.records), "ties fall another way"


def test_strict_refuses_bad_rows_but_not_ties(root: Path):
    path = write(root.parent, [*one_image(1, 5), ("0.png", "x", "many", "x")])
    config = {"data": path, "scale": {"min": 1, "max": 5}, "higher_is_better": True, "media_root": root}
    with pytest.raises(DataError, match=r"1 not_a_number\nThe first is row 3: not_a_number 'many'"):
        build("ratings", config, root.parent / "out", strict=True)
    assert not (root.parent / "out").exists()
    write(root.parent, [*one_image(1, 5), ("1.png", "alone", 3, "x")])
    assert len(build("ratings", config, root.parent / "out", strict=True).records) == 1


def test_nothing_comes_out(root: Path):
    with pytest.raises(DataError, match=r"no record came out of 1 rows\nRows set aside: 1 single_caption"):
        run(root, one_image(3))
    assert (root.parent / "out/quality.json").is_file()


def test_every_configuration_error_at_once(root: Path):
    config = {
        "data": "x.csv",
        "pairng": "all",
        "columns": {"captoin": "x"},
        "scale": {"min": 5, "max": 1},
        "min_margin": -1,
        "media_path": "{image.__class__}",
    }
    with pytest.raises(ConfigError) as caught:
        build("ratings", config, root / "out")
    message = str(caught.value)
    for part in (
        "6 problems",
        "pairng: unknown key. Did you mean 'pairing'",
        "columns.captoin: unknown key. Did you mean 'caption'",
        "min must be below max",
        "min_margin",
        "{stem}",
        "higher_is_better: required",
    ):
        assert part in message


def test_wrong_usage(root: Path):
    with pytest.raises(ConfigError, match=r"no column 'rater' \(columns.rater\)"):
        run(root, [("0.png", "a", 1)], header=COLUMNS[:3])
    run(root, one_image(1, 5))
    with pytest.raises(ConfigError, match="exists and is not an empty folder"):
        run(root, one_image(1, 5))
    with pytest.raises(ConfigError, match="Did you mean 'ratings'"):
        build("rating", {}, root / "out")


cells = st.sampled_from(["1", "3", "5", "7", "nan", "x", ""])
table = st.lists(
    st.tuples(
        st.sampled_from(["0.png", "1.png", "absent.png", ""]),
        st.sampled_from(["a", "b", "B", "c", ""]),
        cells,
        st.sampled_from(["x", "y", ""]),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(rows=table, pairing=st.sampled_from(["best_worst", "all", "adjacent"]), cap=st.sampled_from([None, 1, 2]))
def test_every_row_is_accounted_for(root: Path, tmp_path_factory: Any, rows: Rows, pairing: str, cap: int | None):
    folder = tmp_path_factory.mktemp("property")
    config = {"scale": {"min": 1, "max": 5}, "higher_is_better": True, "media_root": root, "pairing": pairing}
    try:
        result = build("ratings", {"data": write(folder, rows), "max_pairs_per_image": cap, **config}, folder / "out")
    except DataError as error:
        assert "no record came out" in str(error)
        quality = json.loads((folder / "out/quality.json").read_text())
    else:
        quality = result.quality
        used = {row for record in result.records for rows_ in record.meta["rows"] for row in rows_}
        aside = {entry.row for entry in result.set_aside}
        assert used | aside == set(range(1, len(rows) + 1)) and not used & aside
        assert all(record.chosen.score > record.rejected.score for record in result.records)
        per_image = Counter(record.media["images"][0].path for record in result.records)
        assert cap is None or max(per_image.values()) <= cap
    assert quality["rows"]["read"] == len(rows) == quality["rows"]["used"] + quality["rows"]["set_aside"]
