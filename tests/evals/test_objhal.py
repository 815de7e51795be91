"""Object HalBench: the rule without GPT against an oracle, lists of a judge, and the forms that files have."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmdpo.cli import app
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.base import Result, Sample
from mmdpo.evals.objhal import ObjectHalBench, list_of_reply
from mmdpo.evals.runner import compare, score
from mmdpo.evals.shared.noun_lemmas import noun_lemma
from mmdpo.evals.shared.objects import ObjectNames

TABLE = "objhal/caps_boxes_coco2014_val_80.jsonl"
SYNONYMS = "objhal/synonyms_refine.txt"


def named(text: str, **options: Any) -> list[str] | None:
    """The categories that an answer names, in order."""
    bench = ObjectHalBench(**options)
    answer = bench.answers([{"image_id": 1, "text": text}])[0]
    sample = Sample("1", bench.prompt, {"images": ["1.jpg"]}, ["dog"], "1")
    parsed: list[str] | None = bench.item("1", sample, answer).parsed
    return parsed


# -- without GPT ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two dogs and a sofa, dogs.", ["dog", "couch", "dog"]),
        ("A bus, buses, a tennis racket", ["bus", "bus", "tennis racket"]),
        ("sports balls, a sports ball", ["sports ball", "sports ball"]),
        ("men and women", ["person"]),
        ("a vase and vases", ["vase"]),
        ("a person is seated, skiing", ["person"]),
        ("a pair of skis; knives", ["skis", "knife"]),
        ("the seat of the toilet", ["toilet"]),
        ("a baby elephant, wine glasses, train tracks", ["elephant", "wine glass"]),
        ("Assistant: a dog.\n\nA cat", ["dog", "cat"]),
        ("un chien ☂ 狗", []),
        ("", None),
        ("Assistant: ", None),
    ],
)
def test_named_objects(text: str, expected: list[str] | None) -> None:
    assert named(text) == expected


def official_script(captions: list[tuple[str, str]], truth: Mapping[str, set[str]], synonyms: Path) -> dict[str, float]:
    """The official script without GPT, written anew from its description, for words that it reads in the singular."""
    lines = [line.strip().split(", ") for line in synonyms.read_text().splitlines()]
    category = {name.strip(): line[0].strip() for line in lines for name in line}
    joined = {name: name for name in [*category, "home plate", "train track"] if len(name.split(" ")) >= 2}
    animals = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
    for animal in animals:
        joined |= {f"baby {animal}": animal, f"adult {animal}": animal}
    joined |= {"passenger jet": "jet", "passenger train": "train", "bow tie": "tie", "toilet seat": "toilet"}
    wrong = mentions = bad = some = right = present = length = 0
    for image, text in captions:
        words, i, read = text.lower().split(), 0, []
        while i < len(words):
            two = " ".join(words[i : i + 2])
            read.append(joined.get(two, words[i]))
            i += 2 if two in joined else 1
        if "toilet" in read and "seat" in read:
            read = [word for word in read if word != "seat"]
        found = [category[word] for word in read if word in category]
        absent = [name for name in found if name not in truth[image]]
        mentions, wrong, bad, some = mentions + len(found), wrong + len(absent), bad + bool(absent), some + bool(found)
        right, present = right + len(set(found) & truth[image]), present + len(truth[image])
        length += len(text.strip().split(" "))
    return {
        "response_hallucination": bad / some,
        "object_hallucination": wrong / mentions,
        "recall": right / present,
        "chair_s": bad / len(captions),
        "words": length / len(captions),
    }


def test_the_official_numbers(
    real_data: Callable[[str], Path], write_json: Callable[..., Path], write_lines: Callable[..., Path]
) -> None:
    synonyms, generator = real_data(SYNONYMS), random.Random(3)
    names = ObjectNames.load(synonyms)
    vocabulary = [
        *(name for name in names.category_of if noun_lemma(name, names.words) == name and name.islower()),
        *["baby", "adult", "passenger", "seat", "track", "home", "plate", "hot"],
        *["of"] * 200,
    ]
    categories = sorted(set(names.category_of.values()))
    truth = {str(n): sorted(generator.sample(categories, 6)) for n in range(60)}
    rows = [
        {"image_id": int(image), "text": " ".join(generator.choices([*vocabulary, *objects * 9], k=length))}
        for image, objects in truth.items()
        for length in (1, 4, 30)
    ]
    captions = [(str(row["image_id"]), str(row["text"])) for row in rows]
    expected = official_script(captions, {image: set(objects) for image, objects in truth.items()}, synonyms)
    answers = write_lines("answers.jsonl", rows)
    result = score("objhal", write_json("objects.json", truth), answers, synonyms=str(synonyms))
    assert {name: entry.value for name, entry in result.metrics.items()} == pytest.approx(expected, abs=1e-12)
    assert (result.n, result.rule) == (180, "lemma; synonyms synonyms_refine.txt")
    assert result.metrics["response_hallucination"].n < result.metrics["chair_s"].n == 180


def test_the_real_table_is_read_completely(real_data: Callable[[str], Path], write_lines: Callable[..., Path]) -> None:
    bench = ObjectHalBench(synonyms=real_data(SYNONYMS))
    samples = bench.samples(real_data(TABLE))
    assert len(samples) == len({sample.id for sample in samples}) == 80
    assert (samples[0].id, samples[0].media) == ("296284", {"images": ["000000296284.jpg"]})
    assert samples[0].target == ["donut"]
    assert len(set(bench.names.category_of.values())) == 80
    # The reference captions are part of what is present, so that they hallucinate nothing.
    rows = [json.loads(line) for line in real_data(TABLE).read_text().splitlines()]
    captions = [{"image_id": row["id"], "text": caption} for row in rows for caption in row["captions"]]
    result = score("objhal", real_data(TABLE), write_lines("c.jsonl", captions), synonyms=str(real_data(SYNONYMS)))
    assert result.n == sum(len(row["captions"]) for row in rows)
    assert result.metrics["object_hallucination"].value == 0
    assert result.metrics["object_hallucination"].n > 500


# -- worked counts ----------------------------------------------------------------------------------------------------


@pytest.fixture
def data(write_json: Callable[..., Path]) -> Path:
    return write_json("objects.json", {"1": ["dog", "sofa"], "2": ["car"], "3": ["person"]})


ANSWERS = [
    {"image_id": 1, "prompt": "What?", "answer": "A dog on a sofa with cats and a cat."},
    {"image_id": "COCO_val2014_000000000002.jpg", "prompt": "What?", "answer": "Assistant: A  car."},
    {"image_id": 3, "prompt": "What?", "answer": "Nothing at all here."},
]


def values(result: Result) -> dict[str, tuple[float, int]]:
    return {name: (round(entry.value, 4), entry.n) for name, entry in result.metrics.items()}


def test_worked_counts(data: Path, write_lines: Callable[..., Path]) -> None:
    result = score("objhal", data, write_lines("a.jsonl", ANSWERS))
    assert values(result) == {
        "response_hallucination": (0.5, 2),
        "object_hallucination": (0.4, 5),
        "recall": (0.75, 4),
        "chair_s": (0.3333, 3),
        "words": (round((10 + 3 + 4) / 3, 4), 3),  # two spaces make an empty piece
    }
    assert (result.rule, result.flags, result.unparsed) == ("lemma", [], 0)
    assert result.items[0].details["hallucinated"] == ["cat", "cat"]


@pytest.mark.parametrize("text", ["Nothing.", "", "a dog " * 3000])
def test_models_that_always_say_the_same(data: Path, write_lines: Callable[..., Path], text: str) -> None:
    result = score("objhal", data, write_lines("a.jsonl", [{"image_id": n, "text": text} for n in (1, 2, 3)]))
    flags = [flag.split(":")[0] for flag in result.flags]
    numbers = values(result)
    if "dog" in text:
        assert (numbers["response_hallucination"], numbers["object_hallucination"]) == ((0.6667, 3), (0.6667, 9000))
        assert flags == []
    else:
        assert flags == ["response_hallucination_undefined", "object_hallucination_undefined"]
        assert (numbers["chair_s"], numbers["words"]) == ((0.0, 3), (1.0, 3))


# -- lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phrases", "expected"),
    [
        (["dog", "two dogs", "A Dog"], ["dog"]),
        (["man", "woman"], ["person", "person"]),
        (["the traffic lights", "three wine glasses"], ["traffic light", "wine glass"]),
        (["baby elephant", "train track"], ["elephant"]),
        (["dining table and hot dog"], ["dining table", "hot dog"]),
        (["wooden table", "car key"], []),
        (["toilet", "seat"], ["toilet"]),
        (["some cars", "several dogs", "one cat", "six kites"], ["car", "dog", "cat", "kite"]),
        (["", "the", "☂"], []),
    ],
)
def test_objects_in_a_list(phrases: Sequence[str], expected: list[str]) -> None:
    assert named("some answer of words", noun_extractor=lambda text: phrases) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('["dog", "cat"]', ["dog", "cat"]),
        ("[]", []),
        ('Here it is:\n["dog"]', ["dog"]),
        ('["dog"]\nThat is all.', None),
        ('Here:\n```json\n["dog",\n"cat"]\n```\nDone.', ["dog", "cat"]),
        ("```\nno list\n```", None),
        ("[" * 100_000, None),
        ('{"objects": ["dog"]}', None),
        ("[1, 2]", None),
        ("dog, cat", None),
        ("", None),
    ],
)
def test_replies(reply: str, expected: list[str] | None) -> None:
    assert list_of_reply(reply) == expected


def test_a_judge_lists_the_objects(data: Path, write_lines: Callable[..., Path], tmp_path: Path) -> None:
    asked: list[str] = []

    def judge(prompt: str) -> str:
        asked.append(prompt)
        return "no list" if "Nothing" in prompt else '["dog", "cats", "cat"]'

    answers = write_lines("a.jsonl", [*ANSWERS, {"image_id": 1, "answer": "A dog, cat."}])
    result = score("objhal", data, answers, judge=judge)
    assert len(asked) == 2, "answers of at most three words are not shown to the judge"
    assert all(part in asked[0] for part in ("What?", "A dog on a sofa with cats and a cat."))
    assert values(result)["object_hallucination"] == (0.5, 2)
    assert (result.rule, result.unparsed) == ("judge with our prompt", 1)
    assert result.flags == [
        "no_list: 1 replies of the judge hold no JSON list; their answers count as naming nothing",
        "repeated_images: 1 captions are further ones of their image; each counts",
    ]
    own = tmp_path / "prompt.txt"
    own.write_text("{question}: {answer}")
    again = score("objhal", data, answers, judge=judge, judge_prompt=str(own))
    assert asked[-2] == "What?: A dog on a sofa with cats and a cat."
    assert again.rule == "judge with prompt.txt"


@pytest.mark.parametrize(("text", "expected"), [("a dog here", []), ("there is a dog", ["dog"])])
def test_an_extractor_stands_for_the_judge_and_is_not_asked_about_three_words(text: str, expected: list[str]) -> None:
    assert named(text, noun_extractor=lambda text: ["dog"]) == expected


def test_an_empty_answer_is_no_lost_reply(data: Path, write_lines: Callable[..., Path]) -> None:
    result = score("objhal", data, write_lines("a.jsonl", [ANSWERS[0], {"image_id": 2, "text": "Assistant: "}]))
    assert (result.unparsed, result.flags) == (1, [])


def test_a_judge_that_returns_no_text(data: Path, write_lines: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"the judge of objhal returned \['dog'\], no text"):
        score("objhal", data, write_lines("a.jsonl", ANSWERS), judge=lambda prompt: ["dog"])


# -- files ------------------------------------------------------------------------------------------------------------


def test_the_answer_is_taken_before_a_caption_beside_it(data: Path, write_lines: Callable[..., Path]) -> None:
    row = {"image_id": 1, "caption": "A car.", "text": "A dog."}
    assert score("objhal", data, write_lines("a.jsonl", [row])).items[0].raw == "A dog."


def test_objects_without_a_name_are_flagged(write_json: Callable[..., Path], write_lines: Callable[..., Path]) -> None:
    data = write_json("objects.json", {"1": ["dog", "spoonbill"]})
    (flag,) = score("objhal", data, write_lines("a.jsonl", ANSWERS[:1])).flags
    assert flag.startswith("unknown_objects: 1 ")


def test_two_rows_of_one_image(write_lines: Callable[..., Path]) -> None:
    rows = [{"id": n, "image": "7.jpg", "captions": [], "instances": []} for n in (7, "007.jpg")]
    with pytest.raises(DataError, match="id '7' more than once"):
        score("objhal", write_lines("d.jsonl", rows), write_lines("a.jsonl", [{"image_id": 7, "text": "A dog."}]))


def test_coco_annotations_and_the_official_answer_file(write_json: Callable[..., Path], tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "7.jpg"}]
    boxes = {"categories": [{"id": 18, "name": "dog"}], "annotations": [{"image_id": 7, "category_id": 18}]}
    write_json("coco/instances_val.json", {"images": images, **boxes})
    write_json(
        "coco/captions_val.json", {"images": images, "annotations": [{"image_id": 7, "caption": "Men on sofas."}]}
    )
    answers = write_json("a.json", {"overall": {}, "imgToEval": {"7": {"image_id": 7, "caption": "A dog, a cat."}}})
    result = score("objhal", tmp_path / "coco", answers)
    assert result.items[0].label == ["couch", "dog"]
    assert values(result)["object_hallucination"] == (0.5, 2)
    assert ObjectHalBench(image_name="{id:0>3}.jpg").samples(tmp_path / "coco")[0].media == {"images": ["007.jpg"]}


def test_unknown_images_are_set_aside(data: Path, write_lines: Callable[..., Path]) -> None:
    result = score("objhal", data, write_lines("a.jsonl", [*ANSWERS, {"image_id": 9, "answer": "A dog."}]))
    assert (result.n, result.flags[0].split(" ")[:2]) == (3, ["unknown_ids:", "1"])


@pytest.mark.parametrize(
    "row",
    [
        {"image": "1.jpg", "captions": [], "id": 1},
        {"image": "1.jpg", "instances": [{"category": "dog"}], "id": 1},
        {"image": "1.jpg", "captions": [], "instances": ["dog"], "id": 1},
        {"captions": [], "instances": []},
        {"image": "1.jpg", "captions": "A dog.", "instances": [], "id": 1},
        {"image": "1.jpg", "captions": [1], "instances": [], "id": 1},
        {"image": "1.jpg", "captions": [], "instances": [{"category": None}], "id": 1},
        {"image": "1.jpg", "captions": [], "instances": [], "id": [1]},
    ],
)
def test_images_that_are_none(write_lines: Callable[..., Path], row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="image 1 of"):
        ObjectHalBench().samples(write_lines("d.jsonl", [row]))


@pytest.mark.parametrize("content", [[], {}, {"1": "dog"}])
def test_tables_that_are_none(write_json: Callable[..., Path], content: Any) -> None:
    with pytest.raises(DataError):
        ObjectHalBench().samples(write_json("d.json", content))


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match="is no pattern"):
        ObjectHalBench(image_name="{ids}")
    with pytest.raises(ConfigError, match="judge 'gpt-4' of objhal is no function"):
        ObjectHalBench(judge="gpt-4")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="noun_extractor 'spacy' of objhal is no function"):
        ObjectHalBench(noun_extractor="spacy")  # type: ignore[arg-type]


def test_what_a_reader_is_told(data: Path, write_lines: Callable[..., Path]) -> None:
    result = score("objhal", data, write_lines("a.jsonl", ANSWERS))
    first = result.items[0].to_json()
    assert (first["image"], first["objects"]) == ("1", ["dog", "sofa", "cat", "cat"])
    assert first["parsed"] == ["dog", "couch", "cat", "cat"]
    metrics = {metric.name: (metric.better, metric.role, metric.percent) for metric in ObjectHalBench().metrics(())}
    assert metrics == {
        **dict.fromkeys(
            ("response_hallucination", "object_hallucination", "chair_s"), ("lower", "hallucination", True)
        ),
        "recall": ("higher", "coverage", True),
        "words": ("neither", None, False),
    }


def test_the_command_and_the_comparison(data: Path, write_lines: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out" / "metrics.json"
    words = [
        "score",
        "objhal",
        "--data",
        str(data),
        "--answers",
        str(write_lines("a.jsonl", ANSWERS)),
        "--out",
        str(out),
    ]
    printed = CliRunner().invoke(app, words)
    assert printed.exit_code == 0, printed.output
    assert json.loads(printed.stdout)["metrics"]["object_hallucination"]["value"] == 0.4
    before = Result.load(out.parent)
    better = [{**ANSWERS[0], "answer": "A dog."}, *ANSWERS[1:]]
    gap = compare(before, score("objhal", data, write_lines("b.jsonl", better)))["object_hallucination"]
    assert (gap["difference"]["value"], gap["better"]) == (-0.4, "lower")
