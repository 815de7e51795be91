"""`objects`, mode inject: one change, wrong by the annotations, fluent, and marked on both sides."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_builders.injection import KINDS, Injector, Kind, article_for
from data_builders.object_sources import ImageObjects, Objects, ObjectsSource
from data_builders.running.build import BuildResult, build
from data_builders.tables.config import UnusableError
from mmdpo.records.marks import mark_differences

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
TABLE = {
    "1": ["dog", "couch", "person", "dining table", "umbrella"],
    "2": ["dog", "cat", "person", "chair"],
    "3": ["dog", "elephant", "couch", "bed"],
    "4": ["cat", "bed", "book"],
    "5": ["airplane", "person", "bus"],
}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    path = tmp_path_factory.mktemp("objects") / "objects.json"
    path.write_text(json.dumps(TABLE), encoding="utf-8")
    return Objects(ObjectsSource(annotations=path))


def changes(
    objects: Objects, kind: Kind, caption: str, image: str = "1", others: tuple[str, ...] = (), seeds: int = 40
) -> set[str]:
    """Every wrong caption that some seed gives."""
    picture = objects.images[image]
    return {
        Injector(objects, {kind: 1.0}, seed).inject(caption, picture, [caption, *others]).text for seed in range(seeds)
    }


def test_an_object_becomes_one_that_is_absent_and_of_its_sort(objects: Objects) -> None:
    # with a dog, a couch or a person there are also cat, chair, elephant, bed, airplane, bus; animals among them:
    assert changes(objects, "object", "A dog is here.") == {"A cat is here.", "An elephant is here."}
    assert changes(objects, "object", "Two dogs are here.") == {"Two cats are here.", "Two elephants are here."}
    assert changes(objects, "object", "I see a brown dog.") == {"I see a brown cat.", "I see a brown elephant."}
    assert changes(objects, "object", "AN AIRPLANE IS HERE.", "5") == {"A DOG IS HERE.", "A CAT IS HERE."} | {
        f"A {name} IS HERE." for name in ("COUCH", "CHAIR", "DINING TABLE")
    } | {"AN UMBRELLA IS HERE."}


def test_co_occurrence_weighs_the_draw(objects: Objects) -> None:
    picture = objects.images["1"]
    drawn = Counter(Injector(objects, {"object": 1.0}, seed).inject("A dog.", picture, []).text for seed in range(600))
    # cat: once with a dog, once with a person; elephant: once with a dog, once with a couch
    assert objects.together["dog"]["cat"] == objects.together["dog"]["elephant"] == 1
    assert drawn["A cat."] / 600 == pytest.approx(0.5, abs=0.08)  # four standard errors


def test_what_cannot_be_swapped_well_is_left(objects: Objects) -> None:
    for caption in (
        "A dog and a dog.",  # which one is meant would be open
        "A dog house.",  # a compound
        "A person waits.",
        "Nothing.",
    ):
        with pytest.raises(UnusableError, match="no_place"):
            changes(objects, "object", caption)


def test_a_caption_that_is_wrong_already_is_set_aside(objects: Objects) -> None:
    with pytest.raises(UnusableError, match="not_true"):
        changes(objects, "object", "A dog beside a truck.")


def test_attributes_that_other_captions_do_not_have(objects: Objects) -> None:
    found = changes(objects, "attribute", "A red umbrella.", others=("A pink thing and a blue one.",), seeds=80)
    colours = {"green", "yellow", "purple", "brown", "black", "white", "gray"}
    assert found == {f"A {colour} umbrella." for colour in colours}
    assert changes(objects, "attribute", "An old couch.") == {"A new couch."}
    assert changes(objects, "attribute", "A small dog.") == {"A big dog."}
    for caption in ("A black and white dog.", "The White House."):
        with pytest.raises(UnusableError, match="no_place"):
            changes(objects, "attribute", caption)


def test_counts_stay_plural_and_near(objects: Objects) -> None:
    assert changes(objects, "count", "Four dogs.") == {"Two dogs.", "Three dogs.", "Five dogs.", "Six dogs."}
    assert changes(objects, "count", "four dogs.", others=("five dogs",)) == {"two dogs.", "three dogs.", "six dogs."}


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("A dog in front of a couch.", {"A dog right behind a couch."}),
        ("A dog on the left of it.", {"A dog on the right of it."}),
        ("A dog on a couch.", {"A dog under a couch."}),
        ("A dog on top of a couch.", {"A dog right under a couch."}),
        ("A dog next to a couch.", {"A dog far from a couch."}),
    ],
)
def test_relations_are_turned(objects: Objects, caption: str, wrong: set[str]) -> None:
    assert changes(objects, "relation", caption) == wrong


def test_on_alone_is_turned_only_before_an_object(objects: Objects) -> None:
    with pytest.raises(UnusableError, match="no_place"):
        changes(objects, "relation", "A dog on a sunny day.")


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("A person with a dog.", {"A person without a dog."}),
        ("A person with dogs.", {"A person without dogs."}),
        ("There is a dog.", {"There is no dog."}),
        ("There is an umbrella.", {"There is no umbrella."}),
        ("A dog is sleeping.", {"A dog is not sleeping."}),
        ("Two dogs are sleeping.", {"Two dogs are not sleeping."}),
        ("DOG WITH UMBRELLA", {"DOG WITHOUT UMBRELLA"}),
    ],
)
def test_negations(objects: Objects, caption: str, wrong: set[str]) -> None:
    assert changes(objects, "negation", caption) == wrong


def test_only_what_is_there_is_denied(objects: Objects) -> None:
    with pytest.raises(UnusableError, match="no_place"):
        changes(objects, "negation", "A dog with a smile.")


@pytest.mark.parametrize(
    ("noun", "article"),
    [
        ("dog", "a"),
        ("apple", "an"),
        ("umbrella", "an"),
        ("unicycle", "a"),
        ("oven", "an"),
        ("hour", "an"),
        ("one", "a"),
    ],
)
def test_articles(noun: str, article: str) -> None:
    assert article_for(noun) == article


NOUNS = ["dog", "couch", "umbrella", "dining table", "person"]
PLURALS = ["dogs", "couches", "umbrellas", "people"]


@settings(max_examples=150, deadline=None)
@given(
    first=st.sampled_from([*(f"{'an' if noun == 'umbrella' else 'a'} {noun}" for noun in NOUNS), *PLURALS]),
    colour=st.sampled_from(["", "red ", "small ", "old "]),
    relation=st.sampled_from(["on", "next to", "with", "in front of", "and", "is sitting by"]),
    second=st.sampled_from(NOUNS),
    seed=st.integers(0, 5),
    capital=st.booleans(),
)
def test_one_change_that_is_marked_and_wrong(
    objects: Objects, first: str, colour: str, relation: str, second: str, seed: int, capital: bool
) -> None:
    noun = colour + second
    caption = f"{first} {relation} {article_for(noun)} {noun}."
    caption = caption[0].upper() + caption[1:] if capital else caption
    picture = objects.images["1"]
    try:
        change = Injector(objects, dict.fromkeys(KINDS, 1.0), seed).inject(caption, picture, [caption])
    except UnusableError as problem:
        assert problem.reason == "no_place"
        return
    (a, b), (c, d) = change.true_span, change.false_span
    assert caption[:a] == change.text[:c] and caption[b:] == change.text[d:]  # one stretch, and nothing else
    assert caption[a:b] != change.text[c:d]
    assert abs(len(caption.split()) - len(change.text.split())) <= 1
    assert caption[0].isupper() == change.text[0].isupper()
    words = change.text.lower().replace(".", "").split()
    assert all(article_for(word) == article for article, word in pairwise(words) if article in ("a", "an"))
    named = {name.category for name in objects.named(change.text)}
    if change.kind == "object":
        assert len(named - picture.present) == 1  # the one that was put there is absent
    else:
        assert named <= picture.present
    again = Injector(objects, dict.fromkeys(KINDS, 1.0), seed).inject(caption, picture, [caption])
    assert again == change


# ---- the builder ----


def run(tmp_path: Path, captions: list[str], out: str = "out", **config: Any) -> BuildResult:
    table = tmp_path / "objects.json"
    table.write_text(json.dumps(TABLE), encoding="utf-8")
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    data = tmp_path / "captions.csv"
    rows = ["image_id,caption", *(f'1,"{caption}"' for caption in captions)]
    data.write_bytes("\r\n".join(rows).encode("utf-16"))
    base = {"mode": "inject", "annotations": table, "data": data, "image_name": "{id}.png", "validation": 0.0}
    return build("objects", {**base, **config}, tmp_path / out)


def test_records_say_what_was_changed(tmp_path: Path) -> None:
    captions = ["A dog on a couch.", "A truck.", "Nothing here.", "Two dogs."]
    result = run(tmp_path, captions, kinds={"object": 1, "count": 0})
    assert Counter(entry.reason for entry in result.set_aside) == {"not_true": 1, "no_place": 1}
    assert result.quality["injections"] == {"captions": 3, "made": {"object": 2}, "no_place": {"object": 1}}
    record = next(one for one in result.records if one.meta["rows"] == [1])
    assert record.chosen.text == captions[0]
    assert record.meta["kind"] == "object" and record.meta["object"] in {"dog", "couch"}
    marked = [candidate.text[slice(*candidate.spans[0])] for candidate in record.candidates]
    assert marked == record.meta["changed"]


def test_kinds_are_drawn_by_weight(tmp_path: Path) -> None:
    captions = [f"A red dog next to a couch number {number}." for number in range(100)]
    result = run(tmp_path, captions, kinds={"attribute": 3, "relation": 1})
    made = result.quality["injections"]["made"]
    assert sum(made.values()) == 100
    assert made["attribute"] / 100 == pytest.approx(0.75, abs=0.17)  # four standard errors
    other = run(tmp_path, captions, out="other", kinds={"attribute": 3, "relation": 1}, seed=1)
    assert {one.rejected.text for one in other.records} != {one.rejected.text for one in result.records}


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data in {SHARED}")
def test_real_captions(tmp_path: Path) -> None:
    root = SHARED / "coco_mini"
    config = {"mode": "inject", "annotations": root / "annotations", "media_root": root}
    result = build("objects", {**config, "image_folders": ["train2017", "val2017"]}, tmp_path / "out")
    objects = Objects(ObjectsSource(annotations=root / "annotations"))
    by_file: dict[str, ImageObjects] = {image.file_name: image for image in objects.images.values()}
    assert result.quality["rows"] == {"read": 795, "used": len(result.records), "set_aside": 795 - len(result.records)}
    assert len(result.records) > 600
    for record in result.records:
        present = by_file[Path(record.media["images"][0].path or "").name].present
        named = {name.category for name in objects.named(record.rejected.text)}
        assert (len(named - present) == 1) == (record.meta["kind"] == "object"), record.rejected.text
        (a, b), (c, d) = record.chosen.spans[0], record.rejected.spans[0]
        assert record.chosen.text[:a] == record.rejected.text[:c]
        assert record.chosen.text[b:] == record.rejected.text[d:]
        assert any(candidate.spans for candidate in mark_differences(record).candidates)
