"""Tables of every format give the same rows; broken rows are told from broken files."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data_builders.tables.reading import matches, read_table, require_columns
from mmdpo.errors import ConfigError, DataError

ROWS = [
    {"image": "a.jpg", "caption": 'A "dog",\nrunning\u2028.', "rating": "3"},
    {"image": "b", "caption": "ü", "rating": ""},
]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_all_formats_agree(tmp_path: Path):
    quoted = 'image,caption,rating\r\na.jpg,"A ""dog"",\nrunning\u2028.",3\r\n\r\nb,ü,\r\n'
    paths = [
        write(tmp_path / "a.csv", quoted),
        write(tmp_path / "bom.csv", quoted, "utf-8-sig"),
        write(tmp_path / "wide.csv", quoted, "utf-16"),
        write(tmp_path / "old_mac_lines.jsonl", "\r\n".join(json.dumps(row) for row in ROWS)),
        write(tmp_path / "a.tsv", quoted.replace(",", "\t").replace('"\t\n', '",\n')),
        write(tmp_path / "a.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n"),
        write(tmp_path / "a.json", json.dumps(ROWS)),
        tmp_path / "a.parquet",
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), paths[-1])
    for path in paths:
        rows = list(read_table(path))
        assert [dict(row.cells) for row in rows] == ROWS, path
        assert [row.number for row in rows] == [1, 2]
        assert not any(row.problem for row in rows)


def test_rows_inside_a_document(tmp_path: Path):
    document = {"x": {"rated": [{"a": 1}, {"a": 2}]}, "y": {"rated": [{"a": 3}]}, "list": [{"a": 4}]}
    path = write(tmp_path / "a.json", json.dumps(document))
    assert [row.cells["a"] for row in read_table(path, rows="*.rated.*")] == [1, 2, 3]
    assert [row.cells["a"] for row in read_table(path, rows="list.*")] == [4]
    with pytest.raises(ConfigError, match=r"rows='lists\.\*' finds no rows"):
        read_table(path, rows="lists.*")
    with pytest.raises(ConfigError, match=r"not a list of rows\nAt the top it holds: \['list', 'x', 'y'\]"):
        read_table(path)


def test_broken_rows_keep_their_place(tmp_path: Path):
    rows = list(read_table(write(tmp_path / "a.csv", "a,b\n1,2\n3\n4,5,6\n7,8\n")))
    assert [(row.number, row.problem) for row in rows if row.problem] == [
        (2, "1 cells under 2 columns"),
        (3, "3 cells under 2 columns"),
    ]
    lines = read_table(write(tmp_path / "a.jsonl", '{"a": 1}\n{"a": \n[1]\n{"a": 2}'))
    assert [row.number for row in lines if row.problem] == [2, 3]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", 'a,b\n"1"x,2\n', "cannot be read near line 2"),
        ("a.csv", "a,a\n1,2\n", "two columns 'a'"),
        ("a.json", "{", "is no JSON"),
        ("a.parquet", "text", "cannot be read as Parquet"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: str, message: str):
    with pytest.raises(DataError, match=message):
        list(read_table(write(tmp_path / name, content)))


def test_wrong_usage(tmp_path: Path):
    with pytest.raises(ConfigError, match="there is no table"):
        read_table(tmp_path / "absent.csv")
    with pytest.raises(ConfigError, match=r"format of 'a\.xls' is not known"):
        read_table(write(tmp_path / "a.xls", ""))
    assert next(iter(read_table(write(tmp_path / "a.txt", "a\n1\n"), kind="csv"))).cells == {"a": "1"}


def test_where_and_columns(tmp_path: Path):
    rows = read_table(write(tmp_path / "a.csv", "caption,source\nx,thumb\ny,other\n"))
    assert [matches(row, {"source": "thumb"}) for row in rows] == [True, False]
    assert [matches(row, {"source": ["thumb", "other"], "caption": ["y"]}) for row in rows] == [False, True]
    with pytest.raises(ConfigError, match=r"no column 'captoin' \(columns.caption\)\nDid you mean 'caption'"):
        require_columns(rows, [("columns.caption", "captoin"), ("columns.source", "source")])
