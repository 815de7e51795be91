"""Ways in: options, files, saved results, comparisons; and a benchmark of one's own."""

import gzip
import json
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mmdpo import registry
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.base import Answer, Benchmark, Item, Metric, Result, Sample
from mmdpo.evals.comparing.paired import Difference
from mmdpo.evals.runner import compare, make_benchmark, score, verdict
from mmdpo.evals.shared.files import read_json, read_rows
from mmdpo.evals.stats import ratio


@pytest.fixture
def data(write_lines: Callable[..., Path]) -> Path:
    """Two questions each on 40 images, all to be answered yes."""
    return write_lines(
        "q.json",
        [{"question_id": i, "image": f"{i // 2}.jpg", "text": f"Is there {i}?", "label": "yes"} for i in range(80)],
    )


@pytest.fixture
def result_of(data: Path, write_lines: Callable[..., Path]) -> Callable[..., Result]:
    def make(right: Collection[int], **options: str) -> Result:
        rows = [{"question_id": i, "answer": "yes" if i in right else "no"} for i in range(80)]
        return score("pope", str(data), write_lines("a.jsonl", rows), **options)

    return make


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("popE", {}, "Did you mean 'pope'"),
        ("pope", {"parsr": "official"}, "Did you mean 'parser'"),
        ("chair", {"lineages": "lemma"}, "Did you mean 'lineage'"),
    ],
)
def test_unknown_names(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_benchmark(name, **options)


@pytest.mark.parametrize("name", ["pope", "chair"])
def test_every_benchmark_keeps_the_contract(name: str) -> None:
    benchmark = make_benchmark(name)
    assert benchmark.name == name
    assert benchmark.rule
    assert type(benchmark).__doc__
    assert registry.benchmarks.get(name) is type(benchmark)


def test_the_result_has_the_fixed_form(result_of: Callable[..., Result]) -> None:
    printed = json.loads(json.dumps(result_of(range(60)).to_json()))
    assert list(printed) == ["benchmark", "rule", "n", "unparsed", "flags", "metrics"]
    assert list(printed["metrics"]) == ["accuracy", "precision", "recall", "f1", "yes_ratio"]
    assert set(printed["metrics"]["f1"]) == {"value", "low", "high", "n"}


def test_a_saved_result_is_read_back(data: Path, write_lines: Callable[..., Path], tmp_path: Path) -> None:
    texts = ["yes\u2028", "no\ud83d", "\x00", ""] * 20
    result = score("pope", data, write_lines("a.jsonl", [{"answer": text} for text in texts]))
    result.save(tmp_path / "eval" / "pope")
    assert Result.load(tmp_path / "eval" / "pope") == result


def test_a_folder_without_a_result(result_of: Callable[..., Result], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        Result.load(tmp_path)
    result_of([1]).save(tmp_path)
    (tmp_path / "metrics.json").write_text("[]")
    with pytest.raises(DataError, match="holds no result"):
        Result.load(tmp_path)


# -- comparing --------------------------------------------------------------------------------------------------------


def test_a_better_model_is_called_better(result_of: Callable[..., Result]) -> None:
    gaps = compare(result_of(range(40)), result_of(range(70)))
    accuracy = gaps["accuracy"]
    assert (accuracy["before"]["value"], accuracy["after"]["value"]) == (0.5, 0.875)
    assert accuracy["difference"]["value"] == 0.375
    assert accuracy["difference"]["low"] > 0
    assert accuracy["difference"]["p"] < 0.01
    assert accuracy["difference"]["n"] == 40
    assert accuracy["difference"]["verdict"] == "better"
    assert gaps["yes_ratio"]["difference"]["verdict"] == "higher"
    assert compare(result_of(range(70)), result_of(range(40)))["accuracy"]["difference"]["verdict"] == "worse"


def test_equal_models_show_no_difference(result_of: Callable[..., Result]) -> None:
    gap = compare(result_of(range(40)), result_of(range(40)))["f1"]["difference"]
    assert gap["p"] == 1
    assert gap["verdict"].startswith("no difference shown (one of 0.")


def test_lower_hallucination_is_better(result_of: Callable[..., Result]) -> None:
    metric = ratio("chair_i", "correct", "questions", better="lower")
    gap = compare(result_of(range(70)), result_of(range(40)))["accuracy"]["difference"]
    difference = Difference(gap["value"], gap["low"], gap["high"], gap["n"], gap["p"], gap["detectable"])
    assert verdict(metric, difference) == "better"


def test_a_comparison_carries_what_a_metric_says_of_itself(result_of: Callable[..., Result]) -> None:
    told = {"label": "Made up", "meaning": "captions", "role": "hallucination"}
    assert ratio("made_up", "wrong", "captions", better="lower", **told).told == {"percent": True, **told}
    assert not ratio("mean", "objects", "captions", bounds=(0.0, math.inf)).told["percent"]
    entry = compare(result_of(range(70)), result_of(range(40)))["accuracy"]
    assert (entry["better"], entry["percent"], "label" in entry) == ("higher", True, False)


def test_what_cannot_be_compared(result_of: Callable[..., Result], write_lines: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="'official' cannot be compared with pope by 'opera'"):
        compare(result_of([1]), result_of([1], parser="opera"))
    row = {"question_id": 0, "image": "0.jpg", "text": "Is there 0?", "label": "no"}
    other = score("pope", write_lines("r.json", [row]), write_lines("b.jsonl", [{"question_id": 0, "answer": "no"}]))
    with pytest.raises(DataError, match="different labels or media for '0'"):
        compare(result_of([1]), other)
    same = score(
        "pope",
        write_lines("s.json", [{**row, "label": "yes"}]),
        write_lines("b.jsonl", [{"question_id": 0, "answer": "no"}]),
    )
    with pytest.raises(DataError, match="share 1 answers on fewer than two images"):
        compare(result_of([1]), same)


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("text", ['{"a": "é"}\r\n\n{"a": "☂"}\n', '[{"a": "é"}, {"a": "☂"}]'])
def test_rows_in_several_forms(tmp_path: Path, encoding: str, text: str) -> None:
    (tmp_path / "rows").write_bytes(text.encode(encoding))
    (tmp_path / "rows.gz").write_bytes(gzip.compress(text.encode(encoding)))
    assert read_rows(tmp_path / "rows") == read_rows(tmp_path / "rows.gz") == [{"a": "é"}, {"a": "☂"}]


def test_a_line_separator_inside_a_text_does_not_split_it(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text('{"a": "one\u2028two\x85three"}\n', encoding="utf-8")
    assert read_rows(tmp_path / "rows") == [{"a": "one\u2028two\x85three"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.jsonl", b'{"a": 1}\n{"a":', "line 2 of .* is not JSON"),
        ("text.jsonl", b"yes\nno\n", "line 1 of .* is not JSON"),
        ("numbers.jsonl", b'{"a": 1}\n7\n', "entry 2 of .* is int, not an object"),
        ("latin.jsonl", '{"a": "é"}'.encode("latin-1"), "is not UTF-8 text"),
        ("empty.jsonl", b"\n", "is empty"),
        ("list.json", b"[]", "is empty"),
        ("half.json.gz", gzip.compress(b'{"a": 1}', mtime=0)[:-9], "not a complete gzip"),
        ("plain.json.gz", b'{"a": 1}', "not a complete gzip"),
        ("deep.jsonl", b"[" * 200_000, "is not JSON"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / name)


def test_a_file_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmdpo.evals.shared.files.MAX_BYTES", 1000)
    (tmp_path / "bomb.json.gz").write_bytes(gzip.compress(b" " * 5000))
    with pytest.raises(DataError, match="holds more than 1,000 bytes"):
        read_json(tmp_path / "bomb.json.gz")


def test_absent_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        score("pope", tmp_path / "q.json", tmp_path / "a.jsonl")


# -- a benchmark of one's own -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counting(Benchmark):
    """How many things are there?"""

    tolerance: int = 0
    name = "counting"

    @property
    def rule(self) -> str:
        return f"within {self.tolerance}"

    def samples(self, data: Path) -> list[Sample]:
        rows = read_rows(data)
        return [Sample(str(row["id"]), "How many?", {"images": [row["image"]]}, row["n"], row["image"]) for row in rows]

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        said = int(answer.text) if answer.text.isdecimal() else None
        right = said is not None and abs(said - sample.target) <= self.tolerance
        counts = {"right": float(right), "questions": 1.0}
        return Item(item_id, sample.group, answer.text, said, sample.target, right, counts)

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        return [ratio("accuracy", "right", "questions")]


def test_a_benchmark_is_one_small_class(write_lines: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.benchmarks, "_entries", dict(registry.benchmarks._entries))
    registry.benchmarks.register("counting")(Counting)
    data = write_lines("d.jsonl", [{"id": i, "image": f"{i}.jpg", "n": i} for i in range(4)])
    rows: list[dict[str, Any]] = [{"id": i, "text": text} for i, text in enumerate(["0", "2", "two", "3"])]
    result = score("counting", data, write_lines("a.jsonl", rows), tolerance=1)
    assert (result.rule, result.unparsed, result.metrics["accuracy"].value) == ("within 1", 1, 0.75)
    assert compare(result, result)["accuracy"]["difference"]["value"] == 0
