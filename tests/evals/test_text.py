"""Tokens, singulars and punctuation, against worked cases and nltk's own tokenizer where it is installed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdpo.evals.text import singular, strip_punctuation, tokens

VOCABULARY = {
    *("bus", "tennis", "glass", "tie", "ski", "skis", "knife", "person", "people", "man", "woman", "child", "goose"),
    *("couch", "sandwich", "bench", "sheep", "puppy", "potato", "calf", "vase", "box", "scissors", "dog", "horse"),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog. A cat.", ["A", "dog", ".", "A", "cat", "."]),
        ("the man's dogs' bowl", ["the", "man", "'s", "dogs", "'", "bowl"]),
        ("it isn't; they'll, i'd", ["it", "is", "n't", ";", "they", "'ll", ",", "i", "'d"]),
        ("1,000 cars, 3.5 m, 10:30", ["1,000", "cars", ",", "3.5", "m", ",", "10:30"]),
        ('a "cat" -- well... yes!?', ["a", '"', "cat", '"', "--", "well", "...", "yes", "!", "?"]),
        ("teddy-bear cat/dog", ["teddy-bear", "cat/dog"]),
        ("one dog.\n\nTwo cats", ["one", "dog", ".", "Two", "cats"]),
        ("dog*, cat**", ["dog", "*", ",", "cat", "*", "*"]),
        ("“dog” and man’s", ["“", "dog", "”", "and", "man", "’", "s"]),
        ("", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


CAPTION = st.lists(
    st.sampled_from(
        ["a", "dog", "dogs", "men's", "isn't", "3.5", "1,000", "teddy-bear", "u.s", "he'll", "cat/dog", "10:30", "dog*"]
    ).flatmap(
        lambda word: st.sampled_from([word, word + ",", word + ";", word + "!", f"({word})", f"{word}:", f"[{word}]"])
    ),
    min_size=1,
    max_size=12,
).map(lambda words: " ".join(words) + ".")


@settings(max_examples=300, deadline=None)
@given(CAPTION)
def test_one_sentence_splits_as_in_nltk(caption: str) -> None:
    nltk = pytest.importorskip("nltk.tokenize")
    assert tokens(caption) == nltk.NLTKWordTokenizer().tokenize(caption)


@pytest.mark.parametrize(
    ("plural", "expected"),
    [
        ("dogs", "dog"),
        ("buses", "bus"),
        ("bus", "bus"),
        ("tennis", "tennis"),
        ("glasses", "glass"),
        ("ties", "tie"),
        ("puppies", "puppy"),
        ("knives", "knife"),
        ("people", "people"),
        ("men", "man"),
        ("women", "woman"),
        ("children", "child"),
        ("geese", "goose"),
        ("couches", "couch"),
        ("sandwiches", "sandwich"),
        ("sheep", "sheep"),
        ("potatoes", "potato"),
        ("calves", "calf"),
        ("boxes", "box"),
        ("scissors", "scissors"),
        ("skis", "skis"),
        ("horses", "horse"),
        ("grass", "grass"),
        ("cats", "cats"),
        ("s", "s"),
        ("", ""),
    ],
)
def test_singular(plural: str, expected: str) -> None:
    assert singular(plural, VOCABULARY) == expected


@given(st.text(max_size=12), st.sets(st.text(max_size=8), max_size=6))
def test_a_singular_is_the_word_itself_or_in_the_vocabulary(word: str, vocabulary: set[str]) -> None:
    found = singular(word, vocabulary)
    assert found == word or found in vocabulary
    assert singular(found, vocabulary) == found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no.", "no"),
        ("yes!", "yes "),
        ("yes, there is", "yes there is"),
        ("yes,no", "yes no"),
        ("no/yes", "no yes"),
        ("1,000 yes!no", "1000 yesno"),
        ("3.5.", "3.5."),
        ("no.yes", "noyes"),
        ("isn't", "isn't"),
        ("." * 40, "." * 8),
    ],
)
def test_strip_punctuation(text: str, expected: str) -> None:
    assert strip_punctuation(text) == expected
