"""Slices of the failures: every expected rate is counted by hand in the example that it is taken from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import scipy.stats

from mmdpo.evals.base import Answer, Sample
from mmdpo.evals.runner import make_benchmark
from mmdpo.report.items import asked_object, failure, kinds, present_objects, said_yes, wrong_objects
from mmdpo.report.object_slices import LEAST_BESIDE, LEAST_TOGETHER
from mmdpo.report.slice_figures import slice_figure
from mmdpo.report.slice_rows import FEW, ROWS, Slice
from mmdpo.report.slices import slices_of


def caption(place: object, present: Sequence[str], named: Sequence[str]) -> dict[str, Any]:
    wrong = [name for name in named if name not in present]
    told = {"raw": " ".join(named), "parsed": list(named), "label": list(present), "hallucinated": wrong}
    return {"id": str(place), "group": f"image {place}", **told}


def question(place: object, thing: str, label: str, said: str | None, image: object = None) -> dict[str, Any]:
    group = f"image {place if image is None else image}"
    told = {"prompt": f"Is there a {thing} in the image?", "label": label, "parsed": said, "correct": said == label}
    return {"id": str(place), "group": group, **told}


def found(columns: dict[str, Sequence[dict[str, Any]]], title: str) -> Slice:
    (one,) = (one for one in slices_of("chair", columns, "picture")[0] if one.title == title)
    return one


def rates(one: Slice) -> dict[str, list[tuple[float, int] | None]]:
    return {row.label: [rate and (round(rate.value, 9), rate.n) for rate in row.rates] for row in one.rows}


def four_captions(after: bool, times: int = 10) -> list[dict[str, Any]]:
    """Ten times: a cat, a cat, a dog, nothing. Made up are the dog of 0 and 3 (then 3) and the cup of 3 (then none)."""
    said = [["cat"], ["cat"], ["dog"], ["dog"]] if after else [["cat", "dog"], ["cat"], ["dog"], ["dog", "cup"]]
    present = [["cat"], ["cat"], ["dog"], []]
    return [caption(4 * again + place, present[place], said[place]) for again in range(times) for place in range(4)]


def test_objects_named_are_counted_over_the_captions_whose_image_lacks_them() -> None:
    one = found({"before": four_captions(False), "after": four_captions(True)}, "By object named")
    assert rates(one) == {
        "dog": [(round(2 / 3, 9), 30), (round(1 / 3, 9), 30)],
        "cup": [(0.25, 40), (0.0, 40)],
    }
    assert [row.share for row in one.rows] == [3 / 4, 1 / 4]  # of 30 + 10 wrong mentions, 30 are dogs
    assert (one.found, list(one.columns)) == (2, ["before", "after"])


def test_intervals_have_the_image_as_unit() -> None:
    one = found({"before": four_captions(False)}, "By object named")
    (dog,) = one.rows[0].rates
    assert dog is not None
    wilson = scipy.stats.binomtest(20, 30).proportion_ci(method="wilson")
    assert (dog.low, dog.high) == pytest.approx((wilson.low, wilson.high))
    # The same answers, twenty to an image, say less.
    together = [{**item, "group": str(place // 20)} for place, item in enumerate(four_captions(False))]
    (wide,) = found({"before": together}, "By object named").rows[0].rates
    assert wide is not None
    assert wide.low is not None
    assert wide.high is not None
    assert (wide.value, wide.n) == (dog.value, 30)
    assert wide.high - wide.low > 1.5 * (wilson.high - wilson.low)


def test_questions_are_counted_for_absent_objects_only() -> None:
    said = [("dog", "no", "yes")] * 6 + [("dog", "no", "no")] * 18 + [("dog", "no", None)] * 6
    said += [("dog", "yes", "no")] * 9 + [("cup", "no", "yes")] * 1 + [("cup", "no", "no")] * 39
    items = [question(place, *one) for place, one in enumerate(said)]
    one = found({"before": items}, "By object asked for")
    assert rates(one) == {"dog": [(0.2, 30)], "cup": [(0.025, 40)]}
    assert [row.share for row in one.rows] == [6 / 7, 1 / 7]


def test_a_present_object_draws_an_absent_one_in() -> None:
    """20 pictures with a table, 10 of which get a chair; 30 without, 3 of which do. A person is in all of them."""
    items = [caption(f"t{n}", ["person", "table"], ["person", *["chair"] * (n < 10)]) for n in range(20)]
    items += [caption(n, ["person"], ["person", *["chair"] * (n < 3)]) for n in range(30)]
    items[0] = caption("t0", ["person", "table"], ["person", "chair", "fork"])
    items[1] = caption("t1", ["person", "table"], ["person", "chair", "fork"])
    one = found({"before": items}, "By object named, and what is there")
    assert rates(one) == {"chair ← table": [(0.5, 20)]}  # two forks are too few; people are everywhere
    (overall,) = one.rows[0].overall
    assert overall is not None
    assert (overall.value, overall.n) == (13 / 50, 50)
    assert one.found == 2  # pairs that happen often enough: chair with table, chair with person


@pytest.mark.parametrize(("beside", "hits"), [(LEAST_BESIDE - 1, LEAST_TOGETHER), (LEAST_BESIDE, LEAST_TOGETHER - 1)])
def test_pairs_that_happen_too_seldom_are_no_pairs(beside: int, hits: int) -> None:
    def items(beside: int, hits: int) -> list[dict[str, Any]]:
        with_table = [caption(f"t{n}", ["table"], ["chair"] * (n < hits)) for n in range(beside)]
        return [*with_table, *(caption(n, [], []) for n in range(30))]

    told = slices_of("chair", {"before": items(beside, hits)}, "picture")[1]
    assert told == ["chair, by object named, and what is there: no object is found clearly often beside another."]
    kept = {"before": items(LEAST_BESIDE, LEAST_TOGETHER)}
    shown = slices_of("chair", kept, "picture")
    # There are ten such pictures, so the only row is one of few answers, and the slice is not shown for that.
    assert shown[1] == [f"chair, by object named, and what is there: no slice has {FEW} answers."]


def test_present_objects_of_questions_are_those_that_other_questions_are_about() -> None:
    items = [question(f"t{n}", "table", "yes", "yes", image=n) for n in range(20)]
    items += [question(f"c{n}", "chair", "no", "yes" if n < 10 else "no", image=n) for n in range(50)]
    one = found({"before": items}, "By object asked for, and what is there")
    assert rates(one) == {"chair ← table": [(0.5, 20)]}
    assert "Known to be there are only the objects that other questions on the same picture are about." in one.remark


def test_the_choice_of_rows_favours_no_model() -> None:
    """Objects that only the first model makes up, and as often the second, come in the same order from both sides."""
    first = [caption(n, [], [f"a{n % 10}"]) for n in range(40)]
    second = [caption(n, [], [f"b{n % 10}"]) for n in range(40)]
    forth = found({"x": first, "y": second}, "By object named")
    back = found({"x": second, "y": first}, "By object named")
    assert [row.label for row in forth.rows] == [row.label for row in back.rows]
    assert [row.label for row in forth.rows] == [f"a{n}" for n in range(10)] + ["b0", "b1"]
    assert (len(forth.rows), forth.found) == (ROWS, 20)


def test_only_items_that_all_models_answered_count() -> None:
    before, after = four_captions(False), four_captions(True)
    one = found({"before": before, "after": after[4:]}, "By object named")
    assert rates(one)["cup"] == [(0.25, 36), (0.0, 36)]


def test_few_answers_are_marked_and_slices_of_nothing_else_are_not_shown() -> None:
    items = [question(n, "dog", "no", "yes") for n in range(FEW)] + [question("c", "cup", "no", "yes")]
    one = found({"before": items}, "By object asked for")
    assert [(row.label, row.few) for row in one.rows] == [("dog", False), ("cup", True)]
    labels = slice_figure(one).axes[0].get_yticklabels()
    assert [text.get_text() for text in labels] == ["dog\nn = 20", "cup\nn = 1, few"]
    shown, told = slices_of("pope", {"before": items[1:]}, "picture")
    assert shown == []
    assert told[0] == f"pope, by object asked for: no slice has {FEW} answers."


def test_kinds_are_rates_of_wrong_answers_and_half_right_counts_half() -> None:
    def item(n: int, kind: str, score: float) -> dict[str, Any]:
        counts = {"questions": 1.0, "score": score, f"questions/{kind}": 1.0, f"score/{kind}": score}
        return {"id": str(n), "group": str(n), "counts": counts}

    before = [item(n, "number", 0.3) for n in range(20)] + [item(n, "other", 0.9) for n in range(20, 60)]
    one = found({"before": before}, "By kind of question")
    assert rates(one) == {"number": [(0.7, 20)], "other": [(0.1, 40)]}
    assert [row.share for row in one.rows] == pytest.approx([14 / 18, 4 / 18])
    _, told = slices_of("vqa", {"before": before}, "picture")
    assert told == ["vqa: its items do not say which objects are there, so it is not sliced by object."]


def test_kinds_without_a_failure_or_a_second_kind_are_no_slices() -> None:
    right = [{"id": str(n), "correct": True, "task": ("a", "b")[n % 2]} for n in range(60)]
    alike = [{"id": str(n), "correct": False, "task": "a"} for n in range(60)]
    assert [slices_of("mme", {"before": items}, "picture")[0] for items in (right, alike)] == [[], []]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"task": "count"}, {"task": ["count"]}),
        ({"task": "music", "difficulty": "hard", "sub_category": None}, {"task": ["music"], "difficulty": ["hard"]}),
        ({"kind": "state", "counts": {"state_questions": 1.0}}, {"kind of question": ["state"]}),
        ({"counts": {"adversarial_questions": 1.0, "adversarial_yes": 1.0}}, {"kind of question": ["adversarial"]}),
        ({"counts": {"questions": 1.0, "questions/yes_no": 1.0}}, {"kind of question": ["yes_no"]}),
        ({"counts": {"type/spatial/questions": 1.0, "a/questions": 0.0}}, {"kind of question": ["spatial"]}),
        ({"counts": {"questions": 1.0}}, {}),
        ({"id": "VD_illusion_0_1_2"}, {"category": ["VD, illusion"]}),
        ({"id": "7", "kind": ""}, {}),
    ],
)
def test_kinds_that_items_tell(item: dict[str, Any], expected: dict[str, list[str]]) -> None:
    assert kinds(item) == expected


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"correct": True}, 0.0),
        ({"correct": False, "counts": {"questions": 1.0, "score": 1.0}}, 1.0),
        ({"counts": {"questions": 1.0, "score": 0.6}}, 0.4),
        ({"counts": {"answers": 1.0, "hallucinated": 1.0}}, 1.0),
        ({"counts": {"mentions": 2.0}}, None),
        ({}, None),
    ],
)
def test_how_far_an_answer_failed(item: dict[str, Any], expected: float | None) -> None:
    assert failure(item) == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Is there a dog in the image?", "dog"),
        ("Is there an Orange  Cat in this picture? Please answer yes or no.", "orange cat"),
        ("Is there any man in the moon in the photo?", "man in the moon"),
        ("Is there a sound of rain in the audio?", "sound of rain"),
        ("Is there one ship in this image?", None),
        ("Is the dog in the image brown?", None),
    ],
)
def test_objects_that_questions_ask_for(prompt: str, expected: str | None) -> None:
    assert asked_object({"prompt": prompt, "label": "no"}) == expected
    assert asked_object({"prompt": prompt, "label": ["dog"]}) is None


def test_items_as_the_benchmarks_write_them() -> None:
    samples = [
        Sample(f"random/{n}", "Is there a dog in the image?", {"images": ["a.png"]}, "no", "a.png", {"kind": "random"})
        for n in range(2)
    ]
    result = make_benchmark("pope").score(samples, [Answer("random/0", "Yes."), Answer("random/1", "No.")])
    first, second = (item.to_json() for item in result.items)
    assert (asked_object(first), said_yes(first), said_yes(second)) == ("dog", True, False)
    assert kinds(first) == {"kind of question": ["random"]}
    described = [Sample("1", "?", {"images": ["a.png"]}, ["cat"], "1")]
    result = make_benchmark("chair").score(described, [Answer("1", "Two cats and a puppy.")])
    item = result.items[0].to_json()
    assert (present_objects(item), wrong_objects(item)) == (frozenset({"cat"}), frozenset({"dog"}))
    forced = make_benchmark("yes_no").score(
        samples[:1], make_benchmark("yes_no").answers([{"question_id": "random/0", "p_yes": 0.9}])
    )
    assert said_yes(forced.items[0].to_json())


def test_amber_tells_what_is_there_in_its_truth() -> None:
    item = {"hallucinated": ["cloud"], "label": {"truth": ["sky"], "hallu": ["sun"]}, "parsed": ["sky", "cloud"]}
    assert (present_objects(item), wrong_objects(item)) == (frozenset({"sky"}), frozenset({"cloud"}))
    assert present_objects({"hallucinated": ["a wrong claim"], "label": None}) is None
