"""CHAIR: worked counts, both lineages' quirks, and published captions against the known numbers."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.base import Result
from mmdpo.evals.chair import Chair
from mmdpo.evals.runner import score
from mmdpo.evals.shared.objects import ObjectNames
from mmdpo.evals.text import singular, tokens

REAL_CAPTIONS = "chair_model_captions/r1-llava1.5-7b.jsonl"


def named(text: str, benchmark: Chair | None = None) -> list[str]:
    """The categories that a caption names, in order."""
    benchmark = benchmark or Chair()
    sample = benchmark._sample("1", [], "here")
    item = benchmark.item("1", sample, benchmark.answers([{"image_id": 1, "caption": text}])[0])
    return item.parsed or []


@pytest.fixture
def pattern(tmp_path: Path) -> Chair:
    """The pattern lineage with a few of its singulars."""
    table = {"bus": "bu", "buses": "bus", "glass": "glas", "glasses": "glass", "wine": "wine", "dogs": "dog"}
    (tmp_path / "singulars.json").write_text(json.dumps({"singular_of": {**table, "dog": "dog"}}))
    return Chair(lineage="pattern", singulars=tmp_path / "singulars.json")


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Two dogs and a sofa.", ["dog", "couch"]),
        ("A dog, a DOG; another dog!", ["dog", "dog", "dog"]),
        ("Men, women and children ride buses.", ["person", "person", "person", "bus"]),
        ("A bus with glasses", ["bus"]),
        ("two wine glasses and a hot dog", ["wine glass", "hot dog"]),
        ("traffic lights, stop signs, fire hydrants", ["traffic light", "stop sign", "fire hydrant"]),
        ("a baby elephant beside an adult bear", ["elephant", "bear"]),
        ("train tracks at home plate", []),
        ("a passenger train", ["train"]),
        ("the toilet seat is up", ["toilet"]),
        ("the seat of the toilet", ["toilet"]),
        ("a seat", ["chair"]),
        ("a bow tie and two neckties", ["tie", "tie"]),
        ("a potted plant, a plant", ["potted plant"]),
        ("hair dryers", ["hair drier"]),
        ("stop sign car, hot dog pizza cat", ["stop sign", "car", "hot dog", "pizza", "cat"]),
        ("a person is seated", ["person", "chair"]),
        ("people skiing", ["person", "skis"]),
        ("boating, canoeing, kayaking and biking", ["boat", "boat", "boat", "bicycle"]),
        ("skateboarding, snowboarding, a scarf tied", ["skateboard", "snowboard", "tie"]),
        ("a vase; two vases", ["vase"]),
        ("geese, knives, sheep, scissors, skis", ["bird", "knife", "sheep", "scissors", "skis"]),
        ("a dog.\n\nA cat", ["dog", "cat"]),
        ("cat/dog teddy-bear catlike", []),
        ("un chien ☂ 狗", []),
        ("", []),
    ],
)
def test_named_objects(caption: str, expected: list[str]) -> None:
    assert named(caption) == expected


@pytest.mark.parametrize("age", ["baby", "adult"])
@pytest.mark.parametrize(
    ("animal", "expected"),
    [
        *((name, [name]) for name in ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra")),
        ("giraffe", ["giraffe"]),
        ("animal", []),
        ("cub", []),
    ],
)
def test_young_animals_are_no_persons(age: str, animal: str, expected: list[str]) -> None:
    assert named(f"a {age} {animal}") == expected


def test_pattern_knows_only_its_table(pattern: Chair) -> None:
    assert named("a bus, buses, two dogs, a cat", pattern) == ["bus", "dog"]
    assert named("a wine glass, wine glasses", pattern) == ["wine glass", "wine glass"]


@pytest.fixture
def objects(write_json: Callable[..., Path]) -> Path:
    return write_json("objects.json", {"1": ["dog", "couch", "person"], "2": ["car"], "3": [], "4": ["dog"]})


CAPTIONS = [
    {"image_id": 1, "caption": "A dog on a sofa beside a cat and another cat."},
    {"image_id": "000000000002.jpg", "caption": "Cars, a car, a truck."},
    {"image_id": "COCO_val2014_000000000003.jpg", "caption": "Nothing."},
]


def numbers(result: Result) -> dict[str, tuple[float, int]]:
    return {name: (round(entry.value, 6), entry.n) for name, entry in result.metrics.items()}


def test_worked_counts(objects: Path, write_lines: Callable[..., Path]) -> None:
    result = score("chair", objects, write_lines("c.jsonl", CAPTIONS))
    assert numbers(result) == {
        "chair_s": (0.666667, 3),
        "chair_i": (0.428571, 7),  # cat, cat, truck of dog, couch, cat, cat, car, car, truck
        "recall": (0.75, 4),  # dog, couch and car; the person is missed
        "objects_per_caption": (2.333333, 3),
    }
    assert (result.rule, result.n, result.flags) == ("lemma", 3, [])
    first = result.items[0].to_json()
    assert (first["objects"], first["hallucinated"]) == (["dog", "sofa", "cat", "cat"], ["cat", "cat"])
    assert "correct" not in first


def test_packed_data_and_the_official_caption_file(
    objects: Path, write_json: Callable[..., Path], write_lines: Callable[..., Path], tmp_path: Path
) -> None:
    packed = tmp_path / "objects.json.gz"
    packed.write_bytes(gzip.compress(objects.read_bytes()))
    official = write_json(
        "official.json", {"overall": {"CIDEr": 1.0}, "imgToEval": {str(i): c for i, c in enumerate(CAPTIONS)}}
    )
    plain = score("chair", objects, write_lines("c.jsonl", CAPTIONS))
    assert numbers(score("chair", packed, official)) == numbers(plain)


def test_a_model_that_names_nothing(objects: Path, write_lines: Callable[..., Path]) -> None:
    rows = [{"image_id": 1, "caption": "A scene."}, {"image_id": 2, "caption": ""}]
    result = score("chair", objects, write_lines("c.jsonl", rows))
    assert numbers(result)["chair_i"] == (0.0, 0)
    assert (result.metrics["chair_i"].low, result.metrics["chair_i"].high) == (0.0, 1.0)
    assert result.metrics["chair_s"].high > 0.5
    assert [flag.split(":")[0] for flag in result.flags] == ["chair_i_undefined"]
    assert result.unparsed == 1


def test_further_captions_count_and_unknown_images_do_not(objects: Path, write_lines: Callable[..., Path]) -> None:
    rows = [*CAPTIONS, {"image_id": 4, "caption": "A cat."}, {"image_id": 4, "text": "A dog."}]
    result = score("chair", objects, write_lines("c.jsonl", [*rows, {"image_id": 77, "caption": "A dog."}]))
    assert result.n == 5
    assert [item.id for item in result.items] == ["1", "2", "3", "4", "4#2"]
    assert [flag.split(" ")[:2] for flag in result.flags] == [["unknown_ids:", "1"], ["repeated_images:", "1"]]


def test_objects_without_a_name_are_flagged(write_json: Callable[..., Path], write_lines: Callable[..., Path]) -> None:
    data = write_json("objects.json", {"1": ["dog", "spoonbill"]})
    (flag,) = score("chair", data, write_lines("c.jsonl", CAPTIONS[:1])).flags
    assert flag.startswith("unknown_objects: 1 ")
    assert "spoonbill" in flag


def test_synonyms_in_the_data_mean_their_category(
    write_json: Callable[..., Path], write_lines: Callable[..., Path]
) -> None:
    data = write_json("objects.json", {"1": ["sofa", "dog"]})
    assert score("chair", data, write_lines("c.jsonl", CAPTIONS[:1])).metrics["recall"].value == 1.0


@pytest.mark.parametrize("suffix", [".txt", ".json"])
def test_a_vocabulary_of_ones_own(
    tmp_path: Path, write_json: Callable[..., Path], write_lines: Callable[..., Path], suffix: str
) -> None:
    table = tmp_path / f"shapes{suffix}"
    table.write_text(
        "circle, disc, round thing\nstar\n" if suffix == ".txt" else '{"circle": ["disc", "round thing"], "star": []}'
    )
    data = write_json("scenes.json", {"scene_1.png": ["star"], "scene_2.png": ["star"]})
    rows = [
        {"image_id": "scene_1.png", "caption": "Two discs and a round thing, stars, a dog."},
        {"image_id": "scene_2", "caption": "a star"},
    ]
    result = score("chair", data, write_lines("c.jsonl", rows), synonyms=str(table))
    assert result.items[0].parsed == ["circle", "circle", "star"]
    assert result.rule == f"lemma; synonyms shapes{suffix}"
    assert numbers(result)["chair_s"] == (0.5, 2)
    assert Chair(synonyms=table).samples(data)[0].media == {"images": ["scene_1.png"]}


def test_an_own_lemmatizer_takes_the_place_of_the_rules(objects: Path, write_lines: Callable[..., Path]) -> None:
    chair = Chair(lemmatize=lambda text: text.lower().replace("chien", "dog").split())
    result = chair.score(chair.samples(objects), chair.answers([{"image_id": 1, "caption": "un chien"}]))
    assert result.items[0].parsed == ["dog"]
    assert result.rule == "lemma; given lemmatizer"


def test_image_names_from_ids(objects: Path) -> None:
    samples = Chair(image_name="COCO_val2014_{id:0>12}.jpg").samples(objects)
    assert samples[1].media == {"images": ["COCO_val2014_000000000002.jpg"]}


def test_what_a_reader_is_told(objects: Path, write_lines: Callable[..., Path]) -> None:
    first = score("chair", objects, write_lines("c.jsonl", CAPTIONS)).items[0].to_json()
    assert (first["image"], first["label"], first["parsed"]) == (
        "1",
        ["couch", "dog", "person"],
        ["dog", "couch", "cat", "cat"],
    )
    assert first["prompt"] == "Please describe this image in detail."
    assert {metric.name: (metric.better, metric.percent) for metric in Chair().metrics(())} == {
        "chair_s": ("lower", True),
        "chair_i": ("lower", True),
        "recall": ("higher", True),
        "objects_per_caption": ("neither", False),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lineage": "lema"}, "Did you mean 'lemma'"),
        ({"lineage": "pattern"}, "with singulars 'None'"),
        ({"singulars": "x.json"}, "lineage 'lemma' with singulars"),
        ({"lineage": "pattern", "singulars": "x.json", "lemmatize": str.split}, "with a lemmatizer"),
        ({"lemmatize": "spacy"}, "lemmatize 'spacy' of chair is no function"),
        ({"image_name": "{id.name}"}, "is no pattern"),
        ({"image_name": "{"}, "is no pattern"),
        ({"image_name": "image.jpg"}, "has no place for the id"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Chair(**options)


@pytest.mark.parametrize("data", [[], {}, {"1": "dog"}, {"1": [1]}, {"1": {"objects": []}}, {"1": None}])
def test_wrong_data(write_json: Callable[..., Path], data: Any) -> None:
    with pytest.raises(DataError):
        Chair().samples(write_json("objects.json", data))


@pytest.mark.parametrize(
    "content", [{"imgToEval": []}, {"imgToEval": {}}, {"imgToEval": {"1": "a dog"}}, [{"imgToEval": 1}]]
)
def test_wrong_official_caption_files(write_json: Callable[..., Path], content: Any) -> None:
    with pytest.raises(DataError, match="is no table of captions"):
        Chair().read_answers(write_json("c.json", content))


def test_two_keys_for_one_image(write_json: Callable[..., Path], write_lines: Callable[..., Path]) -> None:
    data = write_json("objects.json", {"42": ["dog"], "000042.jpg": ["cat"]})
    with pytest.raises(DataError, match="id '42' more than once"):
        score("chair", data, write_lines("c.jsonl", [{"image_id": 42, "caption": "a dog"}]))


@pytest.mark.parametrize("table", [[], "dogs", {"singular_of": []}, {"singular_of": {"dogs": 1}}, {"dogs": ["dog"]}])
def test_wrong_singulars(write_json: Callable[..., Path], table: Any) -> None:
    with pytest.raises(DataError, match="is no table of singulars"):
        named("two dogs", Chair(lineage="pattern", singulars=write_json("s.json", table)))


@pytest.mark.parametrize("text", ["", "[1]", '{"a": "b"}', '{"a": [1]}'])
def test_wrong_synonyms(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(DataError):
        ObjectNames.load(tmp_path / "s.json")


def test_coco_annotations(tmp_path: Path, write_json: Callable[..., Path], write_lines: Callable[..., Path]) -> None:
    images = [{"id": 7, "file_name": "000000000007.jpg"}, {"id": 8, "file_name": "000000000008.jpg"}]
    write_json(
        "coco/instances_val2017.json",
        {
            "images": images,
            "categories": [{"id": 18, "name": "dog"}],
            "annotations": [{"image_id": 7, "category_id": 18}],
        },
    )
    with pytest.raises(DataError, match="lacks instances_"):
        Chair().samples(tmp_path / "coco")
    captions = {"images": images, "annotations": [{"image_id": 7, "caption": "A puppy under two tables."}]}
    write_json("coco/captions_val2017.json", captions)
    samples = Chair().samples(tmp_path / "coco")
    assert [(s.id, s.target, s.media) for s in samples] == [
        ("7", ["dining table", "dog"], {"images": ["000000000007.jpg"]}),
        ("8", [], {"images": ["000000000008.jpg"]}),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"annotations": [{"image_id": 9, "caption": "A dog."}]},
        {"annotations": [{"image_id": 7, "caption": None}]},
        {"annotations": [{"image_id": 7, "category_id": 2}]},
        {"annotations": {}},
        {"annotations": None},
        {"images": [{"id": 8, "file_name": 8}]},
        {"images": ""},
        {"categories": [{"id": 1, "name": None}]},
        {"categories": {}},
        [],
        "text",
    ],
)
def test_coco_annotations_of_another_form(tmp_path: Path, write_json: Callable[..., Path], change: Any) -> None:
    good = {"images": [{"id": 7, "file_name": "7.jpg"}], "annotations": [{"image_id": 7, "caption": "A dog."}]}
    write_json("coco/instances_val2017.json", {**good, "annotations": [], "categories": []})
    write_json("coco/captions_val2017.json", good | change if isinstance(change, dict) else change)
    with pytest.raises(DataError, match="is not of COCO's form"):
        Chair().samples(tmp_path / "coco")


# -- real data --------------------------------------------------------------------------------------------------------


@pytest.fixture
def score_real(real_data: Callable[[str], Path], write_json: Callable[..., Path]) -> Callable[..., Result]:
    """Scores the 500 captions against their images' objects, cut out of the table of all COCO images."""
    captions = real_data(REAL_CAPTIONS)
    every = json.loads(gzip.decompress(real_data("chair_gt/imid_to_objects.json.gz").read_bytes()))
    ids = [str(int(json.loads(line)["image_id"].split(".")[0])) for line in captions.read_text().splitlines()]
    data = write_json("objects.json", {image: every[image] for image in ids})

    def run(**tables: str) -> Result:
        options = {name: real_data(path) for name, path in tables.items()}
        lineage = "pattern" if "singulars" in tables else "lemma"
        return score("chair", data, captions, lineage=lineage, **options)

    return run


@pytest.mark.slow
def test_the_table_of_all_images_is_read(real_data: Callable[[str], Path]) -> None:
    assert len(Chair().samples(real_data("chair_gt/imid_to_objects.json.gz"))) == 123_287


def percent(result: Result, name: str, digits: int = 1) -> float:
    return round(100 * result.metrics[name].value, digits)


def test_pattern_lineage_gives_the_known_numbers(score_real: Callable[..., Result]) -> None:
    result = score_real(synonyms="chair_gt/synonyms.txt", singulars="chair_gt/pattern_surface_forms.json")
    assert percent(result, "chair_s") == 49.8
    assert percent(result, "chair_i", 2) == 15.38
    assert percent(result, "recall") == 76.6


def test_lemma_lineage_is_near_the_numbers_of_opera(score_real: Callable[..., Result]) -> None:
    result = score_real(synonyms="chair_gt/synonyms.txt")
    assert percent(result, "chair_s") == 50.4
    assert percent(result, "chair_i", 2) == pytest.approx(15.62, abs=0.2)
    assert percent(result, "recall", 2) == pytest.approx(77.2, abs=0.2)


def test_our_table_of_names_says_nearly_the_same(score_real: Callable[..., Result]) -> None:
    ours, official = score_real(), score_real(synonyms="chair_gt/synonyms.txt")
    for name in ("chair_s", "chair_i", "recall"):
        assert percent(ours, name) == pytest.approx(percent(official, name), abs=1)


def test_our_table_has_the_80_categories(real_data: Callable[[str], Path]) -> None:
    ours = ObjectNames.load()
    lines = real_data("chair_gt/synonyms.txt").read_text().splitlines()
    assert set(ours.category_of.values()) == {line.split(",")[0].strip() for line in lines}


def test_coco_folder_agrees_with_the_published_objects(real_data: Callable[[str], Path]) -> None:
    chair = Chair(
        lineage="pattern",
        singulars=real_data("chair_gt/pattern_surface_forms.json"),
        synonyms=real_data("chair_gt/synonyms.txt"),
    )
    published = json.loads(gzip.decompress(real_data("chair_gt/imid_to_objects.json.gz").read_bytes()))
    samples = chair.samples(real_data("coco_mini/annotations"))
    assert len(samples) == 159
    assert sum(sample.target == published[sample.id] for sample in samples) >= 155


# -- invariants -------------------------------------------------------------------------------------------------------


def test_every_name_of_our_table_is_found_in_singular_and_plural() -> None:
    names = ObjectNames.load()
    for name, category in names.category_of.items():
        for written in (name, f"{name}s"):
            words = [singular(word, names.words) for word in tokens(written)]
            assert [mention.category for mention in names.mentions(words)] == [category], written


@given(
    st.lists(st.sampled_from(["dog", "cats", "hot", "wine", "glasses", "sky", "seat", "toilet", "baby"]), max_size=9)
)
def test_captions_side_by_side_name_what_each_names(words: list[str]) -> None:
    caption = " ".join(words)
    once, twice = named(caption), named(f"{caption} . {caption}")
    assert twice == once * 2
