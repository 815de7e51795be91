"""docs/data.md and docs/records.md name every reason and every setting, and their examples run."""

import re
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image
from pydantic import BaseModel

from data_builders.asking.prompt_sources import AnswerColumns
from data_builders.asking.sample_sources import SourceConfig
from data_builders.base import BuilderConfig
from data_builders.care.cleaners import CLEANERS
from data_builders.care.cleaning import EMPTIED, EQUAL
from data_builders.care.leakage import EVIDENCE
from data_builders.clip_score import ClipScoreConfig
from data_builders.counterfactual import Counterfactual
from data_builders.counterfactual_config import CounterfactualConfig, Similar
from data_builders.judge import JudgeConfig
from data_builders.ratings_config import Columns, RatingsConfig, Scale
from data_builders.sample import SampleConfig
from data_builders.self_check import SelfCheckConfig
from data_builders.tables.config import TableConfig
from mmdpo.registry import builders

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
RECORDS = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([a-z_.]+)`", DOCUMENT + RECORDS))
SHARED_SETTINGS = set(BuilderConfig.model_fields)  # said once, for `ratings`


CARE = (ROOT / "docs" / "data_care.md").read_text(encoding="utf-8")


def test_the_page_on_care_names_cleaners_evidence_and_reasons():
    named = set(re.findall(r"`([a-z_]+)`", CARE))
    told = {*CLEANERS, *EVIDENCE, EMPTIED, EQUAL, *(set(BuilderConfig.model_fields) - {"plugins"})}
    assert told <= named, f"not in docs/data_care.md: {sorted(told - named)}"
    default = BuilderConfig().clean
    assert [name for name in CLEANERS if f"| `{name}` (the default)" in CARE] == [*default]


@pytest.mark.parametrize(
    ("files", "pattern"),
    [
        (["mmdpo/media/files.py"], r'MediaError\(\s*"(\w+)"'),
        (["mmdpo/records/checks.py"], r'(?:yield|\[\()\s*"(\w+)",'),
        (["data_builders/rating/rows.py", "data_builders/tables/config.py"], r'UnusableError\(\s*"(\w+)"'),
        (
            ["data_builders/rating/rows.py", "data_builders/ratings.py", "data_builders/rating/pairing.py"],
            r'(?:set_aside\(|reason = |else )"(\w+)"',
        ),
        (
            ["data_builders/asking/prompt_sources.py", "data_builders/sample.py", "data_builders/asking/scored.py"],
            r'(?:set_aside\(\s*|lost\.append\(\()"(\w+)"',
        ),
        (["data_builders/counterfactual.py"], r'set_aside\(\s*"(\w+)"'),
        (["data_builders/partners/partnering.py"], r'(?m)^    "(\w+)": "'),
        (
            ["data_builders/judge.py", "data_builders/self_check.py", "data_builders/clip_score.py"],
            r'(?:set_aside\(\s*|reason, told = \()"(\w+)"',
        ),
    ],
)
def test_every_reason_is_documented(files: list[str], pattern: str):
    source = "".join((ROOT / file).read_text(encoding="utf-8") for file in files)
    reasons = set(re.findall(pattern, source))
    assert reasons
    assert reasons <= NAMED, f"not in docs/data.md: {sorted(reasons - NAMED)}"


def test_settings_of_the_counterfactual_builder_are_documented():
    section = DOCUMENT.partition("## `mmdpo build counterfactual`")[2].partition("\n## ")[0]
    settings = {*CounterfactualConfig.model_fields, *get_args(Similar)}
    named = set(re.findall(r"`([a-z_]+)`", section))
    assert settings <= named, f"not in its section: {sorted(settings - named)}"
    starred = set(re.findall(r"^\| `(\w+)` \*", section, flags=re.MULTILINE))
    assert starred == set(Counterfactual.sound_reasons)


def test_every_setting_is_documented():
    settings = {*RatingsConfig.model_fields} - {"columns", "scale"}
    settings |= {f"columns.{name}" for name in Columns.model_fields} | {f"scale.{name}" for name in Scale.model_fields}
    assert settings <= NAMED, f"not in docs/data.md: {sorted(settings - NAMED)}"


@pytest.mark.parametrize(
    ("config", "beyond"),
    [
        (SampleConfig, TableConfig),
        *((config, RatingsConfig) for config in (JudgeConfig, SelfCheckConfig, ClipScoreConfig)),
    ],
)
def test_settings_of_scoring_builders_are_documented(config: type[BaseModel], beyond: type[BaseModel]):
    own = {*config.model_fields} - {*beyond.model_fields} - {"columns"}
    assert own
    assert own <= NAMED, f"not in docs/data.md: {sorted(own - NAMED)}"
    assert {f"sources.{name}" for name in SourceConfig.model_fields} <= NAMED
    assert {f"columns.{name}" for name in AnswerColumns.model_fields} <= NAMED


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (4, 4)).save("photos/kitten.png")
    (example,) = re.findall(r"```python\n(from mmdpo\.records.*?)```", RECORDS, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert len(names["records"]) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("vqa", ["vqa", "vqa_config"]),
        ("facts", ["facts"]),
        ("objects", ["objects", "object_rows", "object_sources", "injection"]),
        ("first_hallucination", ["first_hallucination", "object_rows", "object_sources"]),
    ],
)
def test_the_section_of_a_builder_names_its_settings_and_reasons(name: str, files: list[str]):
    _, found, rest = DOCUMENT.partition(f"## `mmdpo build {name}`\n")
    assert found
    named = set(re.findall(r"`([a-z_.]+)`", rest.partition("\n## ")[0]))
    fields = dict(builders.get(name).Config.model_fields)
    settings = {*fields} - {"columns", "media_path", *SHARED_SETTINGS}
    settings |= {f"columns.{column}" for column in fields["columns"].annotation.model_fields}  # type: ignore[union-attr]
    assert settings <= named, f"settings: {sorted(settings - named)}"
    source = "".join((ROOT / "data_builders" / f"{file}.py").read_text(encoding="utf-8") for file in files)
    reasons = set(re.findall(r'(?:UnusableError\(|set_aside\(|reasons\[row\] = )\s*"(\w+)"', source))
    assert reasons and reasons <= NAMED, f"reasons: {sorted(reasons - NAMED)}"
