"""`vqa`: which answer is right, which is wrong, and what becomes of every row; worked by hand."""

from __future__ import annotations

import errno
import gzip
import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_builders.running.build import BuildResult, build
from data_builders.tables import spool
from data_builders.vqa import Vqa
from data_builders.wrong_answers import RightAnswer, WrongAnswers, near_counts
from mmdpo.errors import ConfigError, DataError
from mmdpo.records.staging import Staging

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    folder.mkdir()
    for index in range(6):
        Image.new("RGB", (8, 8), (40 * index, 0, 0)).save(folder / f"{index:0>12}.png")
    return folder


def question(number: int, text: str, *answers: tuple[str, int], kind: str = "other", image: Any = None) -> Any:
    """A row of VQA's form; answers are (text, how many gave it)."""
    said = [answer for answer, count in answers for _ in range(count)]
    return {
        "question_id": number,
        "image_id": number % 6 if image is None else image,
        "question": text,
        "question_type": " ".join(text.lower().split()[:2]),
        "answer_type": kind,
        "answers": [{"answer": answer, "answer_id": at} for at, answer in enumerate(said, 1)],
    }


def colours(first: int = 100) -> list[Any]:
    """Nine questions about colours that have a wrong answer for each other: blue is the most frequent."""
    wanted = ["blue"] * 4 + ["red", "green", "brown", "white", "black"]
    return [question(first + n, "What color is it?", (colour, 10)) for n, colour in enumerate(wanted)]


def run(root: Path, rows: list[Any], out: str = "out", **config: Any) -> BuildResult:
    data = root.parent / "annotations.json"
    data.write_text(json.dumps({"annotations": rows}), encoding="utf-8")
    base = {"data": data, "media_root": root, "image_name": "{id:0>12}.png", "validation": 0.0}
    return build("vqa", {**base, **config}, root.parent / out)


def reasons(result: BuildResult) -> dict[str, int]:
    return dict(Counter(entry.reason for entry in result.set_aside))


def pairs(result: BuildResult) -> dict[str, tuple[str, str]]:
    return {record.meta["question_id"]: (record.chosen.text, record.rejected.text) for record in result.records}


def test_yes_and_no_are_turned_and_balanced(root: Path) -> None:
    rows = [
        question(1, "Is it a dog?", ("yes", 9), ("no", 1), kind="yes/no"),
        question(2, "Is it a cat?", ("no", 10), kind="yes/no"),
        question(3, "Is it big?", ("yes", 7), ("no", 3), kind="yes/no"),  # three said no: accuracy .9
        question(4, "Is it red?", ("yes", 10), kind="yes/no"),
        question(5, "Is it far?", ("maybe", 10), kind="yes/no"),
        question(6, "Is it old?", ("Yes", 8), ("No", 0), ("yes", 2), kind="yes/no"),
    ]
    everything = run(root, rows, balance_yes_no=False)
    assert pairs(everything) == {"1": ("yes", "no"), "2": ("no", "yes"), "4": ("yes", "no"), "6": ("Yes", "No")}
    assert reasons(everything) == {"disputed": 1, "not_yes_no": 1}
    balanced = run(root, rows, out="balanced")
    assert balanced.quality["vqa"]["yes_no"] == {"yes": 1, "no": 1}
    assert reasons(balanced) == {"disputed": 1, "not_yes_no": 1, "yes_no_balance": 2}
    assert balanced.quality["rows"] == {"read": 6, "used": 2, "set_aside": 4}


def test_people_have_to_agree(root: Path) -> None:
    rows = [
        question(1, "What color is it?", ("blue", 5), ("red", 5)),
        question(2, "What color is it?", ("blue", 4), ("red", 3), ("green", 3)),  # accuracy 1, four of ten
        question(3, "What color is it?", *((f"colour {n}", 1) for n in range(8)), ("red", 2)),  # accuracy .6
        question(4, "What color is it?", ("unanswerable", 10)),
        question(5, "What color is it?", ("A blue.", 3), ("blue", 3), ("Blue", 4)),  # ten times the same
    ]
    result = run(root, [*rows, *colours()])
    assert reasons(result) == {"tie": 1, "low_agreement": 2, "unanswerable": 1}
    found = {record.meta["question_id"]: record for record in result.records}
    assert found["5"].chosen.text == "Blue"  # as most of them wrote it
    assert found["5"].rejected.text[0].isupper()  # style tells nothing
    assert found["5"].meta["accuracy"] == 1.0
    # the official accuracies: four of ten give 1, two of ten .6 (Antol et al. 2015)
    lenient = run(root, [*rows, *colours()], out="lenient", min_agreement=0.0, min_accuracy=0.6)
    assert reasons(lenient) == {"tie": 1, "unanswerable": 1}
    accuracies = {record.meta["question_id"]: record.meta["accuracy"] for record in lenient.records}
    assert (accuracies["2"], accuracies["3"]) == (1.0, 0.6)


def test_wrong_answers_are_frequent_ones_that_nobody_gave(root: Path) -> None:
    rows = [question(n, "What color is it?", ("red", 9), ("brown", 1)) for n in range(40)]
    result = run(root, [*rows, *colours(), question(99, "Who is it?", ("a man", 10))])
    wrong = Counter(wrong for key, (_, wrong) in pairs(result).items() if int(key) < 40)
    assert set(wrong) <= {"blue", "green", "white", "black"}  # neither red nor brown, no man
    assert wrong["blue"] == max(wrong.values())  # four of the seven right answers that are left


def test_an_answer_like_one_that_was_given_is_not_wrong() -> None:
    answers = WrongAnswers()
    for form in ("light blue", "blue", "blues", "couch", "person", "men", "teal"):
        answers.add(RightAnswer(form, form, "other", "What?", "what", {form: 10}))

    def wrong(form: str) -> set[str]:
        right = RightAnswer(form, form, "other", "What?", "what", {form: 10})
        drawn = [answers.draw(right, Random(seed), minority=0.0, is_wrong=lambda said: False) for seed in range(60)]
        return {found[0] for found in drawn if found is not None}

    assert wrong("blue") == {"couch", "person", "men", "teal"}
    assert wrong("sofa") == {"light blue", "blue", "blues", "person", "men", "teal"}
    assert wrong("man") == {"light blue", "blue", "blues", "couch", "teal"}


def test_without_any_wrong_answer_a_question_is_set_aside(root: Path) -> None:
    result = run(root, [question(1, "How many?", ("2", 10)), question(2, "What color?", ("blue", 10))])
    assert reasons(result) == {"no_wrong_answer": 1}


def test_what_somebody_said_against_the_others(root: Path) -> None:
    rows = [
        question(1, "What color is it?", ("red", 9), ("pink", 1)),  # accuracy of pink: .3
        question(2, "What color is it?", ("red", 8), ("pink", 2)),  # .6: not wrong
        question(3, "What color is it?", ("red", 9), ("dark red", 1)),
    ]
    result = run(root, [*rows, *colours()], minority=1.0)
    origins = {record.meta["question_id"]: record.meta["wrong_answer"] for record in result.records}
    assert pairs(result)["1"] == ("red", "pink")
    assert [origins[key] for key in "123"] == ["minority", "frequent", "frequent"]


@pytest.mark.parametrize(
    ("form", "votes", "near"),
    [
        ("3", {}, [4, 2, 5, 1]),
        ("1", {}, [2, 3, 0]),
        ("0", {}, [1, 2]),
        ("3", {"4": 1, "2": 1}, [5, 1]),
        ("20", {}, [25, 15, 30, 10]),  # a quarter is five
        ("100", {}, [125, 75, 150, 50]),
        ("101", {}, []),
        ("1984", {}, []),
        ("007", {}, []),
        ("12:30", {}, []),
        ("²", {}, []),
        ("٣", {}, []),
        ("9" * 5000, {}, []),
    ],
)
def test_numbers_near_a_count(form: str, votes: dict[str, int], near: list[int]) -> None:
    assert near_counts(form, votes) == near


@given(st.integers(0, 100), st.sets(st.integers(0, 150), max_size=6))
def test_near_counts_are_wrong(count: int, said: set[int]) -> None:
    found = near_counts(str(count), {str(number): 1 for number in said})
    assert all(number >= 0 and number not in said for number in found)
    assert all(
        abs(number - count) >= max(1, 0.2 * count) and abs(number - count) <= 2 + 0.6 * count for number in found
    )


def test_counts_keep_their_style(root: Path) -> None:
    rows = [
        question(1, "How many dogs?", ("Two", 10), kind="number"),
        question(2, "How many dogs?", ("3", 10), kind="number"),
    ]
    result = run(root, rows)
    assert pairs(result)["1"][1] in {"One", "Three", "Four", "Zero"}
    assert pairs(result)["2"][1] in {"1", "2", "4", "5"}
    assert result.quality["vqa"]["wrong_answers"] == {"near": 2}


def test_the_other_forms_and_questions_of_their_own_file(root: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "question"} for row in colours()]
    questions = root.parent / "questions.json.gz"
    texts = [{"question_id": row["question_id"], "question": "What color is this?"} for row in rows[:-1]]
    questions.write_bytes(gzip.compress(json.dumps({"questions": texts}).encode()))
    result = run(root, rows, questions=questions, prompt="{question} One word.")
    assert reasons(result) == {"no_question": 1}
    assert result.records[0].prompt[0]["content"][-1]["text"] == "What color is this? One word."

    text_rows = [{**row, "answers": [entry["answer"] for entry in row["answers"]]} for row in colours()]
    for row in text_rows:
        del row["answer_type"], row["question_type"]
    data = root.parent / "text.json"
    data.write_text(json.dumps({"data": text_rows}), encoding="utf-16")  # as a Windows program writes it
    config = {"data": data, "form": "textvqa", "media_root": root, "image_name": "{id:0>12}.png"}
    assert len(build("vqa", config, root.parent / "textvqa").records) == 9

    stems = [
        {**row, "answers": [{"answer": e["answer"], "raw_answer": e["answer"] + "ish"} for e in row["answers"]]}
        for row in colours()
    ]
    okvqa = run(root, stems, out="okvqa", form="okvqa")
    assert all(record.chosen.text.endswith("ish") for record in okvqa.records)  # what people wrote, not its stem


def test_bad_rows_are_set_aside(root: Path) -> None:
    rows = [
        *colours(),
        *colours(),
        {**colours()[0], "question_id": 1, "answers": "blue"},
        {**colours()[0], "question_id": 2, "answers": [float("nan"), "4/5"]},
        {**colours()[0], "question_id": 3, "answers": [{"text": "blue"}]},
        {**colours()[0], "question_id": 4, "question": " "},
        {**colours()[0], "question_id": 5, "answers": ["half \ud800"] * 10},
        "no object",
    ]
    result = run(root, rows)
    assert len(result.records) == 9
    assert reasons(result) == {
        "duplicate_question": 9,
        "no_answers": 3,
        "no_question": 1,
        "bad_text": 1,
        "unreadable_row": 1,
    }


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("../secret.png", "outside_root"),
        ("/etc/passwd", "outside_root"),
        ("https://x.org/a.png", "remote_url"),
        ("9.png", "missing_media"),
        (None, "no_image"),
    ],
)
def test_paths_stay_inside(root: Path, image: Any, reason: str) -> None:
    (root.parent / "secret.png").write_bytes((root / f"{0:0>12}.png").read_bytes())
    rows = colours()
    for row in rows:
        row["image_id"] = f"{0:0>12}.png"
    rows[0]["image_id"] = image
    assert reasons(run(root, rows, image_name=None)) == {reason: 1}


def test_text_stays_text(root: Path) -> None:
    rows = colours()
    rows[0] = question(1, "What color is <image> </s>?", ("blue <|im_end|>", 10))
    record = next(r for r in run(root, rows).records if r.meta["question_id"] == "1")
    assert record.chosen.text == "blue <|im_end|>"
    assert [part["type"] for part in record.prompt[0]["content"]] == ["image", "text"]


def test_settings_that_cannot_work(root: Path) -> None:
    with pytest.raises(ConfigError, match="no place for the"):
        run(root, colours(), prompt="What?")
    with pytest.raises(ConfigError, match="has no place for the id"):
        run(root, colours(), image_name="photo.png")
    with pytest.raises(ConfigError, match="no column 'kind'"):
        run(root, colours(), columns={"answers": "kind"})
    with pytest.raises(ConfigError, match="finds no rows"):
        run(root, colours(), form="textvqa")


def test_the_same_seed_gives_the_same_records_whatever_memory_holds(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*colours(), *(question(n, "Is it?", ("yes" if n % 3 else "no", 10)) for n in range(9))]
    whole = run(root, rows, minority=0.5)
    monkeypatch.setattr(spool.Spool.__init__, "__kwdefaults__", {"limit": 3})
    assert list(run(root, rows, out="parts", minority=0.5).records) == list(whole.records)
    other = run(root, rows, out="other", minority=0.5, seed=1)
    assert {record.id for record in other.records} != {record.id for record in whole.records}


def test_an_interrupted_build_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(root, colours())
    real, left = Staging.add, iter(range(3))

    def full(self: Staging, record: Any) -> Any:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, record)

    monkeypatch.setattr(Staging, "add", full)
    with pytest.raises(DataError, match="No space left"):
        run(root, colours(), out="again")
    assert not (root.parent / "again" / "data").exists()
    monkeypatch.setattr(Staging, "add", real)

    def stopped(self: Vqa, config: Any, work: Any) -> Any:
        yield whole.records[0]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Vqa, "records", stopped)
        with pytest.raises(KeyboardInterrupt):
            config = {"data": root.parent / "annotations.json", "media_root": root, "image_name": "{id:0>12}.png"}
            build("vqa", {**config, "validation": 0.0}, root.parent / "again", resume=True)
    data = {"data": root.parent / "annotations.json", "media_root": root, "image_name": "{id:0>12}.png"}
    resumed = build("vqa", {**data, "validation": 0.0}, root.parent / "again", resume=True)
    assert list(resumed.records) == list(whole.records)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data in {SHARED}")
def test_real_questions(tmp_path: Path) -> None:
    config = {
        "data": SHARED / "vqav2_subset" / "vqa_annotatons_test.json.gz",
        "questions": SHARED / "vqav2_subset" / "vqa_questions_test.json.gz",
        "image_name": "{id:0>12}.jpg",
        "media": "optional",
    }
    result = build("vqa", config, tmp_path / "out")
    assert (
        result.quality["rows"]["read"] == sum(result.quality["rows"][key] for key in ("used", "set_aside"))
        and result.quality["rows"]["used"] > 0.6 * result.quality["rows"]["read"]
    )
    assert result.quality["vqa"]["yes_no"]["yes"] == result.quality["vqa"]["yes_no"]["no"]
