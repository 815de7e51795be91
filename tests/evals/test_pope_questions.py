"""Questions in the manner of POPE from any object annotations, against the official choice of absent objects."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.pope import KINDS, Pope
from mmdpo.evals.shared.pope_questions import build_questions, read_objects, write_questions

WORLD = {
    "1.jpg": ["dog", "ball", "tree"],
    "2.jpg": ["dog", "ball", "apple"],
    "3.jpg": ["dog", "car", "umbrella"],
    "4.jpg": ["car", "tree"],
}


def absent_objects(questions: list[dict[str, Any]], image: str) -> list[str]:
    return [q["text"] for q in questions if q["image"] == image and q["label"] == "no"]


def test_popular_asks_for_the_most_frequent_absent_objects() -> None:
    # Among images of three objects: dog 3, ball 2, tree, apple, car, umbrella 1.
    questions = build_questions(WORLD, "popular")
    assert absent_objects(questions, "3.jpg") == [
        "Is there a ball in the image?",
        "Is there a tree in the image?",
        "Is there an apple in the image?",
    ]
    assert [q["question_id"] for q in questions] == list(range(1, 19))
    assert questions[0] == {
        "question_id": 1,
        "image": "1.jpg",
        "text": "Is there a dog in the image?",
        "label": "yes",
    }


def test_adversarial_asks_for_what_goes_with_the_present_object() -> None:
    first, *others = absent_objects(build_questions(WORLD, "adversarial"), "1.jpg")
    # Dog goes with ball and tree, which are there, then with apple.
    assert first == "Is there an apple in the image?"
    # Nothing else absent goes with ball or tree, so the other two are whatever is left.
    assert set(others) == {"Is there a car in the image?", "Is there an umbrella in the image?"}


def test_small_images_join_on_request() -> None:
    assert not absent_objects(build_questions(WORLD, "random"), "4.jpg")
    assert len(absent_objects(build_questions(WORLD, "random", min_objects=1), "4.jpg")) == 2


def test_unknown_kind() -> None:
    with pytest.raises(ConfigError, match="unknown kind"):
        build_questions(WORLD, "populer")


OBJECTS = st.sampled_from(["dog", "cat", "car", "apple", "owl", "tree", "kite", "ox"])


@given(
    st.dictionaries(st.from_regex(r"\A[a-z]{1,4}\.png\Z"), st.lists(OBJECTS, max_size=6), max_size=8),
    st.sampled_from(KINDS),
    st.integers(0, 5),
    st.integers(1, 4),
)
def test_built_questions_are_true_balanced_and_repeatable(
    world: dict[str, list[str]], kind: str, seed: int, per_image: int
) -> None:
    questions = build_questions(world, kind, seed=seed, per_image=per_image, min_objects=1)
    assert questions == build_questions(world, kind, seed=seed, per_image=per_image, min_objects=1)
    asked = [(q["image"], q["text"]) for q in questions]
    assert len(set(asked)) == len(asked)
    for image, objects in world.items():
        mine = [q for q in questions if q["image"] == image]
        assert len(mine) <= 2 * per_image
        assert [q["label"] for q in mine] == ["yes", "no"] * (len(mine) // 2)
        for question in mine:
            name = question["text"].removesuffix(" in the image?").removeprefix("Is there a")
            name = name.removeprefix("n ").strip()
            assert (name in objects) == (question["label"] == "yes")
            assert (" an " in question["text"]) == (name[0] in "aeiou")


def test_built_questions_are_read_back(tmp_path: Path) -> None:
    write_questions(build_questions(WORLD, "random"), tmp_path / "new" / "random.json")
    samples = Pope().samples(tmp_path / "new" / "random.json")
    assert len(samples) == 18
    assert samples[0].media == {"images": ["1.jpg"]}


def test_questions_about_sounds_from_a_template() -> None:
    questions = build_questions(WORLD, "popular", template="Do you hear {object} ({name})?", media_key="audio")
    assert questions[0] == {"question_id": 1, "audio": "1.jpg", "text": "Do you hear a dog (dog)?", "label": "yes"}
    assert "Do you hear an apple (apple)?" in {question["text"] for question in questions}
    with pytest.raises(ConfigError, match="no place for the object"):
        build_questions(WORLD, "popular", template="Is it there?")


def test_some_images_are_drawn_the_same_for_all_kinds() -> None:
    drawn = [{q["image"] for q in build_questions(WORLD, kind, images=2, seed=3)} for kind in KINDS]
    assert drawn[0] == drawn[1] == drawn[2]
    assert len(drawn[0]) == 2
    with pytest.raises(ConfigError, match="4 images are asked for, 3 of 4 have 3 objects or more"):
        build_questions(WORLD, "random", images=4)


def test_shuffled_objects_are_asked_from_the_whole_list() -> None:
    world = {f"{n}.jpg": list("abcdefgh")[: 4 + n % 4] for n in range(60)}
    asked = {q["text"] for q in build_questions(world, "random", shuffle=True) if q["label"] == "yes"}
    plain = {q["text"] for q in build_questions(world, "random") if q["label"] == "yes"}
    assert plain == {f"Is there {name} in the image?" for name in ("an a", "a b", "a c")}
    assert len(asked) == 6  # the seventh is only where nothing is absent, the eighth nowhere


def test_objects_from_any_file(
    tmp_path: Path, write_json: Callable[..., Path], write_lines: Callable[..., Path]
) -> None:
    rows = [{"image": image, "objects": objects} for image, objects in WORLD.items()]
    for path in (write_json("o.json", WORLD), write_lines("o.jsonl", rows), write_json("list.json", rows)):
        assert read_objects(path) == WORLD
    coco = {
        "images": [{"id": 7, "file_name": "7.jpg"}, {"id": 8, "file_name": "8.jpg"}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [{"image_id": 7, "category_id": 1}, {"image_id": 7, "category_id": 2}],
    }
    write_json("coco/instances_val2017.json", coco)
    assert read_objects(tmp_path / "coco") == {"7.jpg": ["cat", "dog"], "8.jpg": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a.jpg": "dog"}, "no lists of object names"),
        ({"a.jpg": [1]}, "no lists of object names"),
        ({"a.jpg": [""]}, "no lists of object names"),
        ({}, "no lists of object names"),
        ([{"image": "a.jpg", "names": []}], "no lists of object names"),
        ("dog", "no lists of object names"),
        ([{"image": "a.jpg", "objects": ["dog"]}, {"image": "a.jpg", "objects": ["cat"]}], "2 entries of 1 images"),
        ([{"image": None, "objects": ["dog"]}], "1 entries of 0 images"),
    ],
)
def test_objects_that_are_none(write_json: Callable[..., Path], content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_objects(write_json("wrong.json", content))


def test_questions_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    write_questions([{"question_id": 1, "text": "Is there a são?"}], path)
    with pytest.raises(UnicodeEncodeError):
        write_questions([{"question_id": 1, "text": "Is there a \ud800?"}], path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["questions.json"]
    assert "são" in path.read_text(encoding="utf-8")


def official_builder(world: dict[str, list[str]], kind: str) -> list[tuple[str, str, str]]:
    """The official builder's choice of popular and adversarial objects, written anew; "?" is one drawn at random."""
    everywhere = [name for objects in world.values() for name in objects]
    asked = []
    for image, objects in world.items():
        used = set(objects)
        for present in objects[:3]:
            together = everywhere
            if kind == "adversarial":
                together = [o for others in world.values() if present in others for o in others if o != present]
            counts = Counter(together)
            order = sorted(counts, key=lambda name: counts[name], reverse=True)
            negative = next((name for name in order if name not in used), "?")
            used.add(negative)
            asked += [(image, present, "yes"), (image, negative, "no")]
            if negative == "?":
                break  # what is drawn at random decides what is left for the next
    return asked


@pytest.mark.parametrize("kind", ["popular", "adversarial"])
def test_the_official_choice_of_absent_objects(real_data: Callable[[str], Path], kind: str) -> None:
    world = read_objects(real_data("coco_mini/annotations"))
    expected = official_builder({image: names for image, names in world.items() if len(names) >= 3}, kind)
    built: dict[str, list[tuple[str, str, str]]] = {}
    for question in build_questions(world, kind):
        name = question["text"].removeprefix("Is there ").removesuffix(" in the image?").split(" ", 1)[1]
        built.setdefault(question["image"], []).append((question["image"], name, question["label"]))
    assert len(built) > 50
    for image in built:
        official = [row for row in expected if row[0] == image]
        known = official if official[-1][1] != "?" else official[:-1]
        assert built[image][: len(known)] == known
    assert sum(row[1] == "?" for row in expected) < len(expected) / 50
