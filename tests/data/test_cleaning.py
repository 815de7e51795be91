"""Cleaners: what each changes and leaves, marks that go along, records that are set aside, and the account."""

import functools
import unicodedata
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_builders.base import Builder, BuilderConfig, Work
from data_builders.care.cleaners import CLEANERS, apply
from data_builders.care.cleaning import Cleaning
from data_builders.running.build import BuildResult, build
from data_builders.running.ledger import Ledger
from mmdpo.errors import ConfigError, DataError
from mmdpo.records import Candidate, Record, user_message
from mmdpo.registry import builders


def cleaned(name: str, text: str) -> str:
    return apply(text, CLEANERS[name].edits(text))  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("unicode", "cafe\u0301 au lait", "caf\u00e9 au lait"),
        ("unicode", "\u1112\u1161\u11ab", "\ud55c"),  # Korean letters to a syllable
        ("unicode", "\ufb01ne \u2460", "\ufb01ne \u2460"),  # NFC, not NFKC: ligatures and circled digits stay
        ("control", "a\x00b\x07 \ufeffc\tx\ny\u2028z", "ab c\tx\ny\nz"),
        ("control", "\U0001f469\u200d\U0001f373", "\U0001f469\u200d\U0001f373"),  # an emoji of three parts
        ("html", "<p>A <b>red</b> bus.<br/>Two&nbsp;dogs &amp; a cat.</p>", "A red bus.\nTwo\xa0dogs & a cat.\n"),
        ("html", '<a href="x">link</a><!-- no --><script>x < y</script>', "link"),
        ("html", "<image> 3 < 4 > 2 <unk> </s> <video> &foo; a&b", "<image> 3 < 4 > 2 <unk> </s> <video> &foo; a&b"),
        ("html", "<s>old</s> new", "old new"),
        ("boilerplate", "As an AI language model, the photo shows a dog.", "The photo shows a dog."),
        ("boilerplate", "Sure! Here is a description of the image: A dog.", "A dog."),
        ("boilerplate", "A dog. I hope this helps! ", "A dog."),
        ("boilerplate", "Certainly, a dog is there as an AI, too.", "Certainly, a dog is there as an AI, too."),
        ("boilerplate", "Sure footing matters. Here is the dog.", "Sure footing matters. Here is the dog."),
        ("repeats", "A dog and a dog and a dog and a dog.", "A dog and a dog."),
        ("repeats", "The man sits on it. The man sits on it. Fine.", "The man sits on it. Fine."),
        ("repeats", "very, very, very big", "very, very, very big"),
        ("repeats", "no no no no no", "no"),
        ("truncated", "A dog runs. Behind it a man in a", "A dog runs."),
        ("truncated", "a dog on a beach", "a dog on a beach"),
        ("truncated", "A photo of Mr. Smith in the garden", "A photo of Mr. Smith in the garden"),
        ("truncated", "Seen:\n- A dog. Brown\n- A cat", "Seen:\n- A dog. Brown\n- A cat"),
        ("truncated", 'He said "Stop." Then he', 'He said "Stop."'),
        ("whitespace", "  a \t b\r\n\r\n\r\n\r\nc  \n  d\u00a0e \n", "a b\n\nc\n  d e"),
    ],
)
def test_what_each_cleaner_does(name: str, before: str, after: str):
    assert cleaned(name, before) == after


TEXTS = st.text(st.sampled_from("aE\u0301 \u1112\u1161\u11ab\t\n\r.,!<b>/&;x\u00a0\u3000\u0928\u093c\u0bc6\u0bbe"))


@given(TEXTS)
def test_unicode_is_nfc(text: str):
    assert cleaned("unicode", text) == unicodedata.normalize("NFC", text)


@given(TEXTS, st.sampled_from(sorted(CLEANERS)))
def test_edits_stand_in_their_order_and_each_changes_something(text: str, name: str):
    edits = list(CLEANERS[name].edits(text))  # type: ignore[index]
    place = 0
    for edit in edits:
        assert place <= edit.start < edit.end <= len(text)
        assert text[edit.start : edit.end] != edit.text
        place = edit.end
    if name in ("unicode", "control", "whitespace", "truncated"):
        assert cleaned(name, cleaned(name, text)) == cleaned(name, text)


def every_span(text: str) -> list[tuple[str, int, int]]:
    return [(text, start, end) for start, end in combinations(range(len(text) + 1), 2)]


def all_examples(cases: list[tuple[str, int, int]]) -> Callable[[Any], Any]:
    return lambda test: functools.reduce(lambda made, case: example(case)(made), cases, test)


@all_examples([*every_span("E\u0301\u0301;"), *every_span("\u00c9\u0301;")])  # marks that cut a letter
@given(TEXTS.filter(lambda text: len(text) > 3).flatmap(lambda text: st.sampled_from(every_span(text))))
def test_marks_keep_their_words(case: tuple[str, int, int]):
    text, start, end = case
    record = pair(Candidate(text, spans=((start, end),)))
    (one, *_) = all_cleaned(record, "whitespace", "unicode", "control").candidates
    ((new_start, new_end),) = one.spans
    assert 0 <= new_start < new_end <= len(one.text)
    assert _letters(one.text[new_start:new_end]) == _letters(text[start:end])
    assert _letters(one.text) == _letters(text)


def _letters(text: str) -> list[str]:
    """Base letters and punctuation, which these cleaners leave as they are."""
    return [letter for letter in unicodedata.normalize("NFD", text) if letter in "aExb.,!<>/&;\u0928\u1112\u1161"]


def pair(first: Candidate, **fields: Any) -> Record:
    prompt = (user_message("What is it?"),)
    return Record("1", prompt, (first, Candidate("A cat.")), **fields)


def all_cleaned(record: Record, *names: Any) -> Record:
    found = Cleaning(names, Ledger()).clean(record)
    return record if found is None else found


def test_a_change_moves_marks_and_drops_the_ids_of_a_model():
    text = "A  dog  <b>runs</b>. It"
    dog, runs = (text.index("dog"), text.index("dog") + 3), (text.index("runs"), text.index("runs") + 4)
    ledger = Ledger()
    cleaning = Cleaning(["whitespace", "truncated", "html"], ledger)
    before = pair(Candidate(text, spans=(dog, runs), weights=(1.0, 2.0), token_ids=(5, 6), finished=True))
    record = cleaning.clean(before)
    assert record is not None and record.id == before.id
    first, second = record.candidates
    assert first.text == "A dog runs."
    assert [first.text[start:end] for start, end in first.spans] == ["dog", "runs"] and first.weights == (1.0, 2.0)
    assert first.token_ids is None and first.finished is False  # cut, so no end of answer is learned there
    assert second == before.candidates[1]
    numbers = cleaning.numbers()["by_cleaner"]
    assert [numbers[name]["candidates"] for name in ("html", "truncated", "whitespace")] == [1, 1, 1]
    assert list(numbers) == ["html", "truncated", "whitespace"]
    assert numbers["html"]["token_ids_dropped"] == 1
    assert numbers["html"]["examples"] == [
        {"record": "1", "where": "candidate 1", "before": text, "after": "A  dog  runs. It"}
    ]


def test_what_would_take_a_mark_away_is_left_and_counted():
    cleaning = Cleaning(["html", "truncated"], Ledger())
    text = "It is <b>. A do"
    record = cleaning.clean(pair(Candidate(text, spans=((6, 9), (13, 15)))))
    assert record is not None and record.candidates[0].text == text
    numbers = cleaning.numbers()["by_cleaner"]
    assert (numbers["html"]["left_for_marks"], numbers["truncated"]["left_for_marks"]) == (1, 1)
    assert numbers["html"]["candidates"] == 0 and cleaning.notes() == []


class WordsConfig(BuilderConfig):
    """Pairs of answers, one a row; rows in `again` are in a second record, too."""

    answers: list[tuple[str, str]]
    again: tuple[int, ...] = ()


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Words(Builder[WordsConfig]):
        """Pairs."""

        Config = WordsConfig

        def records(self, config: WordsConfig, work: Work) -> Any:
            for row, (chosen, rejected) in enumerate(config.answers, start=1):
                work.ledger.read(row)
                work.ledger.use(row)
                candidates = (Candidate(chosen), Candidate(rejected))
                yield Record(f"r{row}", (user_message("What?"),), candidates, meta={"rows": [[row], [row]]})
                if row in config.again:
                    yield Record(
                        f"again{row}", (user_message("Why?"),), (Candidate("x"), Candidate("y")), {}, None, {"row": row}
                    )

    monkeypatch.setitem(builders._entries, "words", Words)


def run(tmp_path: Path, answers: list[tuple[str, str]], **config: Any) -> BuildResult:
    return build("words", {"answers": answers, "validation": 0, **config}, tmp_path / "out")


ANSWERS = [("<p> </p>", "b"), ("a  dog", "a dog"), ("same <b>", "other"), ("<br>", "z"), ("cafe\u0301", "tea")]


@pytest.mark.usefixtures("words")
def test_emptied_and_equal_answers_are_set_aside_with_their_rows(tmp_path: Path):
    result = run(tmp_path, ANSWERS, again=[4], clean=["whitespace", "html"])
    assert [record.id for record in result.records] == ["r3", "again4", "r5"]
    assert result.records[0].chosen.text == "same"
    quality = result.quality
    assert quality["rows"] == {"read": 5, "used": 3, "set_aside": 2}  # row 4 is in a record still
    assert quality["set_aside"] == {"emptied_by_cleaning": 1, "equal_after_cleaning": 1}
    assert quality["set_aside_values"] == {"emptied_by_cleaning": 1}
    assert [(entry.reason, entry.row) for entry in result.set_aside] == [
        ("emptied_by_cleaning", 1),
        ("equal_after_cleaning", 2),
        ("emptied_by_cleaning", 4),
    ]
    assert quality["cleaning"]["records_changed"] == 4
    assert quality["cleaning"]["records_set_aside"] == {"emptied_by_cleaning": 2, "equal_after_cleaning": 1}
    (note,) = quality["notes"]
    assert "cleaning changed 4 records (html 3 answers and 0 prompts, whitespace" in note and "3 of them" in note


@pytest.mark.usefixtures("words")
def test_by_default_only_unicode_is_composed(tmp_path: Path):
    result = run(tmp_path, ANSWERS)
    assert [record.chosen.text for record in result.records] == ["<p> </p>", "a  dog", "same <b>", "<br>", "caf\u00e9"]
    assert result.quality["cleaning"]["by_cleaner"]["unicode"]["candidates"] == 1


@pytest.mark.usefixtures("words")
def test_cleaning_can_be_off_one_or_wrong(tmp_path: Path):
    assert run(tmp_path / "off", ANSWERS, clean=[]).records[-1].chosen.text == "cafe\u0301"
    assert run(tmp_path / "one", ANSWERS[:2], clean="control").quality["cleaning"]["records_changed"] == 0
    with pytest.raises(ConfigError, match="clean"):
        run(tmp_path / "wrong", ANSWERS, clean=["soap"])
    with pytest.raises(DataError, match="bad rows: 1 emptied_by_cleaning"):
        build("words", {"answers": ANSWERS[:1], "clean": ["html"]}, tmp_path / "strict", strict=True)
    assert not (tmp_path / "strict").exists()


def test_prompts_are_cleaned_where_that_suits_them():
    prompt = (user_message("As an AI, what  is\x00 it&quest;", images=1),)
    record = Record("1", prompt, (Candidate("a"), Candidate("b")))
    found = all_cleaned(record, *CLEANERS)
    assert found.prompt == (user_message("As an AI, what is it?", images=1),)
    assert prompt[0]["content"][1]["text"] == "As an AI, what  is\x00 it&quest;"  # the old one is as it was
    emptied = Record("1", (user_message("<b></b>"),), (Candidate("a"), Candidate("b")))
    assert Cleaning(["html"], Ledger()).clean(emptied) is None


@pytest.mark.timeout(20)
def test_hostile_texts_take_no_time():
    for text in (
        "<!--" * 20_000,
        "." * 20_000,
        "a." * 20_000,
        "<script>" * 5_000,
        "&" * 100_000,
        "<b" * 50_000,
        "a " * 5_000,
        " \n" * 50_000,
    ):
        for cleaner in CLEANERS.values():
            list(cleaner.edits(text))
