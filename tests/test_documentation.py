"""The documentation runs: Python examples top to bottom, and every command line is one that the program takes."""

from __future__ import annotations

import os
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
