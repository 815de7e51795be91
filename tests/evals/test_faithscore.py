"""FaithScore: the official arithmetic restated, injected models, people's labels and what they mean."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.official_rules import score_command
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.faithscore import KINDS, Claims, FaithScore, faithful_sentences, last_word, said_yes
from mmdpo.evals.runner import score


def script_sentences(lists: dict[str, list[str]], right: dict[str, bool], sentences: list[str]) -> float:
    """The official sentence score of one answer, written anew: a flag for each sub-sentence, entity by entity."""
    flags = []
    for sentence in sentences:
        flag = True
        for entity in lists["entities"]:
            word = entity.split()[-1].rstrip(".")
            if word in sentence and not right[entity]:
                flag = False
            for kind in ("relations", "colors", "counting", "other"):
                for fact in lists[kind]:
                    if word in sentence and word in fact and not right[fact]:
                        flag = False
        flags.append(flag)
    return sum(flags) / len(flags) if flags else 1.0


def drawn(generator: random.Random) -> tuple[dict[str, list[str]], dict[str, bool], list[str]]:
    things = ["man", "woman", "dog", "hot dog", "table"]
    present = generator.sample(things, generator.randint(0, 4))
    lists = {
        "entities": [f"There is a {thing}." for thing in present],
        "relations": [f"The {thing} is on the {generator.choice(things)}." for thing in present[:2]],
        "colors": [f"The {thing} is red." for thing in present[1:3]],
        "counting": [f"There are two {generator.choice(things)}s here."] if present else [],
        "other": [f"The {thing} is old." for thing in present[:1]],
    }
    right = {fact: generator.random() < 0.7 for facts in lists.values() for fact in facts}
    sentences = [
        f"A {generator.choice(things)} by a {generator.choice(things)}" for _ in range(generator.randint(0, 4))
    ]
    return lists, right, sentences


def test_the_official_scores(write_lines: Callable[..., Path]) -> None:
    generator = random.Random(3)
    answers = [drawn(generator) for _ in range(200)]
    rows = [
        {
            "id": f"{number // 2}",
            "answer": f"answer {number}",
            "facts": {fact: int(value) for fact, value in right.items()},
            "kinds": {fact: kind for kind, facts in lists.items() for fact in facts},
            "sentences": sentences,
        }
        for number, (lists, right, sentences) in enumerate(answers)
    ]
    data = write_lines("d.jsonl", [{"id": f"{number}", "image": f"{number}.jpg"} for number in range(100)])
    metrics = score("faithscore", data, write_lines("a.jsonl", rows)).metrics
    each = [sum(right.values()) / len(right) if right else 0 for _, right, _ in answers]
    assert metrics["score"].value == pytest.approx(sum(each) / 200, abs=1e-12)
    by_sentence = [script_sentences(*answer) for answer in answers]
    assert metrics["sentence_score"].value == pytest.approx(sum(by_sentence) / 200, abs=1e-12)
    assert 0.2 < metrics["sentence_score"].value < 0.9
    colors = [right[fact] for lists, right, _ in answers for fact in lists["colors"]]
    assert (metrics["accuracy/colors"].value, metrics["accuracy/colors"].n) == (sum(colors) / len(colors), len(colors))


def test_nouns_are_looked_for_as_letters() -> None:
    claims = Claims({"There is a man.": "entities"}, ["a woman walks", "a dog"])
    assert faithful_sentences(claims, {"There is a man.": False}, last_word) == 1
    assert faithful_sentences(claims, {"There is a man.": True}, last_word) == 2
    other = Claims({"There is a dog.": "entities", "The cat is red.": "colors"}, ["a dog", "a red cat"])
    # A wrong fact about no entity spoils nothing, and a fact without words neither.
    assert faithful_sentences(other, {"There is a dog.": True, "The cat is red.": False}, last_word) == 2
    assert faithful_sentences(Claims({"": "entities"}, ["a"]), {"": False}, last_word) == 1


def test_two_injected_models_do_the_work(write_lines: Callable[..., Path]) -> None:
    def split(answer: str) -> Claims:
        things = answer.split()
        return Claims({f"There is a {thing}.": KINDS[0] for thing in things}, [f"a {thing}" for thing in things])

    def verify(image: str, fact: str) -> bool:
        return said_yes("Yes." if image == "a.jpg" and "dog" in fact else "no")

    data = write_lines("d.jsonl", [{"id": 1, "image": "a.jpg", "question": "What?"}, {"id": 2, "image": "b.jpg"}])
    benchmark = FaithScore(split=split, verify=verify)
    samples = benchmark.samples(data)
    rows = [{"id": 1, "answer": "dog cat"}, {"id": 2, "answer": "dog"}, {"id": 2, "answer": ""}]
    result = benchmark.score(samples, benchmark.answers(rows))
    values = {name: metric.value for name, metric in result.metrics.items()}
    assert values["score"] == pytest.approx((0.5 + 0 + 0) / 3)
    assert values["sentence_score"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert values["wrong_facts"] == pytest.approx(2 / 3)
    assert result.rule == "split by split; verified by verify"
    assert result.items[0].details["hallucinated"] == ["There is a cat."]
    assert [item.parsed for item in result.items] == [["There is a dog.", "There is a cat."], ["There is a dog."], None]
    assert result.flags == ["no_facts: 1 answers claim nothing; each scores 0, as officially"]
    assert [sample.prompt for sample in samples] == ["What?", "Describe this image."]
    bare = write_lines("bare.jsonl", [{"id": "000000000007", "image": None, "question": None}])
    assert FaithScore().samples(bare)[0].media == {"images": ["COCO_val2014_000000000007.jpg"]}
    assert FaithScore().samples(bare)[0].prompt == "Describe this image."


@pytest.mark.parametrize(
    ("reply", "yes"), [("Yes", True), ("yesterday", True), ("No", False), ("", False), ("YES.", True)]
)
def test_replies(reply: str, yes: bool) -> None:
    assert said_yes(reply) is yes


def test_without_models_or_judged_facts(write_lines: Callable[..., Path]) -> None:
    data = write_lines("d.jsonl", [{"id": 1}])
    with pytest.raises(DataError, match="1 of 1 answers come without judged facts"):
        score("faithscore", data, write_lines("a.jsonl", [{"id": 1, "answer": "A dog."}]))
    for option in ("split", "verify", "noun"):
        with pytest.raises(ConfigError, match=f"{option} 'gpt' of faithscore is no function"):
            FaithScore(**{option: "gpt"})  # type: ignore[arg-type]


@pytest.mark.parametrize("facts", [{"a": 2}, {"a": "yes"}, ["a"], "a"])
def test_wrong_facts(write_lines: Callable[..., Path], facts: Any) -> None:
    with pytest.raises(DataError, match="facts of another form"):
        FaithScore().read_answers(write_lines("a.jsonl", [{"id": 1, "answer": "x", "facts": facts}]))
    with pytest.raises(DataError, match="facts of another form"):
        FaithScore().answers([{"id": 1, "answer": "x", "facts": {"a": 1}, "kinds": {"a": "shape"}}])
    for more in ({"kinds": {"a": ["colors"]}}, {"kinds": ["colors"]}, {"sentences": "a dog"}, {"sentences": ["a", 1]}):
        with pytest.raises(DataError, match="facts of another form"):
            FaithScore().answers([{"id": 1, "answer": "x", "facts": {"a": 1}, **more}])
    with pytest.raises(DataError, match="has no id"):
        FaithScore().samples(write_lines("d.jsonl", [{"image": "a.jpg"}]))


def test_a_model_without_claims(write_lines: Callable[..., Path]) -> None:
    data = write_lines("d.jsonl", [{"id": 1}, {"id": 2}])
    result = score("faithscore", data, write_lines("a.jsonl", [{"id": n, "answer": "", "facts": {}} for n in (1, 2)]))
    assert (result.metrics["score"].value, result.metrics["wrong_facts"].n) == (0.0, 0)
    assert "sentence_score" not in result.metrics
    assert any(flag.startswith("wrong_facts_undefined") for flag in result.flags)


# -- people's labels --------------------------------------------------------------------------------------------------


def test_peoples_labels_are_read(real_data: Callable[[str], Path]) -> None:
    path = real_data("faithscore/annotation.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    printed = score_command("faithscore", "--data", path, "--answers", path)
    each = [sum(row["stage 2"].values()) / len(row["stage 2"]) if row["stage 2"] else 0 for row in rows]
    assert printed["n"] == 180
    assert printed["metrics"]["score"]["value"] == pytest.approx(sum(each) / 180, abs=1e-12)
    assert printed["metrics"]["wrong_facts"]["n"] == 1380
    # What a fact is about is not labelled; that there is something is an entity.
    there_is = [fact for row in rows for fact in row["stage 2"] if fact.startswith(("There is ", "There are "))]
    assert printed["metrics"]["accuracy/entities"]["n"] == len(there_is) == 788
    assert printed["unparsed"] == 16
    assert printed["flags"] == ["no_facts: 16 answers claim nothing; each scores 0, as officially"]
    assert FaithScore().samples(path)[0].media == {"images": ["COCO_val2014_000000525439.jpg"]}


def test_in_peoples_labels_one_means_right(real_data: Callable[[str], Path]) -> None:
    """Against the README of the data: objects that COCO has in the image are labelled 1, absent ones 0."""
    objects = json.loads(gzip.decompress(real_data("chair_gt/imid_to_objects.json.gz").read_bytes()))
    categories = {name for names in objects.values() for name in names}
    people = {"man", "woman", "boy", "girl", "people", "child"}
    agreed = told = 0
    for line in real_data("faithscore/annotation.jsonl").read_text().splitlines():
        row = json.loads(line)
        for fact, label in row["stage 2"].items():
            words = fact.rstrip(".").split()
            if words[:2] not in (["There", "is"], ["There", "are"]) or len(words) not in (3, 4):
                continue
            noun = words[-1].rstrip("s") if words[-1].rstrip("s") in categories else words[-1]
            noun = "person" if noun in people else noun
            if noun in categories and (len(words) == 3 or words[2] in ("a", "an", "some", "the")):
                told += 1
                agreed += (noun in objects[str(int(row["id"]))]) == label
    assert (agreed, told) == (216, 231)
