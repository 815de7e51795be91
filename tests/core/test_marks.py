"""Spans in characters to marks and weights of tokens, for all tokenizers and all ways in which answers become ids."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from core.encoders import encoder_of, every_family
from core.oracle import record
from mmdpo.encoding.example import Encoder
from mmdpo.encoding.rendering import EncodedAnswer
from mmdpo.encoding.token_marks import token_offsets
from mmdpo.errors import DataError
from mmdpo.models.families import facts_of
from mmdpo.playground.tokenizer import build_tokenizer
from mmdpo.records import Candidate
from tiny import FAMILIES


def encoded(encoder: Encoder, text: str, *marked: str, **fields: Any) -> EncodedAnswer:
    """The answer with the first occurrence of each of these stretches marked."""
    spans = tuple((text.index(stretch), text.index(stretch) + len(stretch)) for stretch in marked)
    candidate = Candidate(text, spans=spans, **fields)
    return encoder.answer(record("r", "What is it?", [text]), candidate)


def letters(text: str) -> str:
    return "".join(text.split())


def letters_of_tokens(tokenizer: Any, ids: list[int], text: str) -> list[tuple[int, int]]:
    """Which letters of the text each token spells, told from the decoding of every beginning of the answer.

    A beginning that ends within a character is no beginning of the whole; its token goes with its neighbours.
    """
    whole = letters(tokenizer.decode(ids, skip_special_tokens=True))
    assert whole.endswith(letters(text))
    cuts = [letters(tokenizer.decode(ids[:n], skip_special_tokens=True)) for n in range(len(ids) + 1)]
    lengths = [len(cut) if whole.startswith(cut) else None for cut in cuts]
    before = len(whole) - len(letters(text))
    found = []
    for n in range(len(ids)):
        low = next(length for length in lengths[n::-1] if length is not None)
        high = next(length for length in lengths[n + 1 :] if length is not None)
        found.append((low - before, high - before))
    return found


CASES = [
    pytest.param("A red bird sits on the mat.", "red bird", id="words"),
    pytest.param("  A red bird", "red", id="leading spaces"),
    pytest.param("A red\n\nbird  sits\n", "bird", id="line feeds"),
    pytest.param("Five 鳥🙂鳥 and ünï ✓✗ signs", "🙂鳥 and ün", id="characters of several bytes"),
    pytest.param("An unbelievable animal", "believ", id="within a word"),
    pytest.param("It says </s><|im_end|> there", "<|im_end|>", id="text of control tokens"),
    pytest.param("bird bird bird", "bird", id="the first of equal words"),
]


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Encoder:
    tiny = FAMILIES[request.param]()
    return Encoder(tiny.processor, facts_of(tiny.model), tiny.stop_ids)


@pytest.mark.parametrize(("text", "marked"), CASES)
@pytest.mark.parametrize("finished", [True, False])
def test_marked_tokens_are_those_with_a_letter_of_the_span(
    family: Encoder, text: str, marked: str, finished: bool
) -> None:
    answer = encoded(family, text, marked, finished=finished)
    ids, marks = answer.ids.tolist(), answer.marks.tolist()
    if finished:
        assert marks.pop() is (text.index(marked) + len(marked) >= len(text.rstrip()))
        ids.pop()
    start = len(letters(text[: text.index(marked)]))
    end = start + len(letters(marked))
    spelled = letters_of_tokens(family.tokenizer, ids, text)
    expected = [low < end and high > start for low, high in spelled]
    assert any(expected)
    for (low, high), mark, wanted in zip(spelled, marks, expected, strict=True):
        assert mark == wanted or low == high  # white space has no letters; see below


@pytest.mark.parametrize(("text", "marked"), CASES)
def test_given_ids_are_marked_too(family: Encoder, text: str, marked: str) -> None:
    """One id for each letter (or byte), as nothing but sampling would give."""
    tokenizer = family.tokenizer
    ids = [
        token
        for letter in text.strip()
        for token in tokenizer.encode(letter, add_special_tokens=False)[-len(letter.encode()) :]
    ]
    answer = encoded(family, text, marked, token_ids=tuple(ids), finished=False)
    assert answer.way == "given" and answer.ids.tolist() == ids
    start = len(letters(text[: text.index(marked)]))
    end = start + len(letters(marked))
    for (low, high), mark in zip(letters_of_tokens(tokenizer, ids, text), answer.marks.tolist(), strict=True):
        assert mark == (low < end and high > start) or low == high


def shown(encoder: Encoder, answer: EncodedAnswer) -> list[str]:
    """The tokens, marked ones in brackets."""
    tokens = encoder.tokenizer.convert_ids_to_tokens(answer.ids.tolist())
    return [f"[{token}]" if mark else token for token, mark in zip(tokens, answer.marks.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("name", "text", "marked", "expected"),
    [
        ("llava", "A bird.", ["bird"], "▁A [▁bird] . </s>"),
        ("llava", "A bird.", ["ird"], "▁A [▁bird] . </s>"),
        ("llava", "A bird.", ["A "], "[▁A] [▁bird] . </s>"),  # the space is part of the next word's token
        ("llava", "A bird.", ["bird."], "▁A [▁bird] [.] [</s>]"),
        ("llava", "鳥 bird", ["鳥"], "▁ [<0xE9>] [<0xB3>] [<0xA5>] ▁bird </s>"),
        ("qwen2_5_vl", "A  bird  ", ["bird"], "A Ġ [Ġbird] Ġ Ġ [<|im_end|>]"),
        ("qwen2_5_vl", "A  bird", [" bird"], "A Ġ [Ġbird] [<|im_end|>]"),
        ("qwen2_5_vl", "A  bird.\n\nA", ["bird"], "A Ġ [Ġbird] .ĊĊ A <|im_end|>"),
        ("qwen2_5_vl", "A bird.\n\nA", ["\n\nA"], "A Ġbird [.ĊĊ] [A] [<|im_end|>]"),
        ("gemma3", "  A bird ", [" bird"], "A [▁bird] [<end_of_turn>]"),  # its template trims the answer
        ("gemma3", "  A bird ", ["  "], "A ▁bird <end_of_turn>"),
        ("idefics3", " A bird", ["A"], "Ġ [ĠA] Ġbird <end_of_utterance>"),  # it writes a space before the answer
    ],
)
def test_worked_examples(name: str, text: str, marked: list[str], expected: str) -> None:
    encoder, _ = encoder_of(name)
    assert shown(encoder, encoded(encoder, text, *marked)) == expected.split()


def test_an_answer_in_context_after_an_open_thought() -> None:
    """What the template writes before the answer is not marked, though it spells the marked letters as well."""
    encoder, _ = encoder_of("qwen2_5_vl")
    ids = encoder.tokenizer.encode("think\n\nthink", add_special_tokens=False)
    offsets = token_offsets(encoder.tokenizer, ids, "think")
    half = next(n for n in range(len(ids)) if encoder.tokenizer.decode(ids[:n]) == "think\n\n")
    assert all(start == end for start, end in offsets[:half])
    assert "".join("think"[start:end] for start, end in offsets[half:]) == "think"
    boundary = encoded(encoder, "\n\nA bird.", "bird")
    assert boundary.way == "context" and shown(encoder, boundary) == ["ĊĊ", "A", "[Ġbird]", ".", "<|im_end|>"]


@every_family
def test_a_text_that_holds_the_replacement_character(name: str) -> None:
    """Decoders write it for half characters too: what follows it may be marked with it, and nothing before it."""
    encoder, _ = encoder_of(name)
    text = "A bird \ufffd sits"
    answer = encoded(encoder, text, "sits", finished=False)
    marked = answer.ids[answer.marks].tolist()
    assert answer.marks[-len(marked) :].all()
    assert encoder.tokenizer.decode(marked).strip("\ufffd ") == "sits"


@pytest.mark.parametrize(("marked", "expected"), [("bird", [False, True]), ("cafe\u0301", [True, False])])
def test_a_tokenizer_that_composes_letters(marked: str, expected: list[bool]) -> None:
    """Qwen's normalises texts (NFC): e and its accent become one letter, which spells neither of the two."""
    encoder, _ = encoder_of("qwen2_5_vl")
    answer = encoded(encoder, "A cafe\u0301 or bird", marked, finished=False)
    tokens = encoder.tokenizer.convert_ids_to_tokens(answer.ids.tolist())
    of_accent, of_bird = (answer.marks[tokens.index(token)].item() for token in ("©", "Ġbird"))
    assert encoder.tokenizer.decode(answer.ids) == "A caf\u00e9 or bird"
    assert [of_accent, of_bird] == expected
    assert not answer.marks[0]


def test_unknown_words_have_what_lies_between_their_neighbours() -> None:
    tokenizer = build_tokenizer(["a", "red", "bird", "sits", "."])
    for text, expected in {
        "a red zebra sits .": ["a", "red", "zebra", "sits", "."],
        "a big fat bird": ["a", "big fat", "big fat", "bird"],
        "big bird so": ["big", "bird", "so"],
    }.items():
        ids = tokenizer.encode(text, add_special_tokens=False)
        places = [text[start:end].strip() for start, end in token_offsets(tokenizer, ids, text)]
        assert places == expected


@every_family
def test_without_spans_nothing_is_marked_and_no_offset_is_looked_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, _ = encoder_of(name)
    monkeypatch.setattr("mmdpo.encoding.token_marks.token_offsets", None)
    answer = encoded(encoder, "A red bird.")
    assert answer.marks.dtype == torch.bool and answer.weights.dtype == torch.float32
    assert answer.marks.tolist() == [False] * len(answer.ids)
    assert answer.weights.tolist() == [1.0] * len(answer.ids)


def test_weights_of_spans_and_of_overlaps() -> None:
    encoder, _ = encoder_of("llava")
    text = "A bird. There is a bird."
    of = record("r", "What is it?", [text])
    candidate = Candidate(text, spans=((0, 7), (2, 6), (8, 24)), weights=(2.0, 0.5, 0.0))
    answer = encoder.answer(of, candidate)
    tokens = encoder.tokenizer.convert_ids_to_tokens(answer.ids.tolist())
    assert tokens == ["▁A", "▁bird", ".", "▁There", "▁is", "▁a", "▁bird", ".", "</s>"]
    assert answer.weights.tolist() == [2, 2, 2, 0, 0, 0, 0, 0, 0]
    assert answer.marks.all()
    swapped = replace(candidate, spans=candidate.spans[::-1], weights=candidate.weights[::-1])
    assert torch.equal(encoder.answer(of, swapped).weights, answer.weights)
    unweighted = encoder.answer(of, replace(candidate, spans=((2, 6),), weights=()))
    assert unweighted.marks.tolist() == [False, True] + [False] * 7
    assert unweighted.weights.tolist() == [1.0] * 9


@pytest.mark.parametrize(
    ("spans", "weights", "message"),
    [
        (((0, 9),), (), "7 characters and a span 0..9"),
        (((0, 2),), (1.0, 2.0), "1 spans and 2 weights"),
        ((), (1.0,), "0 spans and 1 weights"),
        (((0, 2),), (float("nan"),), "a span of weight nan"),
        (((0, 2),), (-1.0,), "a span of weight -1.0"),
    ],
)
def test_spans_and_weights_that_cannot_be_are_refused(spans: Any, weights: Any, message: str) -> None:
    encoder, _ = encoder_of("llava")
    of = record("r", "What is it?", ["A bird."])
    with pytest.raises(DataError, match=message):
        encoder.answer(of, Candidate("A bird.", spans=spans, weights=weights))
