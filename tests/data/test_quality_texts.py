"""Repeated and nearly repeated answers and media, languages, questions and objects."""

import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_builders.quality.coverage import objects, question_type, questions
from data_builders.quality.languages import UNKNOWN, language_mix, language_of
from data_builders.quality.pictures import duplicate_media
from data_builders.quality.sample import Draw, Sample
from data_builders.quality.texts import identical_answers, near_copies, near_duplicates, repeated_answers
from mmdpo.records import Candidate, Media, Record, user_message


def pair(name: str, chosen: str, rejected: str, image: str, prompt: str = "Describe the image.") -> Record:
    candidates = (Candidate(chosen), Candidate(rejected))
    return Record(name, (user_message(prompt, images=1),), candidates, {"images": (Media(image),)})


def sample_of(*records: Record, root: Path | None = None, splits: tuple[str, ...] = ()) -> Sample:
    draw = Draw(0)
    for place, record in enumerate(records):
        draw.add(record, splits[place] if splits else "train")
    return draw.sample(root)


def test_near_copies_are_those_of_brute_force():
    generator = random.Random(0)
    vocabulary = [f"w{n}" for n in range(30)]
    texts = [" ".join(generator.choices(vocabulary, k=30)) for _ in range(60)]
    for text in texts[:40]:
        parts = text.split()
        for change in generator.sample(range(30), generator.choice((1, 1, 2, 4))):
            parts[change] = "changed"
        texts.append(" ".join(parts))
    texts = list(dict.fromkeys(texts))

    def pieces(text: str) -> set[tuple[str, ...]]:
        parts = text.split()
        return {tuple(parts[n : n + 3]) for n in range(len(parts) - 2)}

    alike = {
        (a, b)
        for a, b in combinations(range(len(texts)), 2)
        if len(pieces(texts[a]) & pieces(texts[b])) >= 0.8 * len(pieces(texts[a]) | pieces(texts[b]))
    }
    assert len(alike) > 10
    assert {tuple(group) for group in near_copies(texts)} == alike, "no three of them are alike"


def test_copies_within_one_prompt_are_what_a_pair_is():
    base = "a man in a red coat walks his small dog along the quiet beach at dusk with a friend"
    apart = pair("2", base.replace("friend", "brother"), "nothing of that kind is to be seen here", "b")
    numbers, (found,) = near_duplicates(sample_of(pair("1", base, base.replace("friend", "boy"), "a")))
    assert numbers["near_copies"] == 0 and found["value"] == 0
    numbers, (found,) = near_duplicates(sample_of(pair("1", base, "two cats sleep on an old sofa", "a"), apart))
    assert (numbers["near_copies"], numbers["answers"]) == (2, 4) and found["value"] == 0.5


def test_answers_given_to_other_media():
    same, other = "A dog runs over the grass.", "A cat sleeps on the sofa."
    records = [pair("1", same, other, "a"), pair("2", "a dog runs over  the grass.", "Two men talk in a bar.", "b")]
    records += [
        pair("3", other, "Nobody is there at all.", "c"),
        pair("4", "Yes", "No", "d"),
        pair("5", "Yes", "No", "e"),
    ]
    numbers, (found,) = repeated_answers(sample_of(*records))
    assert found["n"] == 3, "answers of a word or two recur by nature"
    assert found["value"] == 1.0 and numbers["chosen_and_rejected"] == 1
    assert numbers["most_frequent"][0]["media_groups"] == 2
    alone = repeated_answers(sample_of(records[0], records[2].__class__(**{**vars(records[3])})))[1][0]
    assert alone["value"] == 0.0


def test_the_same_words_and_no_words():
    records = [pair("1", "A red car.", "a red, car", "a"), pair("2", "!", "x", "b"), pair("3", "x", "y", "c")]
    numbers, (found,) = identical_answers(sample_of(*records))
    assert numbers == {"same_words": 1, "without_words": 1, "comparisons": 3}
    assert found["value"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("A dog is running on the beach with its owner.", "en"),
        ("Der Hund läuft mit einem Ball auf der Wiese.", "de"),
        ("Le chien est assis dans le jardin avec une balle.", "fr"),
        ("El perro está en la playa con una pelota.", "es"),
        ("Il cane è sul prato con una palla e non si muove.", "it"),
        ("O cão está no jardim com uma bola e não se mexe.", "pt"),
        ("De hond loopt met een bal op het strand.", "nl"),
        ("Pies jest na plaży i nie ma piłki.", "pl"),
        ("Hunden är på stranden och det är en boll.", "sv"),
        ("Köpek bir top ile ve çok mutlu değil.", "tr"),
        ("犬が海辺を走っています。", "ja"),
        ("一只狗在海滩上奔跑。", "zh"),
        ("개가 해변을 달리고 있다.", "ko"),
        ("Собака бежит по пляжу.", "Cyrillic"),
        ("कुत्ता दौड़ रहा है", "Devanagari"),
        ("Dog.", UNKNOWN),
        ("42 !?", UNKNOWN),
    ],
)
def test_language_of(text: str, language: str):
    assert language_of(text) == language


def test_pairs_in_two_languages():
    english, german = "A dog is on the beach with its owner.", "Ein Hund ist mit dem Ball auf der Wiese."
    records = [pair("1", english, german, "a"), pair("2", english, english + " And there is a man.", "b")]
    numbers, (found,) = language_mix(sample_of(*records, pair("3", "Yes", "No", "c")))
    assert numbers["answers"] == {"en": 3, "unknown": 2, "de": 1}
    assert (found["value"], found["n"]) == (0.5, 2)


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("How many dogs are there?", "how many"),
        ("How is the weather?", "how"),
        ("What is on the table?", "what"),
        ("Is there a dog?", "yes or no"),
        ("Where is the man?", "where"),
        ("Who is he?", "who"),
        ("Which colour has it?", "which"),
        ("Why does he smile?", "why"),
        ("Please describe this image in detail.", "describe"),
        ("Hello", "other"),
    ],
)
def test_question_type(prompt: str, kind: str):
    assert question_type(prompt) == kind


def test_variety_of_questions():
    records = [pair(str(n), "x", "y", str(n), "Is it red?" if n < 3 else "What is it?") for n in range(4)]
    numbers, (found,) = questions(sample_of(*records))
    assert numbers["kinds"] == {"yes or no": 3, "what": 1} and found["value"] == 0.75
    assert "how many" in numbers["missing"] and "yes or no" not in numbers["missing"]


def test_objects_by_their_synonyms():
    records = [
        pair("1", "Two puppies sit on a couch.", "A kitten on a couch.", "a"),
        pair("2", "A woman rides a bike.", "A woman.", "b"),
    ]
    numbers, (found,) = objects(sample_of(*records))
    rows = {row["object"]: row for row in numbers["most"]}
    assert (rows["dog"]["chosen_alone"], rows["cat"]["rejected_alone"]) == (1, 1)
    assert (rows["person"]["records"], rows["person"]["chosen_alone"]) == (1, 0)
    assert "dog" not in numbers["missing"] and "toaster" in numbers["missing"]
    assert found["value"] == pytest.approx(5 / 80)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six pictures of smooth noise; the last is the first one smaller and darker."""
    for n in range(5):
        noise = np.random.default_rng(n).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(noise).resize((96, 96), Image.Resampling.BICUBIC).save(tmp_path / f"{n}.png")
    with Image.open(tmp_path / "0.png") as first:
        first.resize((64, 64)).point(lambda value: int(0.95 * value)).save(tmp_path / "5.png")
    return tmp_path


def test_near_copies_of_pictures_on_both_sides_of_the_split(photos: Path):
    records = [pair(str(n), "x", "y", f"{n}.png") for n in range(6)]
    numbers, (found, leak) = duplicate_media(sample_of(*records, root=photos, splits=("train",) * 5 + ("validation",)))
    assert (numbers["opened"], numbers["near_copies"], numbers["across_splits"]) == (6, 2, 1)
    assert set(numbers["examples"][0]) == {"0.png", "5.png"}
    assert found["value"] == pytest.approx(2 / 6) and leak["name"] == "leaking_media" and leak["value"] > 0
    assert len(duplicate_media(sample_of(*records, root=photos))[1]) == 1, "no leak without a second split"


def test_the_same_content_under_two_names():
    def named(name: str, path: str) -> Record:
        record = pair(name, "x", "y", path)
        return Record(name, record.prompt, record.candidates, {"images": (Media(path, sha256="s"),)})

    numbers, (found,) = duplicate_media(sample_of(named("1", "a.png"), named("2", "b.png")))
    assert numbers["same_content"] == 1 and found["value"] is None, "neither can be opened"
    assert "0 of 1 pictures could be opened" in found["message"]
