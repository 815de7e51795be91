"""Answers that stand with many media: they count once, are not learned by heart, and widen the intervals."""

import random

import numpy as np
import pytest

from data_builders.quality.bag_of_words import text_only
from data_builders.quality.crossed import crossed_estimate, text_numbers, units_of
from data_builders.quality.lengths import length_bias
from data_builders.quality.logistic import first_rows
from data_builders.quality.sample import Draw, Sample
from data_builders.quality.style import style
from mmdpo.evals.stats import ratio
from mmdpo.records import Candidate, Media, Record, user_message

WORDS = [f"w{n}" for n in range(60)]


def record(place: int, *candidates: Candidate, image: int | None = None) -> Record:
    media = {"images": (Media(f"{place if image is None else image}.jpg"),)}
    return Record(f"{place:04}", (user_message("Describe.", images=1),), candidates, media)


def sample_of(*records: Record) -> Sample:
    draw = Draw(0)
    for one in records:
        draw.add(one, "train")
    return draw.sample(None)


def drawn(generator: random.Random, words: int = 9) -> str:
    return " ".join(generator.choices(WORDS, k=words))


def captions_used_again(seed: int) -> Sample:
    """120 captions, each good or bad by nature and used on five photos or so; their words say nothing."""
    generator = random.Random(seed)
    good, bad = ([drawn(generator) for _ in range(60)] for _ in range(2))
    return sample_of(*(record(n, *map(Candidate, map(generator.choice, (good, bad)))) for n in range(300)))


def test_captions_learned_by_heart_are_no_words_that_tell() -> None:
    found = [text_only(captions_used_again(seed)) for seed in range(6)]
    for numbers, (one,) in found:
        assert numbers is not None and numbers["answers_seen"]["low"] > 0.7
        assert one["low"] <= 0.5 <= one["high"] and one["n"] == 300
        assert "whose answers it has not seen" in one["message"] and "knows from other media" in one["message"]
    assert np.mean([one["value"] for _, (one,) in found]) == pytest.approx(0.5, abs=0.04)


def test_labelled_captions_learned_by_heart_are_no_words_that_tell() -> None:
    """26 captions on 300 pictures, each always desirable or never: the same captions say nothing of others."""
    generator = random.Random(0)
    captions = [drawn(generator) for _ in range(26)]
    used = [generator.randrange(26) for _ in range(300)]
    sample = sample_of(*(record(n, Candidate(captions[one], label=one % 2 == 0)) for n, one in enumerate(used)))
    numbers, (found,) = text_only(sample)
    assert numbers is not None and numbers["answers_seen"]["value"] == 1.0
    assert found["low"] <= 0.5 <= found["high"]
    as_if_all_were_independent = 2 * 1.96 * (0.25 / 300) ** 0.5
    assert found["high"] - found["low"] > 2 * as_if_all_were_independent
    assert style(sample)[1][0]["low"] <= 0.5 <= style(sample)[1][0]["high"]


def test_a_word_that_tells_is_found_in_answers_that_recur() -> None:
    generator = random.Random(1)
    good, bad = [drawn(generator) + " so" for _ in range(80)], [drawn(generator) for _ in range(80)]
    numbers, (found,) = text_only(
        sample_of(*(record(n, *map(Candidate, map(generator.choice, (good, bad)))) for n in range(300)))
    )
    assert numbers is not None and found["low"] > 0.6
    assert numbers["cues"][0]["word"] == "so" and numbers["cues"][0]["chosen"] <= 80


def test_one_caption_used_forty_times_is_one_answer() -> None:
    """The word of one caption that is chosen with 40 photos is no cue; counted by comparisons it is 40 : 0."""
    generator = random.Random(2)
    sides = [(drawn(generator), drawn(generator)) for _ in range(60)]
    sides += [("people gather at an event outside", drawn(generator)) for _ in range(40)]
    sides += [(f"a zebra stands {drawn(generator)}", drawn(generator)) for _ in range(12)]
    numbers, _ = text_only(sample_of(*(record(n, *map(Candidate, side)) for n, side in enumerate(sides))))
    assert numbers is not None
    cues = {cue["word"]: (cue["chosen"], cue["rejected"]) for cue in numbers["cues"]}
    assert cues["zebra"] == (12, 0) and "event" not in cues


def test_an_answer_counts_by_what_it_mostly_is() -> None:
    """Chosen three times and rejected once it is one answer that is chosen; as often both it is none."""
    generator = random.Random(3)
    sides = []
    for place in range(12):
        mostly, both = f"a zebra number n{place} {drawn(generator)}", f"a llama number n{place} {drawn(generator)}"
        sides += [(mostly, drawn(generator))] * 3 + [(drawn(generator), mostly)]
        sides += [(both, drawn(generator)), (drawn(generator), both)]
    numbers, _ = text_only(sample_of(*(record(n, *map(Candidate, side)) for n, side in enumerate(sides))))
    assert numbers is not None
    cues = {cue["word"]: (cue["chosen"], cue["rejected"]) for cue in numbers["cues"]}
    assert cues["zebra"] == (12, 0) and "llama" not in cues


def test_short_answers_recur_by_nature() -> None:
    """A preference for "yes" is one that can be learned without looking, however few different answers there are."""
    sides = [("Yes", "No") if n % 10 else ("No", "Yes") for n in range(200)]
    numbers, (found,) = text_only(sample_of(*(record(n, *map(Candidate, side)) for n, side in enumerate(sides))))
    assert numbers is not None and numbers["answers_seen"] is None and found["low"] > 0.7
    assert {cue["word"]: cue["chosen"] for cue in numbers["cues"]} == {"yes": 180, "no": 20}


def test_two_captions_for_all_media_cannot_be_judged() -> None:
    good, bad = "a dog runs over the wet grass", "two men talk in a dark bar"
    numbers, (found,) = text_only(sample_of(*(record(n, Candidate(good), Candidate(bad)) for n in range(80))))
    assert numbers is not None and found["value"] is None and numbers["left_out"] == 80
    assert numbers["answers_seen"]["value"] == 1.0 and "cannot be judged" in found["message"]


def test_the_interval_over_answers_is_that_of_their_number() -> None:
    """Ten captions on 200 photos, each always right or always wrong, say as much as ten photos do."""
    generator = random.Random(0)
    hits = np.array([n % 10 < 5 for n in range(200)], float)
    columns = {"n": np.ones(200), "hits": hits}
    texts = np.array([[n % 10] for n in range(200)])
    metric = ratio("hits", "hits", "n")
    media = [str(n) for n in range(200)]
    crossed = crossed_estimate(columns, units_of(media, texts), metric)
    apart = crossed_estimate(columns, units_of(media, np.full((200, 1), -1)), metric)
    ten = crossed_estimate({name: column[:10] for name, column in columns.items()}, [np.arange(10)], metric)
    assert apart["high"] - apart["low"] < 0.15
    assert crossed["high"] - crossed["low"] == pytest.approx(ten["high"] - ten["low"], rel=0.15)
    # the same answers spread over the media by chance
    mixed = hits[np.array(generator.sample(range(200), 200))]
    chance = crossed_estimate({"n": np.ones(200), "hits": mixed}, units_of(media, texts), metric)
    assert chance["high"] - chance["low"] < 0.3


def test_recurring_answers_widen_the_interval_of_the_length_bias() -> None:
    generator = random.Random(4)
    long, short = [drawn(generator, 12) for _ in range(6)], [drawn(generator, 8) for _ in range(6)]
    sides = [(long[n % 6], short[n % 5]) if n % 6 > 1 else (short[n % 5], long[n % 6]) for n in range(240)]
    recurring = length_bias(sample_of(*(record(n, *map(Candidate, side)) for n, side in enumerate(sides))))[1][0]
    own = [tuple(f"{text} n{n}" for text in side) for n, side in enumerate(sides)]
    different = length_bias(sample_of(*(record(n, *map(Candidate, side)) for n, side in enumerate(own))))[1][0]
    assert recurring["value"] == different["value"] == pytest.approx(2 / 3)
    assert recurring["high"] - recurring["low"] > 3 * (different["high"] - different["low"])


def test_texts_have_numbers_case_and_white_space_apart() -> None:
    sides = [("A dog runs on grass.", "Yes"), ("a  dog runs on GRASS.", "two men sit in bars")]
    assert text_numbers(sides).tolist() == [[0, -1], [0, 1]]
    media, first, second = units_of(["a", "a"], text_numbers(sides))
    assert media[0] == media[1] and first[0] == first[1] and second[0] != second[1]


def test_at_most_so_many_rows_are_read_and_groups_stay_whole() -> None:
    groups = [str(n // 3) for n in range(90)]
    kept = first_rows(groups, most=30)
    assert len(kept) in (30, 33) and kept == sorted(kept)
    assert all([groups[place] for place in kept].count(name) == 3 for name in {groups[place] for place in kept})
    assert first_rows(groups, most=90) == list(range(90))
