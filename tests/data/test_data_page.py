"""docs/data.md names every reason and every setting, and its example runs."""

import re
from pathlib import Path

import pytest
from PIL import Image

from data_builders.ratings_config import Columns, RatingsConfig, Scale

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([a-z_.]+)`", DOCUMENT))


@pytest.mark.parametrize(
    ("files", "pattern"),
    [
        (["mmdpo/media.py"], r'MediaError\(\s*"(\w+)"'),
        (["mmdpo/record_checks.py"], r'(?:yield|\[\()\s*"(\w+)",'),
        (["data_builders/rating_rows.py", "data_builders/table_config.py"], r'UnusableError\(\s*"(\w+)"'),
        (
            ["data_builders/rating_rows.py", "data_builders/ratings.py", "data_builders/pairing.py"],
            r'(?:set_aside\(|reason = |else )"(\w+)"',
        ),
    ],
)
def test_every_reason_is_documented(files: list[str], pattern: str):
    source = "".join((ROOT / file).read_text(encoding="utf-8") for file in files)
    reasons = set(re.findall(pattern, source))
    assert reasons
    assert reasons <= NAMED, f"not in docs/data.md: {sorted(reasons - NAMED)}"


def test_every_setting_is_documented():
    settings = {*RatingsConfig.model_fields} - {"columns", "scale"}
    settings |= {f"columns.{name}" for name in Columns.model_fields} | {f"scale.{name}" for name in Scale.model_fields}
    assert settings <= NAMED, f"not in docs/data.md: {sorted(settings - NAMED)}"


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (4, 4)).save("photos/kitten.png")
    (example,) = re.findall(r"```python\n(from mmdpo\.records.*?)```", DOCUMENT, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert len(names["records"]) == 1  # type: ignore[arg-type]
