"""`build import`, `mmdpo export`, their page in the documentation, and real files where they are at hand."""

import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import typer
from foreign_rows import EXAMPLES, KITTEN, QUESTION, png, write_media
from typer.testing import CliRunner

from data_builders.imported import ImportConfig
from data_builders.importers.base import Sample
from data_builders.importers.formats import FORMATS, recognise
from data_builders.importers.sources import open_source
from data_builders.running.build import build
from mmdpo.errors import ConfigError, DataError
from mmdpo.records import load_records
from mmdpo.records.checks import validate_records
from mmdpo.registry import builders
from mmdpo.verbs import export as export_verb

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "formats.md"
REAL = ROOT.parent / "shared" / "data" / "pref_samples"

PAIR = {"messages": [QUESTION, KITTEN], "images": ["cat.png"], "rejected_response": "A puppy."}


def rows_file(folder: Path, *rows: object) -> Path:
    write_media(folder)
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return folder / "rows.jsonl"


def test_records_are_made_and_every_row_is_accounted_for(tmp_path: Path):
    rows = [
        PAIR,
        {**PAIR, "images": ["a.png"], "margin": 2.0},
        {**PAIR, "images": []},
        {**PAIR, "images": ["gone.png"]},
    ]
    data = rows_file(tmp_path / "in", *rows, {**PAIR, "rejected_images": ["a.png"]})
    result = build("import", {"data": str(data), "validation": 0.5}, tmp_path / "out")
    assert result.quality["rows"] == {"read": 5, "used": 2, "set_aside": 3}
    assert result.quality["set_aside"] == {"placeholder_mismatch": 1, "missing_media": 1, "rejected_media": 1}
    assert result.quality["notes"] == [
        "ms_swift: rows have messages and rejected_response",
        "columns that no loss reads are kept in meta.columns: margin (1)",
    ]
    assert {name: len(part) for name, part in result.splits.items()} == {"train": 1, "validation": 1}
    assert validate_records(result.records, check_media=True) == []
    assert result.records.media_root == tmp_path / "in"


def test_bytes_are_embedded_and_absent_media_are_allowed_where_asked(tmp_path: Path):
    example = next(each for each in EXAMPLES if each.format == "trl_unpaired")
    row = {**example.row, "images": [{"bytes": None, "path": "gone.png"}]}
    data = rows_file(tmp_path / "in", row)
    with pytest.raises(DataError, match="1 missing_media"):
        build("import", {"data": str(data), "format": "trl_unpaired"}, tmp_path / "none")
    made = build("import", {"data": str(data), "media": "optional", "validation": 0}, tmp_path / "out")
    assert made.records[0].media["images"][0].path == "gone.png"


def test_an_export_can_be_imported(tmp_path: Path):
    made = build("import", {"data": str(rows_file(tmp_path / "in", PAIR)), "validation": 0}, tmp_path / "records")
    app = typer.Typer()
    app.callback()(lambda: None)
    export_verb.add_to(app)
    words = ["export", str(tmp_path / "records"), "rlaif_v", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "1 records read: 1 written, 0 set aside" in done.stdout and "1  written without meta" in done.stdout
    assert "1 rows in train.parquet" in done.stdout
    again = build("import", {"data": str(tmp_path / "out"), "validation": 0}, tmp_path / "again")
    assert again.quality["notes"][0] == "rlaif_v: rows have question, chosen and rejected, and image as bytes"
    (one,), (other,) = made.records, load_records(tmp_path / "again")
    assert (one.prompt, one.candidates, one.id) == (other.prompt, other.candidates, other.id)
    assert other.media["images"][0].data == png(0)
    wrong = CliRunner().invoke(app, ["export", str(tmp_path / "records"), "rlaif", "--out", str(tmp_path / "x")])
    assert isinstance(wrong.exception, ConfigError) and "rlaif_v" in str(wrong.exception)


def test_prompts_without_answers_are_for_another_builder(tmp_path: Path):
    example = next(each for each in EXAMPLES if each.format == "easyr1")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([example.row]), tmp_path / "prompts.parquet")
    with pytest.raises(DataError, match="prompts without answers") as told:
        build("import", {"data": str(tmp_path / "prompts.parquet")}, tmp_path / "out")
    assert "mmdpo build sample" in told.value.fix and "toolkit=easyr1" in told.value.fix
    assert not (tmp_path / "out").exists()


def test_the_builder_is_registered():
    assert builders.get("import").Config is ImportConfig


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real samples are not at {REAL}")
@pytest.mark.parametrize(
    ("name", "form", "used", "empty"),
    [("mdpo_sample_data.json", "mdpo", 2, 0), ("pds_dpo_step3_sanity.json", "llava", 8, 2)],  # two answers are ""
)
def test_real_files(name: str, form: str, used: int, empty: int, tmp_path: Path):
    result = build("import", {"data": str(REAL / name), "media": "optional", "validation": 0}, tmp_path / "out")
    assert result.quality["notes"][0].startswith(f"{form}: ")
    assert result.quality["rows"] == {"read": used + empty, "used": used, "set_aside": empty}
    assert result.quality["set_aside"] == ({"empty_candidate": 2} if empty else {})
    for record in result.records:
        assert [part["type"] for part in record.prompt[0]["content"]] == ["image", "text"]
        assert not re.search("USER|<image>|ASSISTANT", record.prompt[0]["content"][1]["text"])


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real samples are not at {REAL}")
def test_real_demonstrations_are_no_preferences():
    with pytest.raises(ConfigError, match="of no format that is known"):
        recognise(open_source(str(REAL / "llamafactory_mllm_demo.json")))


def test_the_page_names_every_format_reason_and_setting():
    page = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z0-9_.]+)`", page))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "data_builders/importers").glob("*.py"))
    reasons = set(re.findall(r'Unusable\(\s*"([a-z_]+)"', sources)) | set(
        re.findall(r'return "([a-z]+_[a-z_]+)"', sources)
    )
    assert {"rejected_media", "placeholder_in_text", "bytes_in_column"} <= reasons <= named
    assert set(FORMATS) | set(ImportConfig.model_fields) - {"seed", "plugins"} <= named


def test_the_examples_of_the_page_are_of_the_formats_that_it_says():
    page = PAGE.read_text(encoding="utf-8")
    examples = re.findall(r"`([a-z0-9_]+)`[^\n]*\n\n```json\n(.*?)```", page, flags=re.DOTALL)
    assert len(examples) >= 8
    for name, text in examples:
        rows = [json.loads(line) for line in text.replace("\n ", " ").splitlines()]
        assert FORMATS[name].matches(Sample(rows)), name


def answers(*ratings: str) -> dict[str, object]:
    """A row of VLFeedback."""
    told = [{"Helpfulness": {"Rating": rating}} for rating in ratings]
    texts = [f"answer {place}" for place in range(len(ratings))]
    return {"img_path": "cat.png", "prompt": "What is this?", "completions": {"annotations": told, "response": texts}}


@pytest.mark.parametrize(
    ("pairing", "min_margin", "expected"),
    [
        ("best_worst", 0, ["5>1", "2>1"]),
        ("adjacent", 0, ["5>4", "4>1", "2>1"]),
        ("all", 0, ["5>1", "5>4", "4>1", "2>1"]),
        ("all", 2, ["5>1", "4>1"]),
    ],
)
def test_lists_become_pairs(tmp_path: Path, pairing: str, min_margin: float, expected: list[str]):
    data = rows_file(
        tmp_path / "in",
        answers("4", "1", "5"),
        answers("2", "1"),
        answers("3", "3"),
        {**answers("2", "1"), "video": "v.gif"},
    )
    config = {"data": str(data), "pairing": pairing, "min_margin": min_margin, "validation": 0}
    result = build("import", config, tmp_path / "out")
    assert sorted(f"{r.chosen.score:g}>{r.rejected.score:g}" for r in result.records) == sorted(expected)
    assert all(record.meta["margin"] == record.chosen.score - record.rejected.score for record in result.records)
    assert all([rating["Helpfulness"] for rating in record.meta["ratings"]] for record in result.records)
    aside = {"tie": 1, "unread_media": 1} if min_margin < 2 else {"tie": 1, "unread_media": 1, "no_margin": 1}
    assert result.quality["set_aside"] == aside
    used = 2 if min_margin < 2 else 1
    assert result.quality["rows"] == {"read": 4, "used": used, "set_aside": 4 - used}
    assert result.quality["possible_pairs"]["used"] == len(expected)


def test_ranked_lists_become_pairs_and_pairs_stay(tmp_path: Path):
    ranked = [{"answer": f"answer {rank}", "rank": rank} for rank in (2, 3, 1, 3)]
    data = rows_file(tmp_path / "in", {"prompt": "\n\nHuman: Who?\n\nAssistant: ", "answers": ranked})
    result = build("import", {"data": str(data), "pairing": "adjacent", "validation": 0}, tmp_path / "out")
    assert sorted((r.chosen.text, r.rejected.text) for r in result.records) == [
        ("answer 1", "answer 2"),
        ("answer 2", "answer 3"),
    ]
    pairs = build(
        "import", {"data": str(rows_file(tmp_path / "in", PAIR)), "pairing": "all", "validation": 0}, tmp_path / "same"
    )
    assert pairs.records[0].chosen.text == "A kitten." and pairs.quality["rows"]["used"] == 1
    with pytest.raises(ConfigError, match="min_margin: is of pairs"):
        build("import", {"data": str(data), "min_margin": 1}, tmp_path / "wrong")
