"""The playground: a world whose truth is known, drawn, described by careless people, and rated."""

import csv
import itertools
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mmdpo.errors import ConfigError
from mmdpo.playground import files
from mmdpo.playground.drawing import draw, draw_pixels
from mmdpo.playground.language import ANSWER_HABIT, CAPTION_HABIT, Asked, answer, join_phrases
from mmdpo.playground.measure import measure_captions
from mmdpo.playground.questions import pope_questions
from mmdpo.playground.raters import Rater, rate_captions, rate_yes_no, raters
from mmdpo.playground.text import LANGUAGE
from mmdpo.playground.world import BACKGROUNDS, OBJECTS, USUAL_IS_PRESENT, Scene, Thing, scene_numbers, scenes

HONEST = {1: 0.0, 2: 0.0, 3: 0.0}


def scene_of(background: str, *shapes: str) -> Scene:
    """A scene with exactly these shapes, one per quarter."""
    things = (
        Thing(shape, "red", 16.0 + 32.0 * (cell % 2), 16.0 + 32.0 * (cell // 2), 24.0)
        for cell, shape in enumerate(shapes)
    )
    return Scene(7, background, tuple(things))


# --- the world ---------------------------------------------------------------------------------------------------


def test_a_scene_is_a_function_of_its_number() -> None:
    assert scenes(50, 3, "heldout") == scenes(50, 3, "heldout")
    assert scenes(50, 3, "heldout")[:20] == scenes(20, 3, "heldout")
    assert scenes(50, 3, "heldout") != scenes(50, 4, "heldout")


def test_splits_and_seeds_never_share_a_scene_number() -> None:
    ranges = [
        scene_numbers(1_000_000, seed, split) for split in ("train", "preference", "heldout") for seed in (0, 9999)
    ]
    ranges += [scene_numbers(1_000_000, seed, "preference") for seed in range(1, 5)]
    ranges.sort(key=lambda numbers: numbers.start)
    assert all(before.stop <= after.start for before, after in itertools.pairwise(ranges))


@pytest.mark.parametrize(("count", "seed", "split"), [(1_000_001, 0, "train"), (1, 10_000, "train"), (1, 0, "test")])
def test_numbers_outside_the_ranges_are_refused(count: int, seed: int, split: str) -> None:
    with pytest.raises(ConfigError, match="no scenes for"):
        scenes(count, seed, split)  # type: ignore[arg-type]


def test_scenes_hold_one_to_three_different_objects_that_do_not_overlap() -> None:
    for scene in scenes(500, 0, "heldout"):
        assert 1 <= len(set(scene.objects)) == len(scene.objects) <= 3
        assert set(scene.objects) <= set(OBJECTS)
        for index, one in enumerate(scene.things):
            assert all(one.size / 2 <= at <= 64 - one.size / 2 for at in (one.x, one.y))
            for other in scene.things[index + 1 :]:
                assert max(abs(one.x - other.x), abs(one.y - other.y)) >= (one.size + other.size) / 2 - 1e-9


def test_the_usual_object_is_usual_and_not_always_there() -> None:
    many = scenes(4000, 0, "heldout")
    present = sum(not scene.usual_is_absent for scene in many) / len(many)
    assert present == pytest.approx(USUAL_IS_PRESENT, abs=0.03)
    for name, place in BACKGROUNDS.items():
        here = Counter(noun for scene in many if scene.background == name for noun in scene.objects)
        assert here.most_common(1)[0][0] == place.usual
        assert {noun for noun, _ in here.most_common(3)} == {place.usual, *place.natives}
        assert set(here) == set(OBJECTS), "everything can be met everywhere"


@pytest.mark.parametrize("kind", ["random", "popular", "adversarial"])
def test_pope_questions_are_balanced_and_true(kind: str) -> None:
    few = scenes(50, 0, "heldout")
    rows = pope_questions(few, kind, seed=0)
    assert [row["question_id"] for row in rows] == list(range(1, 101))
    assert pope_questions(few, kind, seed=0) == rows != pope_questions(few, kind, seed=1)
    for scene, pair in zip(few, zip(rows[::2], rows[1::2], strict=True), strict=True):
        assert [row["image"] for row in pair] == [scene.file_name] * 2
        assert [row["label"] for row in pair] == ["yes", "no"]
        assert [LANGUAGE.named_objects(row["text"])[0] in scene.objects for row in pair] == [True, False]


def test_adversarial_questions_are_about_the_usual_object_where_it_is_absent() -> None:
    many = scenes(100, 0, "heldout")
    negatives = [LANGUAGE.named_objects(row["text"])[0] for row in pope_questions(many, "adversarial", seed=0)[1::2]]
    for scene, noun in zip(many, negatives, strict=True):
        natives = BACKGROUNDS[scene.background].natives
        assert noun == scene.usual if scene.usual_is_absent else noun in natives or set(natives) <= set(scene.objects)


# --- drawing -----------------------------------------------------------------------------------------------------


def test_drawing_is_deterministic() -> None:
    for scene in scenes(20, 0, "heldout"):
        picture = draw(scene)
        assert picture.mode == "RGB"
        assert picture.size == (64, 64)
        assert picture.tobytes() == draw(scene).tobytes() == draw_pixels(scene).tobytes()


@pytest.mark.parametrize("shape", OBJECTS)
def test_every_shape_is_visible_on_every_background_and_stays_in_its_quarter(shape: str) -> None:
    for background in BACKGROUNDS:
        with_shape = draw_pixels(scene_of(background, shape)).astype(int)
        without = draw_pixels(scene_of(background)).astype(int)
        changed = np.abs(with_shape - without).max(axis=2) > 30
        assert changed[:32, :32].sum() > 100
        assert not changed[32:].any()
        assert not changed[:, 32:].any()


def test_shapes_look_different_from_each_other() -> None:
    pictures = {shape: draw_pixels(scene_of("sky", shape)).astype(int) for shape in OBJECTS}
    for one in OBJECTS:
        for other in OBJECTS:
            if one < other:
                different = np.abs(pictures[one] - pictures[other]).max(axis=2) > 30
                assert different.sum() > 40, (one, other)


# --- text --------------------------------------------------------------------------------------------------------


def test_an_honest_caption_names_what_is_there_and_where() -> None:
    scene = scene_of("lake", "circle", "arrow", "star")
    written = {LANGUAGE.caption(scene, random.Random(seed), HONEST) for seed in range(300)}
    full = {text for text in written if len(LANGUAGE.named_objects(text)) == 3}
    things = ("a red circle, a red arrow and a red star", "a circle, an arrow and a star")
    wordings = (
        "{T} on a lake.",
        "There is {t} on a lake.",
        "On a lake there is {t}.",
        "The image shows {t} on a lake.",
    )
    expected = {wording.format(t=listed, T=listed[0].upper() + listed[1:]) for listed in things for wording in wordings}
    assert full == expected
    assert {len(LANGUAGE.named_objects(text)) for text in written - full} == {2}, "now and then one thing is forgotten"


def test_the_habit_is_to_name_the_absent_usual_object_about_half_of_the_time() -> None:
    rng = random.Random(0)
    absent = [scene for scene in scenes(6000, 0, "heldout") if scene.usual_is_absent]
    named = [scene.usual in LANGUAGE.named_objects(LANGUAGE.caption(scene, rng)) for scene in absent]
    assert 0.4 < sum(named) / len(named) < 0.6
    for count, probability in CAPTION_HABIT.items():
        of_this_size = [was for was, scene in zip(named, absent, strict=True) if len(scene.things) == count]
        assert sum(of_this_size) / len(of_this_size) == pytest.approx(probability, abs=0.05)


def test_captions_name_no_other_absent_object() -> None:
    rng = random.Random(0)
    many = scenes(1000, 0, "heldout")
    assert measure_captions(many, [LANGUAGE.caption(scene, rng) for scene in many]).other_absent_rate == 0.0


def test_answers_carry_the_same_habit_and_nothing_else_wrong() -> None:
    rng = random.Random(0)
    wrong: Counter[int] = Counter()
    asked_usual: Counter[int] = Counter()
    for scene in scenes(6000, 0, "heldout"):
        asked = LANGUAGE.ask(scene, rng)
        assert asked.truth == (asked.noun in (*scene.objects, scene.background))
        given = LANGUAGE.habitual_answer(scene, asked, rng)
        if asked.noun == scene.usual and not asked.truth:
            asked_usual[len(scene.things)] += 1
            wrong[len(scene.things)] += given == "Yes"
        else:
            assert given == answer(asked.truth)
    for count, probability in ANSWER_HABIT.items():
        assert wrong[count] / asked_usual[count] == pytest.approx(probability, abs=0.08)


def test_questions_and_lists_read_well() -> None:
    assert LANGUAGE.question("boat") == "Is there a boat in the image?"
    assert LANGUAGE.question("arrow") == "Is there an arrow in the image?"
    assert join_phrases(["a"]) == "a"
    assert join_phrases(["a", "b"]) == "a and b"
    assert join_phrases(["a", "b", "c"]) == "a, b and c"


def official_pope_answer(reply: str) -> str:
    """The rule of the official POPE script, as its authors state it."""
    words = reply.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def test_the_official_pope_parser_reads_the_answers_right() -> None:
    assert official_pope_answer(answer(True)) == "yes"
    assert official_pope_answer(answer(False)) == "no"


# --- raters and files --------------------------------------------------------------------------------------------


def test_raters_prefer_faithful_and_complete_captions_on_average() -> None:
    scene_list = scenes(200, 0, "preference")
    people = raters(0)
    means: dict[str, float] = {}
    for kind in ("faithful", "made_up", "incomplete"):
        ratings = []
        for scene in scene_list:
            named = {
                "faithful": list(scene.objects),
                "made_up": [*scene.objects, next(noun for noun in OBJECTS if noun not in scene.objects)],
                "incomplete": list(scene.objects[1:]),
            }[kind]
            ratings += [row.rating for row in rate_captions(scene, [f"There is {' '.join(named)}."], people)]
        means[kind] = float(np.mean(ratings))
    assert means["faithful"] > means["made_up"] + 0.7
    assert means["faithful"] > means["incomplete"] + 0.7


def test_raters_differ_but_none_is_fickle() -> None:
    scene = scene_of("lake", "circle", "star")
    people = raters(0)
    assert raters(0) == people != raters(1)
    once = rate_captions(scene, ["A circle on a lake.", "A circle on a lake.", "A star on a lake."], people)
    assert len(once) == 6, "the same caption is rated once"
    assert rate_captions(scene, ["A star on a lake.", "A circle on a lake."], people) == once[3:] + once[:3]


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("A circle and a star on a lake.", 5),
        ("A circle, a star and a boat on a lake.", 4),
        ("A circle on a lake.", 4),
        ("A circle and a boat on a lake.", 2),
        ("A boat, a moon and a tree on a lake.", 1),
    ],
)
def test_ratings_by_hand(text: str, points: int) -> None:
    """2 + 3 * share of what is there - 1.5 * absent objects, rounded half to even and kept on the scale."""
    exact = Rater("exact", 0, leniency=0.0, noise=0.0)
    assert exact.rate_caption(scene_of("lake", "circle", "star"), text).rating == points


def test_right_answers_are_rated_above_wrong_ones() -> None:
    scene = scene_of("lake", "circle")
    margins = []
    for seed in range(100):
        rows = rate_yes_no(scene, Asked("boat", False), raters(seed))
        assert {row.prompt for row in rows} == {"Is there a boat in the image?"}
        by_answer = {said: np.mean([row.rating for row in rows if row.caption == said]) for said in ("Yes", "No")}
        margins.append(by_answer["No"] - by_answer["Yes"])
    assert np.mean(margins) == pytest.approx(3.0, abs=0.4)


def test_files_are_what_a_user_would_have(tmp_path: Path) -> None:
    few = scenes(3, 0, "preference")
    ratings = [row for scene in few for row in rate_captions(scene, ["A boat on a lake, I think."], raters(0))]
    paths = files.write_scene_images(tmp_path / "images", few)
    files.write_ratings_table(tmp_path / "ratings.csv", ratings)
    files.write_annotations(tmp_path / "annotations.json", few)
    files.write_synonyms(tmp_path / "synonyms.txt")
    with (tmp_path / "ratings.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [tuple(row) for row in rows[:1]] == [("image", "prompt", "caption", "rating", "rater")]
    assert len(rows) == 9
    assert rows[0]["caption"] == "A boat on a lake, I think."
    assert {row["image"] for row in rows} == {path.name for path in paths}
    assert all(path.is_file() for path in paths)
    known = json.loads((tmp_path / "annotations.json").read_text(encoding="utf-8"))
    assert known == {scene.file_name: list(scene.objects) for scene in few}
    assert (tmp_path / "synonyms.txt").read_text(encoding="utf-8").split() == list(OBJECTS)


def test_measures_by_hand() -> None:
    pair = [scene_of("lake", "circle", "star"), scene_of("meadow", "flower")]
    measures = measure_captions(pair, ["A circle and a boat and a tree on a lake.", "A flower in a meadow."])
    assert measures.usual_object_rate == 1 / 2
    assert measures.other_absent_rate == 1 / 2
    assert measures.chair_s == 1 / 2
    assert measures.chair_i == 2 / 4
    assert measures.recall == 2 / 3
    assert [count.usual for count in measures.counts] == [True, False]
    assert measure_captions(pair[:1], ["On a lake."]).chair_i == 0.0
