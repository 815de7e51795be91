"""What a person is told of a table that cannot be used as it is: which file, which line, and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_builders.running.build import BuildResult, build
from data_builders.running.ledger import Ledger
from data_builders.splits import MediaGroups
from data_builders.tables.reading import named_kind, read_table
from mmdpo.errors import ConfigError, DataError
from mmdpo.media import Media
from mmdpo.records import Candidate, Record, user_message

HEAD = "image,caption,rating,rater\n"
ROWS = "0.png,A dog.,5,ann\n0.png,Two cats.,1,ann\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for index in range(2):
        Image.new("RGB", (8, 8), (60 * index, 0, 0)).save(tmp_path / f"{index}.png")
    return tmp_path


def run(root: Path, data: Any, **config: Any) -> BuildResult:
    base = {"scale": {"min": 1, "max": 5}, "higher_is_better": True, "media_root": root, "validation": 0.0}
    return build("ratings", {**base, "data": data, **config}, root / "out")


def test_a_table_of_bad_lines_says_what_is_wrong_with_them(root: Path) -> None:
    (root / "twice.jsonl").write_text('{"a": 1, "a": 2}\n' * 3)
    with pytest.raises(DataError, match="3 unreadable_row") as caught:
        run(root, root / "twice.jsonl")
    assert "has the key 'a' twice" in str(caught.value)
    entry = json.loads((root / "out" / "set_aside.jsonl").read_text().splitlines()[0])
    assert entry["value"] == '{"a": 1, "a": 2}'


def test_the_table_without_the_column_is_named(root: Path) -> None:
    (root / "one.csv").write_text(HEAD + ROWS)
    (root / "two.csv").write_text("image,caption,ratings,rater\n")
    with pytest.raises(ConfigError, match=r"two\.csv' has no column 'rating'"):
        run(root, [root / "one.csv", root / "two.csv"])


@pytest.mark.parametrize("mark", [";", "|"])
def test_other_marks_between_cells(root: Path, mark: str) -> None:
    (root / "other.csv").write_text((HEAD + ROWS).replace(",", mark))
    with pytest.raises(ConfigError) as caught:
        run(root, root / "other.csv")
    assert f"delimiter='{mark}'" in str(caught.value)
    assert len(run(root, root / "other.csv", delimiter=mark).records) == 1


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark(root: Path, encoding: str) -> None:
    (root / "plain.csv").write_bytes((HEAD + ROWS).replace("dog", "d\u00f6g").encode(encoding))
    (record,) = run(root, root / "plain.csv").records
    assert record.candidates[0].text == "A d\u00f6g."


def test_the_first_message_is_of_the_leading_reason() -> None:
    ledger = Ledger()
    for row, (reason, message) in enumerate([("rare", "a"), ("often", ""), ("often", "b"), ("often", "c")], 1):
        ledger.read(row)
        ledger.set_aside(reason, row, message=message)
    assert ledger.first_message == " The first often is row 3: b."


def test_values_say_what_stood_there(root: Path) -> None:
    (root / "r.csv").write_text(HEAD + ROWS + "1.png,A bus.,4/5,ann\n1.png,too,many,cells,here\n")
    told = {entry.reason: entry for entry in run(root, root / "r.csv").set_aside}
    assert (told["not_a_number"].column, told["not_a_number"].message) == ("rating", "'4/5' is no finite number")
    assert told["unreadable_row"].value == "1.png,too,many,cells,here"


def test_kinds_of_values_have_names_that_people_use(root: Path) -> None:
    given = [None, True, 1, 1.5, "a", [1], {"a": 1}]
    named = ["nothing (null)", "true or false", "a number", "a number", "a text", "a list", "an object"]
    assert [named_kind(value) for value in given] == named
    (root / "odd.jsonl").write_text("null\n[1]\n")
    problems = [(row.problem, row.text) for row in read_table(root / "odd.jsonl")]
    assert problems == [("nothing (null), not an object", "null"), ("a list, not an object", "[1]")]


@pytest.mark.parametrize(("pictures", "said"), [(1, False), (2, True), (10, True), (11, False), (40, False)])
def test_a_validation_split_of_too_few_groups_is_told(pictures: int, said: bool) -> None:
    """5% of 10 pictures would be half a one; of 11 it is one, as asked for."""
    groups = MediaGroups()
    for number in range(pictures):
        prompt, answer = (user_message("Describe the image.", images=1),), Candidate("A dog.")
        groups.add(Record(str(number), prompt, (answer,), {"images": (Media(f"{number}.png"),)}))
    notes = groups.note(0.05)
    assert bool(notes) is said
    assert not said or f"1 of only {pictures} groups" in notes[0]
    assert groups.splits(0.05, 0).count("validation") == (1 if 1 < pictures < 40 else 2 if pictures == 40 else 0)


@pytest.mark.parametrize("name", ["pairs.json", "pairs.jsonl"])
def test_import_of_a_file_that_is_not_utf_8(tmp_path: Path, name: str) -> None:
    row = {"prompt": "Wo?", "chosen": "Im K\u00fchlschrank.", "rejected": "Im Caf\u00e9."}
    text = json.dumps([row] if name.endswith("json") else row, ensure_ascii=False)
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    config = {"data": str(tmp_path / name), "validation": 0.0}
    with pytest.raises(DataError, match="encoding=latin-1"):
        build("import", config, tmp_path / "out")
    (record,) = build("import", {**config, "encoding": "latin-1"}, tmp_path / "out").records
    assert [candidate.text for candidate in record.candidates] == [row["chosen"], row["rejected"]]
    with pytest.raises(ConfigError, match="no encoding 'latin-99'"):
        build("import", {**config, "encoding": "latin-99"}, tmp_path / "other")


def test_a_name_that_is_not_a_number_is_blank(root: Path) -> None:
    """Tables of pandas have NaN where a cell is blank: three such rows are not one person called nan."""
    rows = [{"image": "0.png", "caption": "A dog.", "rating": n, "rater": float("nan")} for n in (1, 2, 3)]
    (root / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="3 single_caption"):
        run(root, root / "r.jsonl")
