"""Files as people have them: other encodings, folders, keys that stand twice, texts that are none."""

from pathlib import Path
from typing import Any

import pytest

from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.shared.files import read_json, read_rows, read_text, required_texts
from mmdpo.evals.shared.options import check_choice, check_file_name, check_function, file_name

ROW = '{"answer": "são 狗"}\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_that_say_what_they_are(tmp_path: Path, encoding: str, end: str) -> None:
    (tmp_path / "a.jsonl").write_bytes((ROW * 2).replace("\n", end).encode(encoding))
    assert read_rows(tmp_path / "a.jsonl") == [{"answer": "são 狗"}] * 2


def test_big_endian_with_its_mark(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xfe\xff" + ROW.encode("utf-16-be"))
    assert read_json(tmp_path / "a.json") == {"answer": "são 狗"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ROW.encode("utf-16-be"), "is not UTF-8 text"),
        ('{"answer": "no"}'.encode("utf-16-le"), "holds zero bytes, the first at character 2"),
        (b"\xff\xfe\x00", "is not UTF-16 text: truncated data"),
        (b"\x00" * 9, "holds zero bytes, the first at character 1"),
        (b"9" * 5000, "is not JSON: Exceeds the limit"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b'{"b": 1, "a": 2, "a": 2}', "an object has the key 'a' twice"),
        (b'{"1": ["dog"], "2": {"x": 1, "x": 2}}', "an object has the key 'x' twice"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_json(tmp_path / "a.json")


def test_a_zero_byte_that_is_written_as_json_writes_it(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('"\\u0000"')
    assert read_json(tmp_path / "a.json") == "\0"


def test_folders_and_names_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        read_text(tmp_path)
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        read_text(tmp_path / ("a" * 5000))


@pytest.mark.parametrize(("row", "expected"), [({"text": "A", "q": "B"}, "A"), ({"q": "B"}, "B")])
def test_the_first_key_that_a_row_has_counts(row: dict[str, Any], expected: str) -> None:
    assert required_texts(row, {"text": ("text", "q")}, "question 1", fix="") == {"text": expected}


@pytest.mark.parametrize("text", [None, "", " \n", 5, float("nan"), ["a"], {"a": "b"}])
def test_texts_that_are_none(text: Any) -> None:
    with pytest.raises(DataError, match=r"question 7 of 'q\.json' lacks text, label") as caught:
        required_texts(
            {"text": text, "a": "b"}, {"text": ("text",), "label": ("label",)}, "question 7 of 'q.json'", fix="F"
        )
    assert caught.value.fix == "F"


# -- options ----------------------------------------------------------------------------------------------------------


def test_choices_and_functions() -> None:
    check_choice("pope", "parser", "vcd", ["official", "vcd"], "")
    with pytest.raises(ConfigError, match="unknown parser 'vdc' for pope\nDid you mean 'vcd'"):
        check_choice("pope", "parser", "vdc", ["official", "vcd"], "")
    check_function("chair", "lemmatize", None)
    check_function("chair", "lemmatize", str.split)
    with pytest.raises(ConfigError, match="lemmatize 'split' of chair is no function"):
        check_function("chair", "lemmatize", "split")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "no place for the id"),
        ("{{id}}.jpg", "no place for the id"),
        ("{id.__class__}", "no place for the id"),
        ("{name}", "is no pattern: 'name'"),
        ("{}", "is no pattern"),
        ("{id", "is no pattern"),
        ("{id.name}", "is no pattern"),
        ("{id[a]}", "is no pattern"),
        ("{id:d}", "is no pattern"),
    ],
)
def test_patterns_that_name_no_image(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_file_name("image_name", pattern)


def test_patterns() -> None:
    check_file_name("image_name", None)
    check_file_name("image_name", "COCO_{id:0>12}.jpg")
    assert file_name("COCO_{id:0>12}.jpg", 42, "a.jpg") == "COCO_000000000042.jpg"
    assert file_name(None, 42, "a.jpg") == "a.jpg"
