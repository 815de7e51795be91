"""WordNet's lemmas of nouns, for the words of AMBER's list and of the COCO names, without WordNet.

Official scripts call nltk's WordNetLemmatizer, whose reading of some words is not the singular. What is written here
was compared with WordNet 3.0 on all its nouns and their plurals: for AMBER's list and for three tables of COCO names
every form that is English is read alike.
"""

from __future__ import annotations

from collections.abc import Collection

_ENDINGS = (
    ("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"),
    ("ies", "y"),
)  # fmt: skip
"""WordNet's rules for nouns: an ending and what is put in its place."""

_READ_AS = {
    "brethren": "brother",
    "buffaloes": "buffalo",
    "busses": "bus",
    "camerae": "camera",
    "children": "child",
    "chopsticks": "chopstick",
    "earrings": "earring",
    "flamingoes": "flamingo",
    "geese": "goose",
    "grandchildren": "grandchild",
    "knives": "knife",
    "leaves": "leaf",
    "men": "men",
    "mice": "mouse",
    "oxen": "ox",
    "pocketknives": "pocketknife",
    "potatoes": "potato",
    "skis": "ski",
    "slippers": "slipper",
    "sports": "sport",
    "sunglasses": "sunglass",
    "taxies": "taxi",
    "tomatoes": "tomato",
    "vases": "vas",
}
"""Words that the rules do not lead to their lemma, "men" and "vases" among them, which WordNet reads in its own way."""

_NOT_IN_WORDNET = frozenset(
    {
        "TV", "air-conditioning", "baconic", "bedsheet", "biker", "bluejay", "bodyboard", "brindle", "cann",
        "cathole", "children", "chopsticks", "closestool", "cooktop", "coworker", "doghole", "e-book",
        "earing", "earrings", "ebook", "electrombile", "firetruck", "glas", "hairdrier", "hairdryer", "hot",
        "iPhone", "kiwifruit", "lenovo", "longboard", "macbook", "netbook", "paddleboard", "paddleboat",
        "paraglider", "pissoir", "pitbull", "potted", "riverboat", "rpoe", "sailboard", "sanitizer", "scoon",
        "seegull", "shortboard", "showerpuff", "skimboard", "skis", "slippers", "smartphone", "solider",
        "sports", "stovetop", "streetlamp", "teddybear", "televison", "waterfont",
    }
)  # fmt: skip
"""Names that WordNet does not have as nouns, so that it never leads a plural back to them."""


def noun_lemma(word: str, vocabulary: Collection[str]) -> str:
    """The WordNet lemma of a noun, as far as a vocabulary needs it.

    Args:
        word: A token; capitals matter.
        vocabulary: The lemmas that matter. Where none of them is the word's lemma, the word is returned, or something
            else that is not in the vocabulary either.
    """
    if word in _READ_AS:
        return _READ_AS[word]
    stems = [word.removesuffix(end) + instead for end, instead in _ENDINGS if word.endswith(end)]
    known = [stem for stem in stems if stem in vocabulary and stem not in _NOT_IN_WORDNET]
    # WordNet takes the shortest reading, and a word that is a lemma itself is one of them.
    return min([*known, word], key=len)
