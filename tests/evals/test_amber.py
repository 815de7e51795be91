"""AMBER: the official numbers to the last digit, its rule for nouns and near synonyms, files as they are found."""

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmdpo.cli import app
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.amber import Amber, official_numbers, write_responses
from mmdpo.evals.base import Result
from mmdpo.evals.runner import compare, score
from mmdpo.evals.shared.amber_questions import PARSERS
from mmdpo.evals.shared.amber_words import AmberWords, read_similarity

# -- the official script, written anew from its description -----------------------------------------------------------

SHORT = {
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-hallucination": "existence",
}


def official_script(
    data: Path, responses: list[dict[str, Any]], near: Callable[[str, str], bool], extract: Callable[[str], list[str]]
) -> dict[str, float]:
    """Running sums over denominators that start at 0.001, and rounding on the way, as the script has them."""
    relation = json.loads((data / "relation.json").read_text())
    listed = [word for key, words in relation.items() for word in (key, *words)]
    safe = (data / "safe_words.txt").read_text().split("\n")
    annotations = json.loads((data / "annotations.json").read_text())
    sums: Counter[str] = Counter()
    for response in responses:
        truth = annotations[response["id"] - 1]
        if truth["type"] == "generative":
            sums += Counter(
                script_description(
                    truth, [n for n in extract(response["response"]) if n in listed], relation, safe, near
                )
            )
        else:
            kind, said = SHORT.get(truth["type"], "relation"), response["response"]
            for name in ("", kind, *(["attribute"] if kind in ("state", "number", "action") else [])):
                sums[f"{name} n"] += 1
                sums[f"{name} no"] += truth["truth"] == "no"
                sums[f"{name} said"] += said == "No"
                sums[f"{name} both"] += said == "No" and truth["truth"] == "no"
                sums[f"{name} right"] += (said, truth["truth"]) in {("Yes", "yes"), ("No", "no")}

    def printed(part: str, whole: str) -> float:
        return round(sums[part] / (0.001 + sums[whole]) * 100, 1)

    numbers = {}
    if sums["texts"]:
        numbers["chair"], numbers["cover"] = printed("bad", "nouns"), printed("covered", "truth")
        numbers["hal"] = round(100 - sums["clean"] / (0.001 + sums["texts"]) * 100, 1)
        numbers["cog"] = printed("dreamt", "hallu")
    for name in ("", "existence", "attribute", "state", "number", "action", "relation"):
        if sums[f"{name} n"]:
            p, r = printed(f"{name} both", f"{name} said"), printed(f"{name} both", f"{name} no")
            p1, r1, small = p / 100, r / 100, 0.001 if name == "existence" else 0.0001
            f1 = round(2 * p1 * r1 / (p1 + r1 + small) * 100, 1)
            end = f"/{name}" if name else ""
            numbers |= {f"accuracy{end}": printed(f"{name} right", f"{name} n"), f"precision{end}": p}
            numbers |= {f"recall{end}": r, f"f1{end}": f1}
    return numbers


def script_description(
    truth: Mapping[str, Any],
    nouns: Sequence[str],
    relation: Mapping[str, Sequence[str]],
    safe: Sequence[str],
    near: Callable[[str, str], bool],
) -> dict[str, int]:
    def table(objects: Sequence[str]) -> tuple[list[str], list[int]]:
        words, owners = [], []
        for number, name in enumerate(objects):
            words += relation[name]
            owners += [number] * len(relation[name])
        return [*words, *objects], [*owners, *range(len(objects))]

    (good, good_owner), (bad, bad_owner) = table(truth["truth"]), table(truth["hallu"])
    hit, dreamt, wrong = [0] * len(truth["truth"]), [0] * len(truth["hallu"]), 0
    for noun in nouns:
        if noun in safe:
            continue
        if noun in good:
            hit[good_owner[good.index(noun)]] = 1
            continue
        if noun in bad:
            dreamt[bad_owner[bad.index(noun)]] = 1
        for place, word in enumerate(bad):
            if near(noun, word):
                dreamt[bad_owner[place]] = 1
                break
        for place, word in enumerate(good):
            if near(noun, word):
                hit[good_owner[place]] = 1
                break
        else:
            wrong += 1
    return {
        "bad": wrong,
        "nouns": len(nouns),
        "covered": sum(hit),
        "truth": len(hit),
        "dreamt": sum(dreamt),
        "hallu": len(dreamt),
        "clean": int(wrong == 0),
        "texts": 1,
    }


@pytest.mark.parametrize("share", [1.0, 0.02])
def test_the_official_numbers_to_the_last_digit(
    real_data: Callable[[str], Path], write_json: Callable[..., Path], share: float
) -> None:
    data, generator = real_data("amber"), random.Random(7)
    words = sorted(AmberWords.load(data).vocabulary)
    drawn = {frozenset(generator.sample(words, 2)): generator.choice([0.8, 0.81, 0.95]) for _ in range(1500)}
    similar = {pair for pair, value in drawn.items() if value > 0.8}
    responses = []
    for row in json.loads((data / "annotations.json").read_text()):
        if generator.random() > share:
            continue
        if row["type"] == "generative":
            named = [*row["truth"], *row["hallu"], *generator.sample(words, 3), "Dog", "galaxy"]
            text = " ".join(generator.choices(named, k=generator.randrange(9)))
        else:
            text = generator.choice(["Yes", "No", "No", row["truth"].capitalize(), "yes", "No.", ""])
        responses.append({"id": row["id"], "response": text})

    def near(one: str, other: str) -> bool:
        return one == other or frozenset((one, other)) in similar

    expected = official_script(data, responses, near, str.split)
    path = write_json("similarity.json", [[*pair, value] for pair, value in drawn.items()])
    answers = write_json("answers.json", generator.sample(responses, len(responses)))
    result = score("amber", data, answers, similarity=str(path), noun_extractor=str.split)
    assert official_numbers(result) == expected
    assert {name for name in result.metrics if name != "amber"} == set(expected)
    # The metrics are what the script rounds; f1 is not made from rounded parts.
    for name, value in expected.items():
        assert result.metrics[name].value == pytest.approx(value / 100, abs=0.0012 if "f1" in name else 0.00051), name
    chair, f1 = result.metrics["chair"].value, result.metrics["f1"].value
    assert result.metrics["amber"].value == pytest.approx((1 - chair + f1) / 2)
    assert result.rule == "official; similarity.json; given noun extractor"


@pytest.mark.slow
def test_the_real_files_are_read_completely(real_data: Callable[[str], Path]) -> None:
    data = real_data("amber")
    assert len(AmberWords.load(data).vocabulary) == 418
    samples = Amber().samples(data)
    assert len(samples) == 15_220
    assert len({sample.group for sample in samples}) == 1004
    kinds = Counter((sample.meta["kind"], sample.target) for sample in samples[1004:])
    assert kinds == {
        ("existence", "no"): 4924,
        **{("state", label): 2382 for label in ("yes", "no")},
        **{("number", label): 1036 for label in ("yes", "no")},
        **{("action", label): 396 for label in ("yes", "no")},
        ("relation", "yes"): 975,
        ("relation", "no"): 689,
    }
    assert samples[0].prompt == "Describe this image."
    assert (samples[1004].prompt, samples[1004].media) == (
        "Is the sky sunny in this image?",
        {"images": ["AMBER_1.jpg"]},
    )
    for task, size in {"generative": 1004, "discriminative": 14216, "attribute": 7628, "relation": 1664}.items():
        assert len(Amber(task=task).samples(data)) == size
    assert Amber(suffix=" Yes or No?").samples(data)[1004].prompt.endswith("image? Yes or No?")


# -- descriptions -----------------------------------------------------------------------------------------------------

ASSOCIATIONS = {
    "dog": [],
    "cat": [],
    "man": ["person", "people"],
    "woman": ["person"],
    "person": ["man"],
    "forest": ["tree", "leave"],
    "tree": ["forest"],
    "TV": [],
    "chopsticks": [],
    "can": [],
    "vase": [],
    "bus": [],
    "knife": [],
    "orange": [],
    "bedsheet": [],
    "toy": [],
    "hot": [],
}


@pytest.fixture
def words() -> AmberWords:
    return AmberWords(ASSOCIATIONS, ["orange"])


@pytest.mark.parametrize(
    ("text", "nouns"),
    [
        ("Two dogs and a dog.", ["dog", "dog"]),
        ("Dogs chase a Cat", []),
        ("a TV, two TVs, a tv", ["TV"]),
        ("people, a person, persons", ["people", "person", "person"]),
        ("men and women", ["woman"]),
        ("leaves of trees", ["tree"]),
        ("chopsticks, a chopstick", []),
        ("a vase and vases", ["vase"]),
        ("buses, a bus; knives (toys)", ["bus", "bus", "knife", "toy"]),
        ("a bedsheet on bedsheets", ["bedsheet"]),
        ("It can be seen that cans lie there", ["can"]),
        ("a hot day, a hot dog", ["dog"]),
        ("tree-lined dog/cat dog's", ["dog"]),
        ("ein Hund ☂ 狗 ｄｏｇ", []),
        ("", []),
    ],
)
def test_nouns(words: AmberWords, text: str, nouns: list[str]) -> None:
    assert words.nouns(text) == nouns


def test_a_word_covers_the_first_object_that_it_is_associated_with(words: AmberWords) -> None:
    assert words.describe(["tree"], ["forest", "tree"], []).covered == 1
    # "person" is an association of both and the name of the third, which stays uncovered.
    assert words.describe(["person", "person"], ["man", "woman", "person"], []).covered == 1
    assert words.describe(["dog", "dog"], ["dog", "dog"], []).covered == 1


def test_safe_words_count_but_are_never_wrong(words: AmberWords) -> None:
    told = words.describe(["orange", "cat", "galaxy"], ["dog"], ["orange"])
    assert (told.nouns, told.wrong, told.covered, told.imagined) == (["orange", "cat"], ["cat"], 0, 0)


def test_a_word_of_a_present_object_marks_no_absent_one(words: AmberWords) -> None:
    told = words.describe(["person"], ["man"], ["woman", "person"])
    assert (told.wrong, told.covered, told.imagined) == ([], 1, 0)


def test_a_near_word_clears_and_marks(tmp_path: Path) -> None:
    path = tmp_path / "near.json"
    path.write_text('[["cat", "dog", 0.81], ["toy", "cat", 0.9], ["toy", "dog", 0.8], ["bus", "vase", 1]]')
    words = AmberWords(ASSOCIATIONS, [], read_similarity(path))
    assert words.describe(["cat"], ["dog"], []).wrong == []
    assert words.describe(["dog"], ["cat"], []).covered == 1
    assert words.describe(["toy"], ["dog"], []).wrong == ["toy"], "0.8 is not above 0.8"
    # A noun can be both: near to an absent object, and cleared by a present one.
    told = words.describe(["cat"], ["dog"], ["toy"])
    assert (told.wrong, told.covered, told.imagined) == ([], 1, 1)
    # The word itself marks one absent object, the first near one another.
    assert words.describe(["cat"], [], ["toy", "cat"]).imagined == 2
    # A word is the nearest to itself, so nothing after it is marked.
    assert words.describe(["cat"], [], ["cat", "toy"]).imagined == 1


def test_a_similarity_function_is_asked_once_for_each_pair(data: Path, write_json: Callable[..., Path]) -> None:
    asked: list[tuple[str, str]] = []

    def similarity(one: str, other: str) -> float:
        asked.append((one, other))
        return 0.9 if {one, other} == {"cat", "dog"} else 0.0

    amber = Amber(similarity=similarity)
    answers = amber.answers([{"id": 1, "response": "a toy, a cat, a cat"}, {"id": 2, "response": "a cat"}])
    result = amber.score(amber.samples(data), answers)
    assert result.metrics["chair"].value == 0.25
    assert len(asked) == len(set(asked))
    assert result.rule == "official; given similarity"


@pytest.mark.parametrize(
    "text", ["{}", '[["a", "b"]]', '[["a", "b", "1"]]', "[1]", '[[1, "b", 1]]', '[["a", "b", NaN]]']
)
def test_wrong_similarities(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(DataError, match="is no table of similarities"):
        read_similarity(tmp_path / "s.json")


# -- questions --------------------------------------------------------------------------------------------------------

NASTY = {
    # answer: (official, lmms_eval, vlmevalkit)
    "Yes": (True, True, True),
    "No": (False, False, False),
    "yes": (None, True, True),
    "No.": (None, False, False),
    "no, there is not": (None, False, False),
    "Not really": (None, False, None),
    "I do not know": (None, False, None),
    "yes, no": (None, True, None),
    "She has blue eyes": (None, True, None),
    " Yes": (None, True, True),
    "Ｎｏ": (None, None, None),
    "": (None, None, None),
    "maybe": (None, None, None),
}


@pytest.mark.parametrize(("text", "expected"), NASTY.items())
def test_nasty_answers(text: str, expected: tuple[bool | None, ...]) -> None:
    assert tuple(PARSERS[name](text) for name in ("official", "lmms_eval", "vlmevalkit")) == expected


@pytest.fixture
def data(write_json: Callable[..., Path], tmp_path: Path) -> Path:
    """Two descriptions and eight questions about two images, in the form of the official folder."""
    kinds = [
        ("discriminative-hallucination", "no"),
        ("discriminative-attribute-state", "yes"),
        ("discriminative-relation", "yes"),
        ("relation", "no"),
    ]
    rows = [
        {"id": 1, "type": "generative", "truth": ["dog", "man"], "hallu": ["cat", "toy"]},
        {"id": 2, "type": "generative", "truth": ["cat"], "hallu": ["dog"]},
        *({"id": 3 + n, "type": kind, "truth": truth} for n, (kind, truth) in enumerate(kinds * 2)),
    ]
    write_json("amber/annotations.json", rows)
    write_json("amber/relation.json", ASSOCIATIONS)
    (tmp_path / "amber" / "safe_words.txt").write_text("orange\r\ncan")
    queries = [
        {"id": row["id"], "image": f"AMBER_{1 + row['id'] % 2}.jpg", "query": f"Is it {row['id']}?"} for row in rows
    ]
    write_json("amber/query/query_all.json", queries)
    return tmp_path / "amber"


RESPONSES = [
    {"id": 1, "response": "A person with a dog, a cat, an orange and a toy."},
    {"id": 2, "response": "Nothing."},
    *({"id": 3 + n, "response": text} for n, text in enumerate(["No", "Yes", "No", "No", "Yes", "No.", "Yes", "No"])),
]


def values(result: Result) -> dict[str, float]:
    return {name: round(entry.value, 4) for name, entry in result.metrics.items()}


def test_worked_counts(data: Path, write_json: Callable[..., Path]) -> None:
    result = score("amber", data, write_json("a.json", RESPONSES))
    numbers = values(result)
    # person dog cat orange toy: cat and toy are wrong; man (by person) and dog are covered, the cat of image 2 is not.
    assert (numbers["chair"], numbers["cover"], numbers["hal"], numbers["cog"]) == (0.4, 0.6667, 0.5, 0.6667)
    # labels no yes yes no no yes yes no; answers No Yes No No Yes "No." Yes No
    assert numbers["accuracy"] == 0.625
    assert (numbers["precision"], numbers["recall"]) == (0.75, 0.75)
    assert numbers["f1"] == round(2 * 0.75 * 0.75 / 1.5001, 4)
    assert (numbers["f1/existence"], numbers["f1/relation"]) == (round(1 / 1.501, 4), 0.8)
    assert numbers["accuracy/attribute"] == numbers["accuracy/state"] == 0.5
    assert numbers["amber"] == pytest.approx((1 - 0.4 + 0.75) / 2, abs=1e-4)
    # Four were answered with No and four should have been, three of them the same.
    assert {name: result.metrics[name].n for name in ("accuracy", "precision", "recall", "f1")} == {
        "accuracy": 8,
        "precision": 4,
        "recall": 4,
        "f1": 5,
    }
    assert (result.n, result.unparsed) == (10, 1)
    assert [flag.split(":")[0] for flag in result.flags] == [
        "precision/attribute_undefined",
        "recall/attribute_undefined",
        "f1/attribute_undefined",
        "precision/state_undefined",
        "recall/state_undefined",
        "f1/state_undefined",
        "neither_yes_nor_no",
    ]
    assert result.flags[-1].startswith("neither_yes_nor_no: 1 of 8 answers, wrong by the rule 'official'")
    assert [item.correct for item in result.items] == [None, None, True, True, False, True, False, False, True, True]
    first = result.items[0].to_json()
    assert (first["parsed"], first["hallucinated"]) == (["person", "dog", "cat", "orange", "toy"], ["cat", "toy"])
    assert (first["image"], first["group"]) == ("AMBER_2.jpg", "AMBER_2.jpg")


@pytest.mark.parametrize("keep", [slice(0, 10), slice(0, 2), slice(2, 10), slice(2, 3), slice(4, 6)])
def test_what_the_official_script_prints(data: Path, write_json: Callable[..., Path], keep: slice) -> None:
    nouns = AmberWords.load(data).nouns
    expected = official_script(data, RESPONSES[keep], lambda one, other: one == other, nouns)
    assert official_numbers(score("amber", data, write_json("a.json", RESPONSES[keep]))) == expected


def test_which_samples_ask_for_yes_or_no(data: Path) -> None:
    bench = Amber()
    assert bench.yes_no
    assert [bench.asks_yes_no(sample) for sample in bench.samples(data)] == [False] * 2 + [True] * 8


@pytest.mark.parametrize(
    ("kind", "groups"),
    [
        ("discriminative-hallucination", ["", "existence"]),
        ("discriminative-attribute-state", ["", "attribute", "state"]),
        ("discriminative-attribute-number", ["", "attribute", "number"]),
        ("discriminative-attribute-action", ["", "attribute", "action"]),
        ("discriminative-relation", ["", "relation"]),
        ("relation", ["", "relation"]),
    ],
)
def test_every_kind_of_question_has_its_numbers(
    data: Path, write_json: Callable[..., Path], kind: str, groups: list[str]
) -> None:
    (data / "annotations.json").write_text(json.dumps([{"id": 1, "type": kind, "truth": "no"}]))
    metrics = score("amber", data, write_json("a.json", [{"id": 1, "response": "No"}])).metrics
    names = [f"{name}/{group}".rstrip("/") for group in groups for name in ("accuracy", "precision", "recall", "f1")]
    assert list(metrics) == names
    assert {metrics[name].value for name in names if "f1" not in name} == {1.0}
    assert metrics[f"f1/{groups[-1]}"].value == pytest.approx(2 / (2.001 if "existence" in groups else 2.0001))


@pytest.mark.parametrize(
    ("keep", "present", "absent"),
    [(slice(0, 2), "cog", "accuracy"), (slice(2, 10), "f1/relation", "chair"), (slice(2, 3), "f1/existence", "amber")],
)
def test_only_what_was_answered_has_numbers(
    data: Path, write_json: Callable[..., Path], keep: slice, present: str, absent: str
) -> None:
    result = score("amber", data, write_json("a.json", RESPONSES[keep]))
    assert present in result.metrics
    assert absent not in result.metrics
    assert any(flag.startswith("missing_answers") for flag in result.flags)


@pytest.mark.parametrize("text", ["Yes", "No", "", "a dog " * 5000, "Nothing."])
def test_models_that_always_say_the_same(data: Path, write_json: Callable[..., Path], text: str) -> None:
    result = score("amber", data, write_json("a.json", [{"id": n, "response": text} for n in range(1, 11)]))
    assert all(0 <= entry.low <= entry.value <= entry.high <= 1 for entry in result.metrics.values())
    assert values(result)["accuracy"] == {"Yes": 0.5, "No": 0.5}.get(text, 0.0)
    assert set(official_numbers(result)) == set(result.metrics) - {"amber"}
    if text == "Nothing.":
        assert "chair_undefined" in result.flags[0]
        assert (result.metrics["chair"].n, official_numbers(result)["chair"]) == (0, 0.0)


def test_without_queries_answers_stand_alone(data: Path, write_json: Callable[..., Path]) -> None:
    (data / "query" / "query_all.json").unlink()
    result = score("amber", data, write_json("a.json", RESPONSES))
    assert result.metrics["chair"].value == 0.4
    assert len({item.group for item in result.items}) == 10
    assert result.flags[-2].startswith("no_images: 10 ")


def test_one_query_file_for_each_task(data: Path) -> None:
    every = data / "query" / "query_all.json"
    rows = json.loads(every.read_text())
    every.rename(data / "query" / "query_generative.json").write_text(json.dumps(rows[:2]))
    (data / "query" / "query_discriminative.json").write_text(json.dumps(rows[2:]))
    assert [sample.media for sample in Amber().samples(data)][9] == {"images": ["AMBER_1.jpg"]}


def test_the_official_form_is_written_and_read(data: Path, write_json: Callable[..., Path], tmp_path: Path) -> None:
    amber = Amber()
    generated = [{"id": str(row["id"]), "prompt": "?", "response": row["response"]} for row in RESPONSES]
    write_responses(amber.answers(generated), tmp_path / "official.json")
    assert json.loads((tmp_path / "official.json").read_text()) == RESPONSES
    again = score("amber", data, tmp_path / "official.json")
    assert again == score("amber", data, write_json("a.json", RESPONSES))
    gaps = compare(again, score("amber", data, write_json("b.json", RESPONSES[::-1])))
    assert all(gap["difference"]["value"] == 0 for gap in gaps.values())


def test_other_order_missing_duplicate_and_unknown_ids(data: Path, write_json: Callable[..., Path]) -> None:
    rows = [*RESPONSES[:1:-1], {"id": 3, "response": "Yes"}, {"id": 99, "response": "Yes"}]
    result = score("amber", data, write_json("a.json", rows))
    assert result.n == 8
    assert values(result)["accuracy"] == 0.625
    assert [flag.split(" ")[:2] for flag in result.flags[:3]] == [
        ["unknown_ids:", "1"],
        ["duplicate_answers:", "1"],
        ["missing_answers:", "2"],
    ]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("relation.json", "[]", "is no table of associations"),
        ("relation.json", '{"dog": "cat"}', "is no table of associations"),
        ("annotations.json", '[{"id": 1, "type": "other", "truth": "no"}]', "annotation 1 of"),
        ("annotations.json", '[{"id": 1, "type": "relation", "truth": "No"}]', "annotation 1 of"),
        ("annotations.json", '[{"id": 1, "type": "generative", "truth": ["dog"]}]', "annotation 1 of"),
        ("annotations.json", '[{"type": "relation", "truth": "no"}]', "annotation 1 of"),
        ("annotations.json", '[{"id": [1], "type": "relation", "truth": "no"}]', "annotation 1 of"),
        ("annotations.json", '[{"id": 1, "type": "generative", "truth": [1], "hallu": []}]', "annotation 1 of"),
        ("annotations.json", '[{"id": 1, "type": "generative", "truth": [], "hallu": ["owl"]}]', "annotation 1 of"),
        ("query/query_all.json", '[{"id": 1, "image": 1, "query": "Is it?"}]', "query 1 of .* lacks image"),
        ("query/query_all.json", '[{"id": 1, "image": "1.jpg", "query": null}]', "query 1 of .* lacks query"),
        ("annotations.json", "[{", "is not JSON"),
        ("annotations.json", "[]", "is empty"),
    ],
)
def test_wrong_data(data: Path, file: str, text: str, message: str) -> None:
    (data / file).write_text(text)
    with pytest.raises(DataError, match=message):
        Amber().samples(data)


def test_ids_of_queries_may_be_strings(data: Path) -> None:
    path = data / "query" / "query_all.json"
    path.write_text(json.dumps([{**row, "id": str(row["id"])} for row in json.loads(path.read_text())]))
    assert Amber().samples(data)[0].media == {"images": ["AMBER_2.jpg"]}


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        Amber().samples(tmp_path)


@pytest.mark.parametrize(("option", "near"), [("parser", "oficial"), ("task", "generativ")])
def test_wrong_options(option: str, near: str) -> None:
    with pytest.raises(ConfigError, match="Did you mean"):
        Amber(**{option: near})


def test_an_extractor_that_is_no_function() -> None:
    with pytest.raises(ConfigError, match="noun_extractor 'spacy' of amber is no function"):
        Amber(noun_extractor="spacy")  # type: ignore[arg-type]


def test_the_command(data: Path, write_json: Callable[..., Path]) -> None:
    near = write_json("near.json", [["toy", "dog", 0.9]])
    answers = write_json("a.json", RESPONSES)
    words = ["score", "amber", "--data", str(data), "--answers", str(answers), "--similarity", str(near)]
    printed = CliRunner().invoke(app, [*words, "--parser", "lmms_eval"])
    assert printed.exit_code == 0, printed.output
    shown = json.loads(printed.stdout)
    assert (shown["rule"], shown["metrics"]["chair"]["value"]) == ("lmms_eval; near.json", 0.2)
    assert shown["metrics"]["accuracy"] == {
        "value": 0.625,
        **{k: shown["metrics"]["accuracy"][k] for k in ("low", "high")},
        "n": 8,
    }
