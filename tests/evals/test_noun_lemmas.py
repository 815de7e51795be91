"""WordNet's lemmas of nouns, as WordNet 3.0 gives them; a check against nltk where its WordNet is installed."""

import pytest

from mmdpo.evals.shared.noun_lemmas import noun_lemma
from mmdpo.evals.shared.objects import ObjectNames

VOCABULARY = {
    *("bus", "glass", "vase", "knife", "leaf", "child", "children", "man", "woman", "people", "person", "goose"),
    *("ox", "oxen", "box", "bench", "brush", "puppy", "skis", "ski", "sports", "sport", "tie", "tv", "TV", "brindle"),
    *("bedsheet", "teddybear", "wolf", "buffalo", "scissors", "camera", "brother", "tennis", "dress", "couch"),
}


@pytest.mark.parametrize(
    ("word", "lemma"),
    [
        ("buses", "bus"),
        ("busses", "bus"),
        ("bus", "bus"),
        ("glasses", "glass"),
        ("dresses", "dress"),
        ("vases", "vas"),  # a duct of the body is shorter than a vase
        ("men", "men"),  # WordNet has "men" as a noun of its own
        ("women", "woman"),
        ("knives", "knife"),
        ("leaves", "leaf"),
        ("wolves", "wolf"),
        ("children", "child"),
        ("childrens", "childrens"),
        ("geese", "goose"),
        ("oxen", "ox"),
        ("boxes", "box"),
        ("benches", "bench"),
        ("couches", "couch"),
        ("brushes", "brush"),
        ("puppies", "puppy"),
        ("buffaloes", "buffalo"),
        ("skis", "ski"),
        ("skiss", "skiss"),
        ("sports", "sport"),
        ("ties", "tie"),
        ("people", "people"),
        ("persons", "person"),
        ("scissors", "scissors"),
        ("tennis", "tennis"),
        ("cameras", "camera"),
        ("camerae", "camera"),
        ("brethren", "brother"),
        ("TV", "TV"),
        ("TVs", "TVs"),
        ("tvs", "tv"),
        ("bedsheets", "bedsheets"),
        ("teddybears", "teddybears"),
        ("seated", "seated"),
        ("Dogs", "Dogs"),
        ("狗", "狗"),
        ("", ""),
    ],
)
def test_lemmas(word: str, lemma: str) -> None:
    assert noun_lemma(word, VOCABULARY) == lemma


def test_what_is_not_in_the_vocabulary_does_not_become_part_of_it() -> None:
    for word in ("galaxies", "zebras", "asses", "us"):
        assert noun_lemma(word, VOCABULARY) not in VOCABULARY


def test_every_form_as_wordnet_reads_it() -> None:
    wordnet = pytest.importorskip("nltk.stem").WordNetLemmatizer()
    try:
        wordnet.lemmatize("dogs")
    except LookupError:
        pytest.skip("nltk's WordNet is not installed")
    words = ObjectNames.load().words
    forms = {form for word in words for form in (word, f"{word}s", f"{word}es", f"{word[:-1]}ies", f"{word[:-2]}ves")}
    read = {form: (noun_lemma(form, words), wordnet.lemmatize(form)) for form in sorted(forms)}
    assert [form for form, (ours, theirs) in read.items() if ours != theirs and {ours, theirs} & words] == []
