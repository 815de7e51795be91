"""Numbers about records."""

import pytest
from scipy.stats import binomtest

from data_builders.quality import measure
from data_builders.splits import media_groups, split_by_media
from mmdpo.records import Candidate, Media, Record, Records, user_message


def record(name: str, chosen: str, rejected: str, *images: str, scores: tuple[float, float] | None = None) -> Record:
    candidates = [
        Candidate(text, score=score) for text, score in zip((chosen, rejected), scores or (None, None), strict=True)
    ]
    media = {"images": tuple(Media(image) for image in images)} if images else {}
    prompt = (user_message("Look.", images=len(images)),)
    return Record(name, prompt, candidates, media, None if scores is None else True)


def test_independent_pairs_have_wilsons_interval():
    """Each pair on an image of its own: the share's interval is Wilson's, up to t in place of the normal quantile."""
    records = Records(
        record(str(i), "one two" if i < 40 else "one", "1" if i < 40 else "1 2", str(i)) for i in range(60)
    )
    share = measure(records)["length"]["longer_is_chosen"]
    known = binomtest(40, 60).proportion_ci(method="wilson")
    assert (share["low"], share["high"]) == pytest.approx((known.low, known.high), abs=0.005)


def test_pairs_of_one_image_count_once():
    """The same sixty pairs on six images tell less."""
    records = Records(
        record(str(i), "one two" if i < 40 else "one", "1" if i < 40 else "1 2", str(i // 10)) for i in range(60)
    )
    share = measure(records)["length"]["longer_is_chosen"]
    assert share["value"] == pytest.approx(2 / 3) and share["n"] == 60
    assert share["high"] - share["low"] > 0.5


def test_length_and_margins():
    records = Records(
        [
            record("1", "one two three", "one", "a", scores=(4, 1)),
            record("2", "one", "one two", "b", scores=(2, 1)),
            record("3", "one two", "two one", "c", scores=(3, 2)),
        ]
    )
    result = measure(records)
    assert result["length"]["difference"]["value"] == pytest.approx((2 - 1 + 0) / 3)
    assert (result["length"]["longer_is_chosen"]["value"], result["length"]["longer_is_chosen"]["n"]) == (0.5, 2)
    assert result["length"]["equal_length"] == 1
    assert result["margin"]["mean"] == pytest.approx(5 / 3)
    assert sum(result["margin"]["histogram"]["counts"]) == 3
    assert result["media"] == {"images": 3}
    assert {example["id"] for example in result["examples"]} == {"1", "2", "3"}
    assert result["problems"] == {}


def test_records_that_are_no_pairs():
    single = Record("1", (user_message("Hi"),), (Candidate(""),))
    result = measure(Records([single]))
    assert (result["form"], result["length"], result["margin"], result["examples"]) == ("unpaired", None, None, [])
    assert result["problems"] == {"empty_candidate": 1}


def test_records_that_share_an_image_stay_together():
    records = Records([record("1", "x", "y", "a", "b"), record("2", "x", "y", "b", "c"), record("3", "x", "y", "c")])
    assert len(set(media_groups(records))) == 1
    assert list(split_by_media(records, 0.5)) == ["train"], "one group cannot be split"


def test_the_same_content_under_two_names_is_one_image():
    def named(path: str) -> Record:
        candidates = (Candidate("x"), Candidate("y"))
        return Record(path, (user_message("?", images=1),), candidates, {"images": (Media(path, sha256="s"),)})

    assert len(set(media_groups([named("a.jpg"), named("copy.jpg")]))) == 1


def test_split_share_seed_and_order():
    records = Records([record(str(i), "x", "y", f"{i // 2}") for i in range(40)])
    splits = split_by_media(records, 0.25, seed=1)
    assert {name: len(part) for name, part in splits.items()} == {"train": 30, "validation": 10}
    images = {name: {item.path for r in part for _, item in r.media_items()} for name, part in splits.items()}
    assert not images["train"] & images["validation"]
    backwards = split_by_media(records[::-1], 0.25, seed=1)
    assert {r.id for r in backwards["validation"]} == {r.id for r in splits["validation"]}
    assert {r.id for r in split_by_media(records, 0.25, seed=2)["validation"]} != {r.id for r in splits["validation"]}
    assert list(split_by_media(records, 0.0)) == ["train"]
    assert len(split_by_media(records, 0.001)["validation"]) == 2, "one image at least"


def test_text_only_records_are_grouped_by_their_prompt():
    assert len(set(media_groups([record("1", "x", "y"), record("2", "x", "z")]))) == 1
