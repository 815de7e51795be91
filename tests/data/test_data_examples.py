"""The examples of docs/data.md are whole: with their tables every build gives what is shown, and training takes it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from evals.judge_server import running
from mmdpo.cli import app
from mmdpo.registry import builders

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"(?ms)^## `mmdpo build (\w+)`\n(.*?)(?=^## |\Z)", PAGE))
OF_MODELS = frozenset({"sample", "self_check", "clip_score"})
SERVER = "http://localhost:8000/v1"
TOWERS = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def commands(section: str) -> list[str]:
    """The commands of the first block of a section."""
    block = re.search(r"(?ms)^```bash\n(.*?)^```", section)
    assert block
    return [line.strip() for line in block.group(1).replace("\\\n", " ").splitlines()]


def tables(section: str) -> dict[str, str]:
    """The files that a section shows under their names."""
    return dict(re.findall(r"(?ms)^`([\w.]+)`\n\n```\w*\n(.*?)^```", section))


def outputs(section: str) -> list[str]:
    """What a section says that its builds print, in their order; what a run on other data printed stands behind."""
    return [shown.strip() for shown in re.findall(r"(?ms)^```\n(\d+ rows read: .*?)^```", section)]


def mmdpo(line: str) -> str:
    result = CliRunner().invoke(app, shlex.split(line)[1:])
    assert result.exit_code == 0, (line, result.output, result.exception)
    return result.stdout


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A folder with the pictures, clips and tables of the page; words of its commands that mean something else here."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("clips").mkdir()
    for seed, name in enumerate(("beach", "kitten", "street")):
        pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{name}.png")
    for pitch, name in ((300, "dog"), (500, "rain")):
        wave = 0.3 * np.sin(2 * np.pi * pitch * np.arange(32_000) / 16_000)
        soundfile.write(f"clips/{name}.wav", wave, 16_000)
    for section in SECTIONS.values():
        for name, content in tables(section).items():
            Path(name).write_text(content, encoding="utf-8")
    mmdpo("mmdpo cp start")
    with running() as server:
        server.reply_with(shorter_is_better)
        yield {SERVER: server.url, "ViT-B-32": "tiny-clip-page"}


@pytest.fixture
def clip(desk: dict[str, str]) -> Iterator[None]:
    """The weights that the page's CLIP has: small ones, drawn by chance."""
    Path("tiny-clip-page.json").write_text(json.dumps(TOWERS), encoding="utf-8")
    open_clip.add_model_config("tiny-clip-page.json")
    torch.manual_seed(1)
    save_file(open_clip.create_model("tiny-clip-page").state_dict(), "clip.safetensors")
    yield
    del open_clip.factory._MODEL_CONFIGS["tiny-clip-page"]


def shorter_is_better(prompt: str) -> str:
    first, second = re.findall(r"\[(?:first |second )?answer \w+\]\n(.*?)\n\[end of", prompt, re.DOTALL)
    points = (4, 2, "first") if len(first) < len(second) else (2, 4, "second")
    of_first, of_second = prompt.rsplit("\n", 1)[1].split('"second": ')
    of_first, of_second = (of.replace("NUMBER", str(n)) for of, n in zip((of_first, of_second), points, strict=False))
    return f'{of_first}"second": {of_second.replace("...", points[2])}'


def here(line: str, words: dict[str, str]) -> str:
    for said, meant in words.items():
        line = line.replace(said, meant)
    return line


def build_all(words: dict[str, str], without: frozenset[str] = frozenset()) -> Iterator[tuple[str, list[str]]]:
    """Runs every build of the page in its order; yields the names of the builders with what they printed."""
    for name in (name for name in SECTIONS if name not in without):
        builds = [line for line in commands(SECTIONS[name]) if line.startswith("mmdpo build ")]
        yield name, [mmdpo(here(line, words)) for line in builds]


def test_every_builder_has_an_example_and_a_way_to_training() -> None:
    assert set(SECTIONS) == {name for name in builders if builders.get(name).__module__.startswith("data_builders.")}
    overview = PAGE.partition("\n## ")[0]
    for name, section in SECTIONS.items():
        lines = commands(section)
        assert any(line.startswith(f"mmdpo build {name} ") for line in lines), name
        # candidates without an order are no preferences: another builder makes some of them
        assert any(line.startswith("mmdpo train ") for line in lines) or name == "sample", name
        assert f"(#mmdpo-build-{name})" in overview, name


def test_every_build_prints_what_the_page_shows(desk: dict[str, str]) -> None:
    """Of builders that run a model, see below: what they print is up to its numbers."""
    for name, printed in build_all(desk, OF_MODELS):
        shown = outputs(SECTIONS[name])
        assert len(shown) >= len(printed) > 0, name
        for said, found in zip(shown, printed, strict=False):
            assert found.startswith(said + "\n"), (name, found)


@pytest.mark.slow
@pytest.mark.timeout(900)  # some twenty trainings
def test_every_build_leads_to_training(desk: dict[str, str], clip: None) -> None:
    for name, _ in build_all(desk):
        for line in commands(SECTIONS[name]):
            if line.startswith("mmdpo cp "):
                mmdpo(line)
            elif line.startswith("mmdpo train "):
                folder = Path(shlex.split(line)[-1])
                mmdpo(f"{line} train.max_steps=1 train.disable_tqdm=true")
                assert (folder / "report.html").is_file(), line
