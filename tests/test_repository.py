"""What must hold of the repository itself: sizes, import cost, packaging, and nothing that does not belong in it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mmdpo", "data_builders")
LONGEST_FILE, LONGEST_FUNCTION = 300, 66
"""Where a change must split the file or function; the habit is 60 lines a function."""


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, f"{path}:{node.lineno} {node.name}"


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["train", "--help"],
        ["ls", "configs"],
        pytest.param(["ls", "losses", "--json"], marks=pytest.mark.slow),
    ],
)
def test_light_verbs_do_not_import_torch(words: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['mmdpo', *{words!r}]\n"
        "from mmdpo.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'transformers', 'datasets', 'peft', 'matplotlib'} & set(sys.modules)\n"
        f"heavy |= {{'torch'}} & set(sys.modules) if {words[-1] != '--json'} else set()\n"
        "assert not heavy, heavy"
    )
    result = run(sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("package", ["mmdpo", "mmdpo.records", "mmdpo.registry"])
def test_importing_the_package_is_cheap(package: str) -> None:
    code = f"import {package}, sys; assert not {{'torch', 'datasets'}} & set(sys.modules)"
    result = run(sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT))
    assert built.returncode == 0, built.stdout + built.stderr
    return next(folder.glob("*.whl"))


def test_wheel_holds_configs_templates_and_playground(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "mmdpo/_configs/start.yaml",
        "mmdpo/report/templates/report.html.j2",
        "mmdpo/playground/weights/model.safetensors",
        "mmdpo/playground/audio/weights/model.safetensors",
        "mmdpo/extensions/templates/modality.py.j2",
        "mmdpo/evals/shared/coco_synonyms.json",
        "mmdpo/evals/shared/safety_probes.yaml",
        "mmdpo/evals/text_checks.yaml",
        "data_builders/ratings.py",
        "mmdpo/py.typed",
    ):
        assert wanted in names, f"{wanted} is missing from the wheel"
    weights = sum(info.file_size for info in zipfile.ZipFile(wheel).infolist() if "/weights/" in info.filename)
    assert weights <= 10_000_000  # both playgrounds
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".pickle"))]


@pytest.mark.slow
def test_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """The unpacked wheel first on the path, far away from the checkout."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import mmdpo; assert 'site' in mmdpo.__file__, mmdpo.__file__\n"
        "from mmdpo.config import shipped_configs, copy_shipped\n"
        "from pathlib import Path\n"
        "assert 'start' in shipped_configs()\n"
        "copy_shipped('start', Path('mine.yaml'))\n"
        "from mmdpo.playground.model import load_base\n"
        "assert (Path(load_base()) / 'model.safetensors').is_file()"
    )
    result = run(sys.executable, "-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "mine.yaml").is_file()


def command_of(site: Path) -> list[str]:
    """The ``mmdpo`` command of an unpacked wheel."""
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r}); from mmdpo.cli import main; main()"]


def test_the_command_works_from_a_wheel(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    listed = run(*command_of(tmp_path / "site"), "ls", "configs", cwd=tmp_path)
    assert "llava_7b" in listed.stdout, listed.stderr
    copied = run(*command_of(tmp_path / "site"), "cp", "llava_7b", cwd=tmp_path)
    assert copied.returncode == 0, copied.stderr
    assert (tmp_path / "llava_7b.yaml").is_file()


@pytest.mark.slow
def test_the_demo_works_from_a_wheel(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    shown = run(*command_of(tmp_path / "site"), "demo", "--scenes", "20", "--out", "first", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert (tmp_path / "first" / "report.html").is_file()


def test_nothing_of_a_private_machine_is_tracked() -> None:
    tracked = run("git", "ls-files").stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    private = re.compile("/(work|root|home/[a-z]+)/")
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".yaml", ".toml", ".txt", ".j2", ".css", ""} and path.is_file():
            found = private.search(path.read_text(encoding="utf-8"))
            assert not found or name == "tests/test_repository.py", f"{name}: {found and found.group()}"


@pytest.mark.parametrize("name", ["start", "llava_7b", "llava_7b_24gb"])
def test_shipped_run_configurations_are_valid(name: str, tmp_path: Path) -> None:
    from mmdpo.config import load_config, shipped_configs
    from mmdpo.objectives import make_objective
    from mmdpo.runs.settings import training_arguments

    config = load_config(shipped_configs()[name], ["train.bf16=false"])
    make_objective(config.loss)
    training_arguments(config, tmp_path)


def test_every_shipped_configuration_says_what_it_is() -> None:
    from mmdpo.extensions.discovery import listing

    rows = listing("configs")
    assert {"start", "llava_7b", "build_thumb"} <= {row["name"] for row in rows}
    assert all(row["what"] for row in rows)
