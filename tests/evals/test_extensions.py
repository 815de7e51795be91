"""Extensions in one file: found by ``plugins`` and by ``--plugin``, imported once, and clear about what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_builders.running.build import build
from mmdpo import registry
from mmdpo.cli import app
from mmdpo.errors import ConfigError, MMDPOError

BUILDER = '''
from data_builders.base import Builder, BuilderConfig
from mmdpo.records import Candidate, Record, user_message
from mmdpo.registry import builders


class OneConfig(BuilderConfig):
    word: str


@builders.register("NAME")
class One(Builder[OneConfig]):
    """One pair."""

    Config = OneConfig

    def records(self, config, work):
        work.ledger.read(1)
        work.ledger.use(1)
        prompt = (user_message("Say a word."),)
        yield Record(id="1", prompt=prompt, candidates=(Candidate(config.word), Candidate("no")), media={})
'''
BENCHMARK = '''
from dataclasses import dataclass
from pathlib import Path

from mmdpo.evals.base import Benchmark, Item, Sample
from mmdpo.evals.shared.files import read_json
from mmdpo.evals.stats import ratio
from mmdpo.registry import benchmarks


@benchmarks.register("shout")
@dataclass(frozen=True)
class Shout(Benchmark):
    """How often the answer is in capitals."""

    name = "shout"
    rule = "capitals"

    def samples(self, data: Path):
        return [Sample(id=name, prompt="?", media={}, target=None, group=name) for name in read_json(data)]

    def item(self, item_id, sample, answer):
        loud = answer.text.isupper()
        counts = {"answers": 1.0, "loud": float(loud)}
        return Item(item_id, sample.group, answer.text, loud, None, loud, counts)

    def metrics(self, columns):
        return [ratio("shout_rate", "loud", "answers", better="lower")]
'''


def mmdpo(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def fails(*words: object) -> MMDPOError:
    error = CliRunner().invoke(app, [str(word) for word in words]).exception
    assert isinstance(error, MMDPOError), error
    return error


def test_a_builder_in_one_file_is_named_beside_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(BUILDER.replace("NAME", "one_pair"), encoding="utf-8")
    (tmp_path / "one.yaml").write_text("plugins: [one.py]\nword: yes it is\n", encoding="utf-8")
    mmdpo("build", "one_pair", tmp_path / "one.yaml", "--out", tmp_path / "pairs")
    quality = json.loads((tmp_path / "pairs" / "quality.json").read_text(encoding="utf-8"))
    assert (quality["rows"]["used"], quality["splits"], quality["records"]["n"]) == (1, {"train": 1}, 1)
    again = build("one_pair", {"word": "yes", "plugins": ["one.py"]}, tmp_path / "again", folder=tmp_path)
    assert len(again.records) == 1
    names = [row["name"] for row in json.loads(mmdpo("ls", "builders", "--json", "--plugin", tmp_path / "one.py"))]
    assert "one_pair" in names


@pytest.mark.slow
def test_a_benchmark_in_one_file_scores_and_compares(tmp_path: Path) -> None:
    """In fresh processes, where nothing but ``--plugin`` can have made the name known."""
    (tmp_path / "shout.py").write_text(BENCHMARK, encoding="utf-8")
    (tmp_path / "data.json").write_text('["a", "b", "c"]', encoding="utf-8")
    for model, texts in {"quiet": ("x", "y", "z"), "loud": ("X", "Y", "z")}.items():
        rows = [{"id": name, "text": text} for name, text in zip("abc", texts, strict=True)]
        answers = tmp_path / f"{model}.jsonl"
        answers.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        out = tmp_path / model / "shout" / "metrics.json"
        words = ["--data", str(tmp_path / "data.json"), "--answers", str(answers), "--out", str(out)]
        _run("score", "shout", *words, "--plugin", str(tmp_path / "shout.py"))
    folders = [str(tmp_path / "quiet"), str(tmp_path / "loud")]
    compared = json.loads(_run("compare", *folders, "--json", "--plugin", str(tmp_path / "shout.py")))
    entry = compared["metrics"]["shout_rate"]
    assert (entry["before"]["value"], entry["after"]["value"]) == (0.0, pytest.approx(2 / 3))
    assert entry["better"] == "lower"


def _run(*words: str) -> str:
    result = subprocess.run([sys.executable, "-m", "mmdpo", *words], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_plugin_that_fails_says_why_and_can_be_mended(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import nothing_of_that_name\n", encoding="utf-8")
    error = fails("ls", "losses", "--plugin", path)
    assert isinstance(error, ConfigError)
    assert "nothing_of_that_name" in error.what
    path.write_text("", encoding="utf-8")
    assert registry.load_plugins([path]) == [path]
    with pytest.raises(ConfigError, match="plugins"):
        build("ratings", {"plugins": "one.py"}, tmp_path / "out")


@pytest.mark.slow
def test_losses_are_registered_when_they_are_asked_for() -> None:
    """In a fresh process, which has imported the registry alone."""
    code = (
        "import sys; from mmdpo import registry; assert 'torch' not in sys.modules\n"
        "assert 'dpo' in registry.terms and 'pair' in list(registry.terms)\n"
        "assert registry.terms.get('pair').__name__ == 'Pair'"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


class _EntryPoint:
    name, value = "extra", "extra_package"

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.loaded = fails, 0

    def load(self) -> None:
        if self.fails:
            raise ImportError("no extra_package")
        self.loaded += 1
        registry.benchmarks.lazy("from_entry_point", "mmdpo.evals.pope:Pope")


def test_entry_points_are_loaded_at_the_first_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = _EntryPoint()
    monkeypatch.setattr(registry, "_entry_points_done", False)
    monkeypatch.setattr(registry.benchmarks, "_entries", dict(registry.benchmarks._entries))
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [entry])
    mmdpo("eval", "--help")
    assert entry.loaded == 0
    assert "from_entry_point" in registry.benchmarks
    assert registry.benchmarks.get("from_entry_point").name == "pope"
    assert entry.loaded == 1
    monkeypatch.setattr(registry, "_entry_points_done", False)
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [_EntryPoint(fails=True)])
    for _ in range(2):
        with pytest.raises(ConfigError, match="no extra_package"):
            list(registry.benchmarks)
