"""Marks: what a diff and a first sentence find in worked examples, and what holds of any texts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdpo.errors import DataError
from mmdpo.records import Candidate, Record, Records, load_records, save_records, user_message
from mmdpo.records.checks import validate_records
from mmdpo.records.marks import (
    MARKINGS,
    MarkedShare,
    mark_differences,
    mark_first_difference,
    mark_first_hallucinated,
    marked_share,
)


def bracketed(*texts: str) -> Record:
    """A record of these answers; what stands in brackets is a span."""
    candidates = []
    for text in texts:
        spans, plain = [], ""
        for number, piece in enumerate(text.replace("]", "[").split("[")):
            if number % 2:
                spans.append((len(plain), len(plain) + len(piece)))
            plain += piece
        candidates.append(Candidate(plain, spans=tuple(spans)))
    return Record("r", (user_message("What is shown?"),), tuple(candidates))


def unmarked(*texts: str) -> Record:
    return bracketed(*(text.replace("[", "").replace("]", "") for text in texts))


def shown(record: Record) -> list[str]:
    """The answers with their spans in brackets."""
    texts = []
    for candidate in record.candidates:
        text = candidate.text
        for start, end in reversed(candidate.spans):
            text = f"{text[:start]}[{text[start:end]}]{text[end:]}"
        texts.append(text)
    return texts


# --- words that differ ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(["A [red] bird.", "A [blue] bird."], id="a word"),
        pytest.param(["A [red] bird [sits].", "A [blue] bird [flies]."], id="two words"),
        pytest.param(["A [big red] bird.", "A [blue] bird."], id="a run is one span"),
        pytest.param(["A bird.", "A [red] bird."], id="inserted: nothing in the other"),
        pytest.param(["A bird [sits there].", "A bird."], id="left out"),
        pytest.param(["A cat.", "A cat. [There is also a dog.]"], id="a sentence with its full stop"),
        pytest.param(["The bird", "[There] the bird"], id="capitals are no difference"),
        pytest.param(["Yes!", "yes"], id="nor is punctuation"),
        pytest.param(["Red, green, blue", "red green blue"], id="nor are commas"),
        pytest.param(["It costs [3.5] euros", "It costs [35] euros"], id="a number is a word"),
        pytest.param(["It [isn't] red", "It [is] red"], id="an apostrophe joins"),
        pytest.param(["a dog—[red]—sits", "a dog—[blue]—sits"], id="a dash parts"),
        pytest.param(["“A [cat]”", "“A [dog]”"], id="quotes stay outside"),
        pytest.param(["[赤]い鳥がいる。", "[青]い鳥がいる。"], id="unspaced script by the letter"),
        pytest.param(["[हिन्दी] शब्द", "[नया] शब्द"], id="vowel signs belong to their word"),
        pytest.param(["[Yes]", "[No]"], id="nothing in common"),
        pytest.param(["A bird.", "A bird.  "], id="white space"),
        pytest.param(["A [red] bird.", "A [blue] bird.", "A red bird [sits]."], id="a list: each against the first"),
        pytest.param(["A [red] [bird].", "A [blue] bird.", "A red [cat]."], id="the first against all others"),
        pytest.param(["A [red bird].", "A [blue] bird.", "A [cat]."], id="which may overlap"),
        pytest.param(["A red bird."], id="nothing to compare with"),
    ],
)
def test_words_that_differ(answers: list[str]) -> None:
    assert shown(mark_differences(unmarked(*answers))) == answers


def test_earlier_marks_and_their_weights_are_replaced() -> None:
    record = bracketed("[A] red bird.", "A [blue bird].")
    weighted = replace(record, candidates=(record.chosen, replace(record.rejected, weights=(3.0,))))
    marked = mark_differences(weighted)
    assert shown(marked) == ["A [red] bird.", "A [blue] bird."]
    assert [candidate.weights for candidate in marked.candidates] == [(), ()]
    assert replace(marked, candidates=weighted.candidates) == weighted


# --- the first sentence that differs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(["A cat. [It sits.] It is red.", "A cat. [It runs.] It is red."], id="second of three"),
        pytest.param(["A cat.", "A cat. [It runs.]"], id="one answer ends before"),
        pytest.param(["a CAT! It sits", "A cat. It sits."], id="the same words"),
        pytest.param(["[It sits.] A cat.", "[It runs.] A cat."], id="the first"),
        pytest.param(["[It sits.]", "[It runs.]", "[It hops.] So."], id="a list"),
        pytest.param(["A cat. [It sits.]", "A cat. [It runs.]", "A cat. [It sits.] Yes."], id="a list with equal ones"),
        pytest.param(["A cat. It sits."], id="nothing to compare with"),
    ],
)
def test_the_first_sentence_that_differs(answers: list[str]) -> None:
    assert shown(mark_first_difference(unmarked(*answers))) == answers


@pytest.mark.parametrize(
    "sentences",
    [
        ["Mr. Smith has 3.5 apples.", "He eats."],
        ["No.", "It is no. 5 of them.", "See fig. 3 there."],
        ["He is in the U.S. Army.", "It is e.g. A dog."],
        ["It was John F. Kennedy.", "A. B. Clark sits.", "The answer is B.", "The dog sits."],
        ["1. A dog.", "2. A cat."],
        ["He said... and left.", "Really?!", "Yes!"],
        ['"A dog."', "(A cat.)", "**Bold.**", "End"],
    ],
)
def test_sentences_end_where_they_do(sentences: list[str]) -> None:
    """Every sentence is the first that differs where another word follows those before it."""
    text = " ".join(sentences)
    for place, sentence in enumerate(sentences):
        other = " ".join([*sentences[:place], "Zebra"])
        (span,) = mark_first_difference(unmarked(text, other)).chosen.spans
        assert text[slice(*span)] == sentence


@pytest.mark.parametrize(
    "answers",
    [
        ["Two animals\n[A dog]\nA cat", "Two animals\n[A cow]"],
        ["Two animals\n\n[A dog]", "Two animals\n[A cow]\n\n"],
        ["Two animals:\n[- A dog]\n- A cat", "Two animals:\n[- A cow]"],
    ],
)
def test_a_line_ends_a_sentence(answers: list[str]) -> None:
    assert shown(mark_first_difference(unmarked(*answers))) == answers


def test_sentences_of_unspaced_scripts() -> None:
    assert shown(mark_first_difference(unmarked("猫がいる。赤い！", "猫がいる。青い！はい。"))) == [
        "猫がいる。[赤い！]",
        "猫がいる。[青い！]はい。",
    ]


# --- the first sentence that somebody marked ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_marks", "expected"),
    [
        pytest.param(
            ["A cat. It sits. It is red.", "A cat. It [runs]. It is [blue]."],
            ["A cat. [It sits.] It is red.", "A cat. [It runs.] It is blue."],
            id="its whole sentence, and no later one",
        ),
        pytest.param(
            ["A pet. It sits.", "A cat. It [runs]."], ["A pet. [It sits.]", "A cat. [It runs.]"], id="the same place"
        ),
        pytest.param(["A cat.", "A cat. It [runs]."], ["A cat.", "A cat. [It runs.]"], id="the chosen one is shorter"),
        pytest.param(
            ["A cat. It sits.", "A [cat]. It [runs]."],
            ["A cat. [It sits.]", "A cat. [It runs.]"],
            id="a sentence of both is passed over",
        ),
        pytest.param(["A cat.", "A [cat]. It runs."], ["A cat.", "A cat. It runs."], id="only such a one"),
        pytest.param(["A [cat].", "A dog."], ["A cat.", "A dog."], id="spans of the chosen are not read"),
        pytest.param(
            ["It sits. So.", "It r[uns. N]o."], ["[It sits.] So.", "[It runs.] No."], id="a span over two sentences"
        ),
        pytest.param(
            ["A. So. No.", "[B]. So.", "A. So. [On]."], ["[A. So.] [No.]", "[B. So.]", "A. So. [On.]"], id="a list"
        ),
        pytest.param(["A [cat]."], ["A cat."], id="nothing to compare with"),
    ],
)
def test_the_first_marked_sentence(given_marks: list[str], expected: list[str]) -> None:
    assert shown(mark_first_hallucinated(bracketed(*given_marks))) == expected


def test_the_sentence_has_the_largest_weight_of_its_spans() -> None:
    record = bracketed("A dog.", "[A] [cat] [or]. [So].")
    weighted = replace(record, candidates=(record.chosen, replace(record.rejected, weights=(1.0, 3.0, 2.0, 9.0))))
    marked = mark_first_hallucinated(weighted)
    assert shown(marked) == ["[A dog.]", "[A cat or.] So."]
    assert (marked.chosen.weights, marked.rejected.weights) == ((), (3.0,))
    with pytest.raises(DataError, match="4 spans and 1 weights"):
        mark_first_hallucinated(replace(record, candidates=(record.chosen, replace(record.rejected, weights=(1.0,)))))


# --- what holds of any texts ----------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["a", "A", "red", "Red,", "bird", "bird.", "Dr.", "3.5", "isn't", "—", "鳥", "\n", "(so", "?)", ""]
)
TEXTS = st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=30)
FOUND_ALONE = ("difference", "first_difference")


def words_outside(candidate: Candidate) -> list[str]:
    """The words without a mark, letters and digits alone."""
    text = candidate.text
    for start, end in candidate.spans:
        text = text[:start] + " " * (end - start) + text[end:]
    pieces = "".join(f" {letter} " if letter in "—鳥" else letter for letter in text.casefold()).split()
    return [word for word in ("".join(filter(str.isalnum, piece)) for piece in pieces) if word]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(TEXTS, min_size=1, max_size=3), st.sampled_from(sorted(MARKINGS)))
def test_spans_lie_in_their_text_in_order_and_apart(texts: list[str], name: str) -> None:
    record = MARKINGS[name](Record("r", (user_message("?"),), tuple(map(Candidate, texts))))
    assert [candidate.text for candidate in record.candidates] == texts
    for candidate in record.candidates:
        edges = [edge for span in candidate.spans for edge in span]
        assert edges == sorted(set(edges))  # so none is empty, and none touches the next one
        assert all(0 <= edge <= len(candidate.text) for edge in edges)
        for start, end in candidate.spans:
            assert candidate.text[start:end] == candidate.text[start:end].strip()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(WORDS, max_size=12), st.lists(WORDS, max_size=12))
def test_the_words_that_are_not_marked_are_the_same(first: list[str], second: list[str]) -> None:
    record = mark_differences(unmarked(" ".join(first), " ".join(second)))
    assert words_outside(record.chosen) == words_outside(record.rejected)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(TEXTS, st.sampled_from(FOUND_ALONE))
def test_equal_texts_have_no_marks(text: str, name: str) -> None:
    record = MARKINGS[name](Record("r", (user_message("?"),), (Candidate(text), Candidate(text))))
    assert [candidate.spans for candidate in record.candidates] == [(), ()]


@pytest.mark.parametrize("name", sorted(MARKINGS))
def test_a_record_without_answers_stays_as_it_is(name: str) -> None:
    record = Record("r", (user_message("?"),), ())
    assert MARKINGS[name](record) == record


def test_given_marks_are_kept() -> None:
    record = bracketed("[A] cat.", "A [dog].")
    assert MARKINGS["given"](record) is record


# --- how much is marked ---------------------------------------------------------------------------------------------


def test_share_of_marked_words() -> None:
    records = [
        bracketed("A [red] bird.", "A [blue b]ird."),  # 1 of 3, 2 of 3: one begun counts
        bracketed("A red bird sits.", "A red bird sits!"),
        bracketed("One[,] two", "[Three four]", "Five"),  # punctuation is no word
    ]
    share = marked_share(records)
    assert share.records == pytest.approx(2 / 3)
    assert share.chosen == pytest.approx((1 / 3 + 0 + 0) / 3)
    assert share.rejected == pytest.approx((2 / 3 + 0 + 1 + 0) / 4)
    assert marked_share([]) == MarkedShare(0.0, 0.0, 0.0)
    (liked,), (disliked,) = bracketed("[A] cat.").candidates, bracketed("[A cat].").candidates
    singles = [
        replace(records[0], candidates=(candidate,))
        for candidate in (replace(liked, label=True), replace(disliked, label=False))
    ]
    assert marked_share(singles) == MarkedShare(1.0, 0.5, 1.0)


# --- weights on disk ------------------------------------------------------------------------------------------------


def severe(weights: tuple[float, ...]) -> Record:
    record = bracketed("A cat.", "A [big] [dog].")
    return replace(record, candidates=(record.chosen, replace(record.rejected, weights=weights)))


def test_weights_survive_the_disk(tmp_path: Path) -> None:
    records = Records([severe((0.5, 2.0)), replace(severe(()), id="b")])
    assert list(load_records(save_records(records, tmp_path / "out"))) == list(records)


def test_data_without_weights_is_read_and_stored_as_before(tmp_path: Path) -> None:
    from mmdpo.records.rows import from_row, to_row

    row = to_row(severe(()), "pair", [], None, False)
    details = json.loads(row["details"])
    assert details["candidates"] == [{}, {"spans": [[2, 5], [6, 9]]}]
    assert from_row(row, 0) == severe(())


def test_fingerprints_of_older_data_are_kept_and_weights_change_them() -> None:
    record = Record("a", (user_message("What is shown?"),), (Candidate("A cat.", spans=((2, 5),)), Candidate("A dog.")))
    before = "621eb602cc0e1dc764d84a448d27e26382d59f115c457f1a0e35598e8b6f2094"  # by version 0.1, before weights
    assert Records([record]).fingerprint() == before
    weighted = [replace(record, candidates=(replace(record.chosen, weights=(w,)), record.rejected)) for w in (1.0, 2.0)]
    assert len({before, *(Records([each]).fingerprint() for each in weighted)}) == 3


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0,), "candidate 1 has 2 spans and 1 weights"),
        ((1.0, float("nan")), "candidate 1 has a span of weight nan"),
        ((1.0, float("inf")), "candidate 1 has a span of weight inf"),
        ((-0.5, 1.0), "candidate 1 has a span of weight -0.5"),
    ],
)
def test_weights_that_cannot_be(weights: Any, message: str) -> None:
    (problem,) = validate_records(Records([severe(weights)]))
    assert problem.kind == "bad_span" and problem.message.startswith(message)
    assert not validate_records(Records([severe((0.0, 3.0))]))
