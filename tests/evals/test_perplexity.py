"""Perplexity: worked numbers, the model's own logits as oracle, every form of data, what cannot be scored."""

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from core.oracle import picture, record, row_logprobs
from mmdpo.answering.answer_file import AnswerFile
from mmdpo.answering.evaluation import answer_and_score
from mmdpo.answering.loading import encoder_of
from mmdpo.config import EvalSection
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.base import Result
from mmdpo.evals.perplexity import Perplexity
from mmdpo.evals.runner import compare
from mmdpo.records import Candidate, Media, Record, Records, save_records
from tiny import Tiny

WriteLines = Callable[[str, Iterable[Mapping[str, Any]]], Path]
CAPTIONS = ("A cat on a mat.", "Two dogs in the park with a ball", "There is a red bird on the table.")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures; the second belongs to two captions."""
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(picture(number, 24 + 6 * number, 24).data or b"")
    return tmp_path


@pytest.fixture
def lines(photos: Path, write_lines: WriteLines) -> Path:
    rows = [{"image": f"{number}.png", "caption": caption} for number, caption in enumerate(CAPTIONS)]
    return write_lines("captions.jsonl", [*rows, {"image": "1.png", "caption": "A car"}])


def evaluated(tiny: Tiny, data: Path, folder: Path, benchmark: Perplexity | None = None, **options: Any) -> Result:
    section = EvalSection(data=str(data), limit=options.pop("limit", None))
    return answer_and_score(
        tiny.model, tiny.processor, benchmark or Perplexity(), section, folder, **{"batch_size": 2, **options}
    )


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]


def own_logp(tiny: Tiny, one: Record) -> tuple[float, int]:
    """Log-probability and length of a record's first candidate by the model's own forward on one plain row."""
    answer = encoder_of(tiny.model, tiny.processor, None).answer(one, one.candidates[0]).ids
    with torch.no_grad():
        return float(row_logprobs(tiny, one, answer).sum()), len(answer)


def scored(logps: Mapping[str, tuple[float, int]], data: Path, unit: str = "tokens", tokenizer: str = "t") -> Result:
    benchmark = Perplexity(unit=unit)
    samples = benchmark.samples(data)
    rows = [
        {"question_id": one.id, "answer": one.target, "logp": logps[one.id][0], "tokens": logps[one.id][1]}
        for one in samples
    ]
    return benchmark.score(samples, benchmark.answers({**row, "tokenizer": tokenizer} for row in rows))


LOGPS = {"1": (-6.0, 6), "2": (-4.0, 4), "3": (-12.0, 8), "4": (-2.0, 2)}


def test_the_numbers(lines: Path) -> None:
    """24 nats over 20 tokens; two captions of one image are one group."""
    result = scored(LOGPS, lines)
    characters = sum(map(len, (*CAPTIONS, "A car")))
    values = {name: (one.value, one.n) for name, one in result.metrics.items()}
    assert values["nats_per_token"] == (24 / 20, 20)
    assert values["perplexity"] == (pytest.approx(math.exp(24 / 20)), 20)
    assert values["nats_per_character"] == (24 / characters, characters)
    assert len({item.group for item in result.items}) == 3
    assert result.rule == "nats per token, end of turn included; t"
    only = scored(LOGPS, lines, unit="characters")
    assert list(only.metrics) == ["nats_per_character"] and only.rule == "nats per character, end of turn included"
    assert only.metrics["nats_per_character"] == result.metrics["nats_per_character"]


def test_the_limits_are_those_of_a_mean_over_equal_groups(photos: Path, write_lines: WriteLines) -> None:
    """With one token each, nats per token is a plain mean: its limits are Student's t of the nats."""
    import scipy.stats

    data = write_lines("c.jsonl", [{"image": f"{n}.png", "caption": "A"} for n in range(3)])
    nats = [1.0, 2.0, 4.5]
    found = scored({str(n + 1): (-value, 1) for n, value in enumerate(nats)}, data).metrics["nats_per_token"]
    error = scipy.stats.sem(nats)
    half = scipy.stats.t.ppf(0.975, 2) * error
    assert (found.low, found.high) == (pytest.approx(max(0.0, 2.5 - half)), pytest.approx(2.5 + half))


def test_a_model_before_and_after(lines: Path) -> None:
    before = scored(LOGPS, lines)
    after = scored({name: (logp - tokens, tokens) for name, (logp, tokens) in LOGPS.items()}, lines)
    gaps = compare(before, after)
    assert gaps["nats_per_token"]["difference"]["value"] == pytest.approx(1.0)
    assert gaps["perplexity"]["difference"]["value"] == pytest.approx(math.exp(2.2) - math.exp(1.2))
    assert gaps["perplexity"]["difference"]["verdict"] == "worse" and gaps["perplexity"]["percent"] is False


def test_tokens_of_two_vocabularies_are_no_common_unit(lines: Path) -> None:
    with pytest.raises(DataError, match="cannot be compared"):
        compare(scored(LOGPS, lines), scored(LOGPS, lines, tokenizer="u"))
    both = [scored(LOGPS, lines, "characters", name) for name in ("t", "u")]
    assert compare(*both)["nats_per_character"]["difference"]["value"] == 0.0
    benchmark = Perplexity()
    row = {"answer": CAPTIONS[0], "logp": -1.0, "tokens": 2}
    rows = [{**row, "question_id": "1", "tokenizer": "t"}, {**row, "question_id": "2", "tokenizer": "u"}]
    with pytest.raises(DataError, match="several vocabularies: t; u"):
        benchmark.score(benchmark.samples(lines), benchmark.answers(rows))


def test_the_probability_is_that_of_the_models_own_logits(tiny_llava: Tiny, lines: Path, tmp_path: Path) -> None:
    result = evaluated(tiny_llava, lines, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [row["question_id"] for row in rows] == ["1", "2", "3", "4"]
    for row, seed in zip(rows, (0, 1, 2, 1), strict=True):
        asked = record("1", Perplexity().prompt, [row["answer"]], picture(seed, 24 + 6 * seed, 24))
        logp, tokens = own_logp(tiny_llava, asked)
        assert row["tokens"] == tokens
        assert row["logp"] == pytest.approx(logp, abs=2e-4)
        assert row["media"] == {"images": [f"{seed}.png"]} and len(row["sha256"]["images"][0]) == 64
    nats = -sum(row["logp"] for row in rows)
    assert result.metrics["perplexity"].value == pytest.approx(math.exp(nats / sum(row["tokens"] for row in rows)))
    assert result.habits == {}  # nothing was written
    assert "habits" not in json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    size = len(tiny_llava.processor.tokenizer)
    assert result.rule.startswith(f"nats per token, end of turn included; {size} tokens, ")


def test_chosen_answers_of_records_are_scored(tiny_llava: Tiny, tmp_path: Path) -> None:
    """Embedded pictures, a prompt of its own, no picture at all, an answer that was cut."""
    pair = record("pair", "What is here?", ["A cat", "A dog"], picture(1))
    text = record("text", "Say something.", ["There is a bird.", "No."])
    cut = Candidate("Two dogs in", finished=False)
    made = [pair, text, Record("cut", pair.prompt, (cut, Candidate("No")), pair.media)]
    save_records(Records(made), tmp_path / "data", embed=True)
    evaluated(tiny_llava, tmp_path / "data", tmp_path / "out")
    rows = {row["question_id"]: row for row in rows_of(tmp_path / "out")}
    assert [row["answer"] for row in rows.values()] == ["A cat", "There is a bird.", "Two dogs in"]
    for one in made:
        logp, tokens = own_logp(tiny_llava, one)
        assert (rows[one.id]["tokens"], rows[one.id]["logp"]) == (tokens, pytest.approx(logp, abs=2e-4))
    groups = {sample.id: sample.group for sample in Perplexity().samples(tmp_path / "data")}
    assert groups["pair"] == groups["cut"] != groups["text"]


def test_a_killed_evaluation_goes_on(
    tiny_llava: Tiny, lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluated(tiny_llava, lines, tmp_path / "whole")
    kept: list[str] = []
    plain = AnswerFile.add

    def add(self: AnswerFile, row: dict[str, Any]) -> None:
        if len(kept) == 3:
            raise KeyboardInterrupt
        kept.append(row["question_id"])
        plain(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(AnswerFile, "add", add)
        with pytest.raises(KeyboardInterrupt):
            evaluated(tiny_llava, lines, tmp_path / "part")
    later: list[str] = []
    monkeypatch.setattr(AnswerFile, "add", lambda self, row: (later.append(row["question_id"]), plain(self, row)))
    again = evaluated(tiny_llava, lines, tmp_path / "part", batch_size=1)
    assert len(later) == 1 and sorted([*kept, *later]) == ["1", "2", "3", "4"]
    assert again.metrics["perplexity"].value == pytest.approx(whole.metrics["perplexity"].value, rel=1e-5)


def test_other_captions_are_refused_where_answers_are_kept(tiny_llava: Tiny, lines: Path, tmp_path: Path) -> None:
    evaluated(tiny_llava, lines, tmp_path / "out")
    lines.write_text(lines.read_text(encoding="utf-8").replace("A car", "A boat"), encoding="utf-8")
    with pytest.raises(ConfigError, match="data_fingerprint"):
        evaluated(tiny_llava, lines, tmp_path / "out")


def test_a_caption_that_does_not_fit_is_set_aside(tiny_llava: Tiny, lines: Path, tmp_path: Path) -> None:
    with lines.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"image": "0.png", "caption": "a cat " * 300}) + "\n")
    limit = tiny_llava.model.config.text_config.max_position_embeddings
    result = evaluated(tiny_llava, lines, tmp_path / "out")
    assert limit < 600
    assert (result.n, result.unparsed) == (5, 1)
    assert any("unscored: 1 texts" in flag and f"the model's limit is {limit}" in flag for flag in result.flags)
    alone = scored(
        {row["question_id"]: (row["logp"], row["tokens"]) for row in rows_of(tmp_path / "out")[:4]}, lines_of(lines, 4)
    )
    assert alone.metrics["perplexity"] == result.metrics["perplexity"]
    short = tmp_path / "long.jsonl"
    short.write_text(lines.read_text(encoding="utf-8").splitlines()[-1], encoding="utf-8")
    with pytest.raises(DataError, match="none of the 1 texts could be scored"):
        evaluated(tiny_llava, short, tmp_path / "none")


def lines_of(path: Path, count: int) -> Path:
    """The first lines of a file as a file of their own."""
    first = path.with_name("first.jsonl")
    first.write_text("\n".join(path.read_text(encoding="utf-8").splitlines()[:count]), encoding="utf-8")
    return first


def test_cocos_captions_are_read(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 7, "file_name": "000007.jpg"}, {"id": 9, "file_name": "000009.jpg"}],
        "annotations": [
            {"image_id": 7, "caption": " A cat. \n"},
            {"image_id": 9, "caption": "A dog."},
            {"image_id": 7, "caption": "Cats."},
        ],
    }
    (tmp_path / "captions_val.json").write_text(json.dumps(content), encoding="utf-8")
    for data in (tmp_path, tmp_path / "captions_val.json"):
        samples = Perplexity(prompt="Look.").samples(data)
        assert [(one.id, one.target, one.group) for one in samples] == [
            ("7/1", "A cat.", "7"),
            ("7/2", "Cats.", "7"),
            ("9", "A dog.", "9"),
        ]
        assert {one.prompt for one in samples} == {"Look."}
        assert samples[0].media == {"images": ["000007.jpg"]}
    del content["annotations"][0]["caption"]
    (tmp_path / "captions_val.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match="not of the form of COCO's captions: KeyError 'caption'"):
        Perplexity().samples(tmp_path)


def test_which_answer_of_a_record_is_its_caption(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prompt = record("x", "What is here?", ["a"]).prompt
    rated = [Candidate("worse", score=1.0), Candidate("best", score=5.0), Candidate("middle", score=3.0)]
    lists = [
        Record("list", prompt, tuple(rated), higher_is_better=True),
        Record("low", prompt, tuple(rated), higher_is_better=False),
        Record("good", prompt, (Candidate("yes", label=True),)),
        Record("bad", prompt, (Candidate("no", label=False),)),
    ]
    save_records(Records(lists), tmp_path / "data")
    with caplog.at_level(logging.WARNING, "mmdpo"):
        samples = Perplexity().samples(tmp_path / "data")
    assert {one.id: one.target for one in samples} == {"list": "best", "low": "worse", "good": "yes"}
    assert "1 of 4 captions are blank or lacking" in caplog.text


def test_several_splits_must_be_told_apart(tmp_path: Path) -> None:
    splits = {name: Records([record(name, "What?", [name, "no"])]) for name in ("train", "validation")}
    save_records(splits, tmp_path / "data")
    with pytest.raises(ConfigError, match="has the splits train, validation"):
        Perplexity().samples(tmp_path / "data")
    (one,) = Perplexity(split="validation").samples(tmp_path / "data")
    assert one.target == "validation"


def test_media_of_records_are_looked_for_where_the_records_say(photos: Path) -> None:
    one = record("1", "What is here?", ["A cat", "No"], picture(0))
    with_path = Record("1", one.prompt, one.candidates, {"images": (Media(path="0.png"),)})
    save_records(Records([with_path], media_root=photos), photos / "data")
    benchmark = Perplexity()
    assert benchmark.media_root(photos / "data") == photos
    assert benchmark.samples(photos / "data")[0].media == {"images": ["0.png"]}
    assert benchmark.media_root(photos / "captions.jsonl") == photos


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"image": "a.png", "caption": 3}, "entry 1 .* has no image, caption and prompt of text"),
        ({"caption": "A cat."}, "neither image nor prompt"),
        ({"image": "a.png"}, "has no captions"),
        ({"image": "a.png", "caption": "  "}, "has no captions"),
        ({"prompt": 1, "caption": "A cat."}, "of text"),
    ],
)
def test_data_without_captions_are_told(row: Mapping[str, Any], said: str, write_lines: WriteLines) -> None:
    with pytest.raises(DataError, match=said):
        Perplexity().samples(write_lines("c.jsonl", [row]))


def test_an_empty_folder_and_a_table_of_objects_have_no_captions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no held-out media"):
        Perplexity().samples(tmp_path)
    (tmp_path / "objects.json").write_text('{"1.png": ["dog"]}', encoding="utf-8")
    with pytest.raises(DataError, match="has no captions"):
        Perplexity().samples(tmp_path / "objects.json")


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"logp": 1.0, "tokens": 3},
        {"logp": -1.0, "tokens": 0},
        {"logp": "-1", "tokens": 3},
        {"logp": math.nan, "tokens": 3},
    ],
)
def test_answers_without_numbers_are_told(numbers: Mapping[str, Any]) -> None:
    with pytest.raises(DataError, match="entry 1 of mine has logp"):
        Perplexity().answers([{"question_id": "1", "answer": "A", **numbers}], "mine")


def test_the_probability_of_another_text_is_refused(lines: Path) -> None:
    benchmark = Perplexity()
    row = {"question_id": "1", "answer": "A cat on a hat.", "logp": -1.0, "tokens": 3}
    with pytest.raises(DataError, match=r"is of the text 'A cat on a hat\.', not of 'A cat on a mat\.'"):
        benchmark.score(benchmark.samples(lines), benchmark.answers([row]))
    with pytest.raises(ConfigError, match="unknown unit 'token'"):
        Perplexity(unit="token")


@pytest.mark.slow
def test_captions_of_the_real_coco_are_read(real_data: Callable[[str], Path]) -> None:
    samples = Perplexity().samples(real_data("coco_captions_val2017/captions_val2017.json"))
    assert len(samples) == 25_014 and len({sample.group for sample in samples}) == 5_000
    assert samples[0].media["images"][0].endswith(".jpg")
