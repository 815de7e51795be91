"""Lines that are appended: half a line that a killed process left swallows nothing, wherever lines are appended."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_builders.running.journal import Journal
from mmdpo.answering.answer_file import AnswerFile
from mmdpo.jsonfiles import append_json_line, cut_json_lines, end_last_line, read_json_lines
from mmdpo.shard import Shard

HALVES = [b'{"key": "b", "te', '{"key": "b", "text": "\u00e9'.encode()[:-1]]


@pytest.mark.parametrize("half", HALVES)
def test_a_line_after_half_a_line_is_whole(tmp_path: Path, half: bytes) -> None:
    path = tmp_path / "lines.jsonl"
    append_json_line(path, {"key": "a"})
    with path.open("ab") as file:
        file.write(half)
    append_json_line(path, {"key": "c", "text": "\u00e9"})
    append_json_line(path, {"key": "d"})
    read = read_json_lines(path)
    assert read.rows == [{"key": "a"}, {"key": "c", "text": "\u00e9"}, {"key": "d"}]
    assert read.unreadable == 1
    assert path.read_bytes().count(b"\n") == 4, "no empty line where nothing was torn"


def test_where_the_next_line_begins(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert end_last_line(path) == 0
    path.write_bytes(b"{}\n{")
    assert end_last_line(path) == 5
    assert end_last_line(path) == 5


def test_lines_are_taken_out_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert cut_json_lines(path, lambda row: True) == 0
    assert not path.exists()
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert cut_json_lines(path, lambda row: row["step"] <= 1) == 2
    assert path.read_bytes() == b'{"step": 1}\n'


@pytest.mark.parametrize("half", HALVES)
def test_a_journal_finds_its_rows_after_a_torn_one(tmp_path: Path, half: bytes) -> None:
    """Torn by a process before this one, and by this one, whose disk was full for a moment."""
    path = tmp_path / "answers.part-0.journal.jsonl"
    path.write_bytes(half)
    journal = Journal(tmp_path, "answers", Shard())
    journal.add("c", {"text": "first"})
    with path.open("ab") as file:
        file.write(half)
    journal.add("d", {"text": "second"})
    again = Journal(tmp_path, "answers", Shard())
    for one in (journal, again):
        assert (one["c"]["text"], one["d"]["text"]) == ("first", "second")
        assert "b" not in one


@pytest.mark.parametrize("half", HALVES)
def test_a_torn_answer_is_asked_again_and_swallows_no_other(tmp_path: Path, half: bytes) -> None:
    (tmp_path / "answers.part-0.jsonl").write_bytes(b'{"key": "a"}\n' + half)
    file = AnswerFile(tmp_path, "key", {})
    assert file.done == {"a"}
    file.add({"key": "b"})
    assert AnswerFile(tmp_path, "key", {}).done == {"a", "b"}
