"""`mmdpo show`: every form of record, wide letters, and texts that try to steer the terminal."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmdpo.cli import app
from mmdpo.records import Candidate, Record, Records, save_records, user_message
from mmdpo.report import write_records_page


def shown(tmp_path: Path, *candidates: Candidate, prompt: str = "What?") -> str:
    record = Record("r1", (user_message(prompt),), candidates, higher_is_better=True)
    save_records(Records([record]), tmp_path / "data")
    result = CliRunner().invoke(app, ["show", str(tmp_path / "data")], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize(
    ("candidates", "lines"),
    [
        (
            (Candidate("A red dog.", score=4.5), Candidate("A red cat.", score=1)),
            ["chosen: A red dog.  (4.5)", "rejected: A red cat.  (1)"],
        ),
        ((Candidate("Yes.", label=True),), ["candidate 1: Yes.  (desirable)"]),
        ((Candidate("No.", label=False),), ["candidate 1: No.  (undesirable)"]),
        (
            tuple(Candidate(text, rank=3 - n) for n, text in enumerate("abc")),
            ["candidate 1: a  (rank 3)", "candidate 2: b  (rank 2)", "candidate 3: c  (rank 1)"],
        ),
        ((Candidate("犬がいる。🐕"), Candidate("猫がいる。")), ["chosen: 犬がいる。🐕", "rejected: 猫がいる。"]),
    ],
)
def test_every_form(tmp_path: Path, candidates: tuple[Candidate, ...], lines: list[str]):
    told = [line.strip() for line in shown(tmp_path, *candidates).splitlines()]
    assert [line for line in told if line.startswith(("chosen", "rejected", "candidate"))] == lines


def test_a_page_tells_how_single_answers_are_labelled(tmp_path: Path):
    texts = {"One dog.": True, "Two dogs.": False, "No dog.": None}
    records = [
        Record(f"r{n}", (user_message("What?"),), (Candidate(text, label=label),))
        for n, (text, label) in enumerate(texts.items())
    ]
    page = write_records_page(Records(records), tmp_path / "page.html").read_text(encoding="utf-8")
    told = re.findall(r'<dt>([^<]*)</dt>\s*<dd class="([^"]*)">([^<]*)</dd>', page)
    names = ["desirable", "undesirable", "candidate 1"]
    assert told == [(name, name, text) for name, text in zip(names, texts, strict=True)]


def test_no_text_steers_the_terminal(tmp_path: Path):
    out = shown(tmp_path, Candidate("a\x1b[31m \u202eb [red]c[/red]\nd"), Candidate("x" * 300), prompt="one\ntwo\x07")
    assert "\x1b" not in out and "\x07" not in out and "\u202e" not in out  # nor colours: this is no terminal
    assert "a\\x1b[31m \\u202eb [red]c[/red]" in out and "x" * 300 in out
    assert "  prompt: one\n    two\\x07\n" in out
