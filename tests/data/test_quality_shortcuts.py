"""What can be told without the media: a planted cue is found, and symmetric data are at chance."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from data_builders.quality.bag_of_words import text_only
from data_builders.quality.logistic import fit, held_out_accuracy
from data_builders.quality.sample import Draw, Sample
from data_builders.quality.style import FEATURES, style, style_of
from mmdpo.records import Candidate, Media, Record, user_message

TEXT = "a the dog cat man red ball runs sits on grass near water with hat green small boy plays old"
WORDS = TEXT.split()


def sample_of(*records: Record) -> Sample:
    draw = Draw(0)
    for record in records:
        draw.add(record, "train")
    return draw.sample(None)


def record(place: int, *candidates: Candidate, image: int | None = None) -> Record:
    media = {"images": (Media(f"{place if image is None else image}.jpg"),)}
    return Record(f"{place:04}", (user_message("Describe.", images=1),), candidates, media)


def random_pairs(seed: int, count: int = 200, cue: str = "", share: float = 0.0) -> Sample:
    """Pairs whose answers are drawn alike, two an image; a share of the chosen ones has a word more."""
    generator = random.Random(seed)

    def text() -> str:
        return " ".join(generator.choices(WORDS, k=8))

    made = []
    for place in range(count):
        added = f" {cue}" if generator.random() < share else ""
        made.append(record(place, Candidate(text() + added), Candidate(text()), image=place // 2))
    return sample_of(*made)


@pytest.mark.slow
@pytest.mark.parametrize("family", [text_only, style])
def test_answers_drawn_alike_are_at_chance(family: Callable[..., Any]):
    """Of forty data sets without any cue the 95% interval should miss one half in two."""
    found = [family(random_pairs(seed))[1][0] for seed in range(40)]
    assert all(one["n"] == 200 for one in found)
    assert np.mean([one["value"] for one in found]) == pytest.approx(0.5, abs=0.02)
    assert sum(not one["low"] <= 0.5 <= one["high"] for one in found) <= 4
    with_an_error_of_a_share_alone = 2 * 1.96 * (0.25 / 200) ** 0.5
    assert np.mean([one["high"] - one["low"] for one in found]) > with_an_error_of_a_share_alone


def test_a_planted_word_is_found_and_named():
    numbers, (found,) = text_only(random_pairs(0, cue="definitely", share=0.8))
    assert numbers is not None and found["low"] > 0.75
    assert numbers["cues"][0]["word"] == "definitely" and numbers["cues"][0]["rejected"] == 0
    assert "“definitely”" in found["message"]


def test_the_cue_may_stand_in_the_rejected_answers():
    forwards = random_pairs(1, cue="perhaps", share=0.7)
    backwards = sample_of(*(record(n, *r.candidates[::-1], image=n // 2) for n, r in enumerate(forwards.records)))
    first, second = text_only(forwards)[1][0], text_only(backwards)[1][0]
    assert first["value"] == pytest.approx(second["value"]), "exchanged answers get the opposite prediction"


def test_an_image_is_never_in_both_parts():
    """Every image has its own word; with the image in both parts it would be learned, without it is chance."""
    made = []
    for place in range(240):
        image = place // 4
        sides = [Candidate(f"word{image}"), Candidate(f"other{image}")]
        made.append(record(place, *(sides if image % 2 else sides[::-1]), image=image))
    assert text_only(sample_of(*made))[1][0]["value"] == 0.5


def test_too_few_images_are_not_measured():
    numbers, (found,) = text_only(random_pairs(0, count=38))
    assert numbers is None and found["value"] is None and "Too little" in found["message"]


def test_labels_are_judged_against_both_classes():
    """Nine of ten answers are desirable: always saying so is no better than chance; the cue is."""
    generator = random.Random(3)
    plain, cued = [], []
    for place in range(300):
        good = place % 10 > 0
        text = " ".join(generator.choices(WORDS, k=8))
        plain.append(record(place, Candidate(text, label=good)))
        cued.append(record(place, Candidate(text + ("" if good else " wrong"), label=good)))
    assert text_only(sample_of(*plain))[1][0]["low"] <= 0.5 <= text_only(sample_of(*plain))[1][0]["high"]
    assert text_only(sample_of(*cued))[1][0]["low"] > 0.8
    same = sample_of(*(record(n, Candidate("x y", label=True)) for n in range(50)))
    assert text_only(same)[1][0]["value"] is None


def test_style_tells_what_differs_in_words():
    generator = random.Random(0)
    made = []
    for place in range(120):
        chosen, rejected = (" ".join(generator.choices(WORDS, k=10)) for _ in range(2))
        hedges = " It seems possibly so." if place % 5 else " It seems so."
        made.append(record(place, Candidate(chosen + hedges), Candidate(rejected + " It is so now .")))
    numbers, (found,) = style(sample_of(*made))
    assert numbers is not None and found["low"] > 0.9
    (hedges,) = (row for row in numbers["features"] if row["name"] == "hedges")
    assert hedges["difference"]["value"] == pytest.approx(1.8)
    assert hedges["weight"] > 0 and "1.8 more hedges" in found["message"]


def test_style_counts():
    text = "I think it seems red!\n- one, two\n2. no picture of NASA?"
    counted = dict(zip((name for name, _ in FEATURES), style_of(text), strict=True))
    assert counted == pytest.approx(
        {
            **{"words": 13, "letters_per_word": 43 / 13, "sentences": 3, "list_lines": 2, "hedges": 1},
            **{"first_person": 1, "negations": 1, "names_the_medium": 1, "numbers": 1, "commas": 1},
            **{"exclamations": 1, "questions": 1, "capitals": 5},
        }
    )
    assert style_of("") == [0.0] * len(FEATURES)


def test_the_fit_is_where_the_gradient_vanishes():
    generator = np.random.default_rng(0)
    rows, signs = generator.normal(size=(60, 3)), np.where(generator.random(60) < 0.5, 1.0, -1.0)
    weights = generator.random(60)
    found = fit(rows, signs, weights)
    gradient = rows.T @ (-weights * signs * expit(-signs * (rows @ found))) + found
    assert gradient == pytest.approx(np.zeros(3), abs=1e-4)


def test_nothing_to_tell_by_is_one_half():
    groups = [str(n) for n in range(30)]
    found = held_out_accuracy(np.zeros((30, 2)), np.ones(30), groups, np.full((30, 2), -1))
    assert found is not None and found.unseen is not None and found.unseen["value"] == 0.5
    assert (found.seen, found.left_out) == (None, 0), "no answer recurs"
