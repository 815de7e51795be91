"""Diversity: worked numbers, and answers that depend on their question and seed alone."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from core.oracle import picture, record
from mmdpo.answering.answer_file import AnswerFile
from mmdpo.answering.evaluation import answer_and_score
from mmdpo.answering.loading import load_any
from mmdpo.config import EvalSection
from mmdpo.errors import ConfigError
from mmdpo.evals.base import Result
from mmdpo.evals.diversity import Diversity, prompt_counts, similarity
from mmdpo.evals.runner import compare
from mmdpo.playground.files import write_scene_images
from mmdpo.playground.world import scenes
from mmdpo.records import Records, save_records

WriteLines = Callable[[str, Iterable[Mapping[str, Any]]], Path]


@pytest.fixture(scope="module")
def playground() -> tuple[Any, Any]:
    return load_any("playground")


@pytest.fixture
def data(tmp_path: Path, write_lines: WriteLines) -> Path:
    """Four pictures, one of them twice with the same prompt."""
    for number, path in enumerate(write_scene_images(tmp_path, scenes(4, 0, "heldout"))):
        path.rename(tmp_path / f"{number}.png")
    return write_lines("images.jsonl", [{"id": number + 1, "image": f"{number % 4}.png"} for number in range(5)])


def evaluated(playground: tuple[Any, Any], data: Path, folder: Path, **options: Any) -> Result:
    section = EvalSection(data=str(data), limit=options.pop("limit", None), max_new_tokens=options.pop("length", 14))
    benchmark = Diversity(samples_each=3, prompt="Describe the image.")
    return answer_and_score(*playground, benchmark, section, folder, **{"batch_size": 4, **options})


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]


def scored(data: Path, answers: Mapping[str, list[str]], **options: Any) -> Result:
    benchmark = Diversity(**{"samples_each": 2, **options})
    rows = [{"question_id": name, "answer": text} for name, texts in answers.items() for text in texts]
    return benchmark.score(benchmark.samples(data), benchmark.answers(rows))


def test_the_sums_of_one_prompt() -> None:
    """Three answers: a b a, a b, nothing. Two of the words a b a a b differ, two of the pairs ab ba ab."""
    counts = prompt_counts(["A b, a!", "a B", ""])
    assert counts["grams_1"] == 5 and counts["different_1"] == 2
    assert counts["grams_2"] == 3 and counts["different_2"] == 2
    assert counts["pairs"] == 3
    assert counts["similarity"] == pytest.approx(4 / 5)  # a and b of 3 + 2 words; with nothing in common: 0, 0


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        ("a b", "b a", 1.0),
        ("a a b", "a b b", 2 / 3),
        ("a", "b", 0.0),
        ("", "", 1.0),
        ("a", "", 0.0),
        ("a a a a", "a", 0.4),
    ],
)
def test_the_share_of_words_in_common(one: str, other: str, share: float) -> None:
    bags = Counter(one.split()), Counter(other.split())
    assert similarity(*bags) == pytest.approx(share)
    assert similarity(*reversed(bags)) == pytest.approx(share)


def test_the_numbers(data: Path) -> None:
    """Sums over prompts, not means of ratios: prompt 1 has 4 words of which 3 differ, prompt 2 has 8 and 4."""
    answers = {"1": ["a dog", "a cat"], "2": ["two dogs on skis", "two dogs on skis"]}
    result = scored(data, answers)
    values = {name: (one.value, one.n) for name, one in result.metrics.items()}
    assert values["distinct_1"] == ((3 + 4) / 12, 12)
    assert values["distinct_2"] == ((2 + 3) / 8, 8)
    assert values["self_similarity"] == ((0.5 + 1) / 2, 2)
    assert values["objects_per_prompt"] == ((2 + 2) / 2, 2)  # dog, cat; dog, skis
    assert values["words_per_answer"] == (3.0, 4)
    assert values["refusal_rate"] == values["empty_rate"] == (0.0, 4)
    assert "unfinished_rate" not in values  # the rows do not say it
    assert "object_vocabulary: 4 answers name 3 of 80 objects" in result.flags
    assert any(flag.startswith("missing_answers: 2 of 4 prompts") for flag in result.flags)
    assert {item.group for item in result.items} == {"0.png", "1.png"}


def test_prompts_with_another_number_of_answers_are_told(data: Path) -> None:
    result = scored(data, {"1": ["a dog"], "2": ["a", "b", "a"]})
    assert any(flag.startswith("other_number: 2 prompts have not 2 answers") for flag in result.flags)
    assert result.metrics["self_similarity"].n == 3


def test_a_model_before_and_after(data: Path) -> None:
    wide = scored(data, {name: ["a dog runs", "one cat sleeps"] for name in "1234"})
    narrow = scored(data, {name: ["a dog runs", "a dog runs"] for name in "1234"})
    gaps = compare(wide, narrow)
    assert gaps["distinct_1"]["difference"]["value"] == pytest.approx(-0.5)
    assert gaps["self_similarity"]["difference"]["value"] == pytest.approx(1.0)
    assert gaps["self_similarity"]["difference"]["verdict"] == "worse"
    assert gaps["objects_per_prompt"]["difference"]["value"] == pytest.approx(-1.0)
    assert gaps["words_per_answer"]["difference"]["value"] == 0.0


def test_each_question_is_asked_once(data: Path, tmp_path: Path) -> None:
    assert [sample.id for sample in Diversity().samples(data)] == ["1", "2", "3", "4"]
    (tmp_path / "objects.json").write_text('{"7": ["dog"], "9": []}', encoding="utf-8")
    table = Diversity(image_name="{id:0>3}.png").samples(tmp_path / "objects.json")
    assert [sample.media for sample in table] == [{"images": ["007.png"]}, {"images": ["009.png"]}]
    made = [record(name, "What is here?", ["A cat", "No"], picture(1)) for name in ("a", "b")]
    save_records(
        Records([*made, record("c", "Say more.", ["A cat", "No"], picture(1))]), tmp_path / "records", embed=True
    )
    samples = Diversity().samples(tmp_path / "records")
    assert [(sample.id, sample.prompt) for sample in samples] == [("a", "What is here?"), ("c", "Say more.")]
    assert all(sample.record is not None and sample.record.candidates == () for sample in samples)


@pytest.mark.parametrize(
    "options", [{"samples_each": "1"}, {"samples_each": "many"}, {"temperature": 0}, {"temperature": "nan"}]
)
def test_options_that_leave_nothing_to_compare_are_refused(options: Mapping[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(options))} .* of diversity is not at least"):
        Diversity(**options)


def test_options_come_from_the_shell_as_text() -> None:
    made = Diversity(samples_each="8", temperature="0.7")  # type: ignore[arg-type]
    assert (made.samples_each, made.temperature) == (8, 0.7)
    assert made.rule == "8 answers each at temperature 0.7"


def test_answers_are_drawn(playground: tuple[Any, Any], data: Path, tmp_path: Path) -> None:
    result = evaluated(playground, data, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [(row["question_id"], row["sample"]) for row in rows] == [(q, n) for q in "1234" for n in range(3)]
    assert len({row["answer"] for row in rows}) > 4  # drawn, not greedy
    unfinished = sum(not row["finished"] for row in rows)
    assert 0 < unfinished < 12  # fourteen tokens are too few for some
    assert result.metrics["unfinished_rate"].value == unfinished / 12
    told = json.loads((tmp_path / "out" / "generation.json").read_text(encoding="utf-8"))
    assert (told["samples"], told["temperature"]) == (3, 1.0)
    again = Diversity(samples_each=3)
    read = again.score(again.samples(data), again.read_answers(tmp_path / "out" / "answers.jsonl"))
    assert {name: one.value for name, one in read.metrics.items()} == {
        name: one.value for name, one in result.metrics.items()
    }


def test_an_answer_depends_on_its_question_and_the_seed_alone(
    playground: tuple[Any, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was asked before it: after a kill, with another batch size, with fewer questions, in another order."""
    evaluated(playground, data, tmp_path / "whole")
    whole = {(row["question_id"], row["sample"]): row["answer"] for row in rows_of(tmp_path / "whole")}
    assert math.prod(len({whole[name, number] for number in range(3)}) for name in "1234") > 1

    count = 0
    plain = AnswerFile.add

    def add(self: AnswerFile, row: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        if count == 6:  # in the middle of the second question
            raise KeyboardInterrupt
        plain(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(AnswerFile, "add", add)
        with pytest.raises(KeyboardInterrupt):
            evaluated(playground, data, tmp_path / "killed")
    evaluated(playground, data, tmp_path / "killed", batch_size=1)
    assert {(row["question_id"], row["sample"]): row["answer"] for row in rows_of(tmp_path / "killed")} == whole

    evaluated(playground, data, tmp_path / "few", limit=2)
    assert [row["answer"] for row in rows_of(tmp_path / "few")] == [whole[name, n] for name in "12" for n in range(3)]

    turned = data.with_name("turned.jsonl")
    turned.write_text("\n".join(reversed(data.read_text(encoding="utf-8").splitlines()[:4])), encoding="utf-8")
    evaluated(playground, turned, tmp_path / "turned")
    assert {(row["question_id"], row["sample"]): row["answer"] for row in rows_of(tmp_path / "turned")} == whole
