"""The documentation runs: Python examples top to bottom, and every command line is one that the program takes."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
COMMAND = re.compile(r"^\s*(?:\$ )?mmdpo ([a-z]+)(.*)$")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^\s*```{language}\n(.*?)^\s*```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_python_examples_of_the_api_page_run(tmp_path: Path) -> None:
    code = "\n".join(blocks(ROOT / "docs" / "api.md", "python"))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in blocks(page, "(?:bash|sh|console)?"):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(page.name, line.strip()) for line in lines if COMMAND.match(line)]
    return sorted(set(found))


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda value: value[:60])
def test_every_command_line_is_taken(page: str, line: str) -> None:
    """The verb exists and has every option that the line uses; positional settings are of the form key=value."""
    import typer

    from mmdpo.cli import app

    words = shlex.split(line.split("#")[0])[1:]
    command = typer.main.get_command(app)
    verb = command.commands.get(words[0])  # type: ignore[attr-defined]
    if hasattr(verb, "commands"):  # a verb with kinds of its own
        words = words[1:]
        verb = verb.commands.get(words[0])
    assert verb is not None, f"{page}: no verb {words[0]!r}"
    names = {name for parameter in verb.params for name in getattr(parameter, "opts", [])}
    free = verb.context_settings.get("ignore_unknown_options", False)
    for word in words[1:]:
        if word.startswith("-") and not free:
            assert word.split("=")[0] in names | {"--help", "-h"}, f"{page}: {line}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def readme_lines() -> list[str]:
    lines = "\n".join(blocks(ROOT / "README.md", "bash")).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if COMMAND.match(line)]


def test_readme_commands_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On twelve pictures of the tiny world, with the shipped tiny model in place of the 7B one."""
    from typer.testing import CliRunner

    from mmdpo.cli import app
    from mmdpo.evals.shared.pope_questions import write_questions
    from mmdpo.playground.files import write_annotations, write_ratings_table, write_scene_images
    from mmdpo.playground.questions import pope_questions
    from mmdpo.playground.raters import rate_captions, raters
    from mmdpo.playground.world import scenes

    seen = scenes(12, 0, "preference")
    captions = ["A red circle and a boat on a lake.", "A star in a meadow.", "A yellow tree in a night sky."]
    write_scene_images(tmp_path / "photos", seen)
    rows = [row for scene in seen for row in rate_captions(scene, captions, raters(0))]
    write_ratings_table(tmp_path / "ratings.csv", rows)
    write_questions(pope_questions(seen, "adversarial", 0), tmp_path / "questions.jsonl")
    write_annotations(tmp_path / "objects.json", seen)
    told = [json.dumps({"image_id": scene.file_name, "caption": "a boat and a tree"}) for scene in seen]
    (tmp_path / "captions.jsonl").write_text("\n".join(told), encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    lines = readme_lines()
    assert [line.split()[1] for line in lines] == ["build", "check", "train", "eval", "eval", "score", "compare"]
    for line in ["mmdpo cp llava_7b", *lines]:
        words = shlex.split(line.replace("llava-hf/llava-1.5-7b-hf", "playground"))[1:]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, (line, result.output, result.exception)
        if words[0] == "cp":  # what a laptop has in place of the GPU that the configuration is for
            path = tmp_path / "llava_7b.yaml"
            text = path.read_text(encoding="utf-8").replace("llava-hf/llava-1.5-7b-hf", "playground")
            text = text.replace("dtype: bfloat16", "dtype: float32").replace("bf16: true", "use_cpu: true")
            path.write_text(
                text.replace("train:\n", "train:\n  max_steps: 2\n  disable_tqdm: true\n"), encoding="utf-8"
            )


CODE_NAME = re.compile(r"(?:mmdpo|data_builders)(?:\.\w+)+")


def code_names() -> list[tuple[str, str]]:
    """Dotted names of the library in backticks, with their page."""
    pages = [page for page in PAGES if page.parent in (ROOT, ROOT / "docs")]
    spans = ((page.name, span) for page in pages for span in re.findall(r"`([^`\n]+)`", page.read_text("utf-8")))
    return sorted({(page, name) for page, span in spans for name in CODE_NAME.findall(span)})


def test_names_of_the_library_exist() -> None:
    names = code_names()
    assert len(names) > 20
    for page, name in names:
        try:
            pkgutil.resolve_name(name)
        except (AttributeError, ImportError) as error:
            pytest.fail(f"{page} names `{name}`: {error}")
