"""What ``mmdpo new KIND NAME`` writes: the files of an extension that work as they are, to be changed from there."""

from __future__ import annotations

import importlib.util
import keyword
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final

from mmdpo import registry
from mmdpo.errors import ConfigError, did_you_mean

KINDS: Final[Mapping[str, Mapping[str, str]]] = {
    "benchmark": {"benchmark.py.j2": "{name}.py", "test_benchmark.py.j2": "test_{name}.py"},
    "builder": {"builder.py.j2": "{name}.py", "test_builder.py.j2": "test_{name}.py"},
    "loss": {"loss.py.j2": "{name}.py", "test_loss.py.j2": "test_{name}.py"},
    "modality": {"modality.py.j2": "{name}.py", "test_modality.py.j2": "test_{name}.py"},
}
"""Templates of each kind and the files that they become; another kind is one more entry."""
_REGISTRIES: Final[Mapping[str, registry.Registry]] = {
    "benchmark": registry.benchmarks,
    "builder": registry.builders,
    "loss": registry.terms,
    "modality": registry.modalities,
}
LONGEST_NAME: Final = 30
"""Characters; the lines of the templates stay within 120."""


def write_new(kind: str, name: str, out: Path) -> list[Path]:
    """Writes the files of a new extension.

    Args:
        kind: One of :data:`KINDS`.
        name: What it is registered under, and the name of its file.
        out: Folder to write to; made where it is missing.

    Returns:
        The files, the extension itself first.

    Raises:
        ConfigError: The kind is unknown, the name cannot be used, or a file is there already.
    """
    if kind not in KINDS:
        raise ConfigError(
            f"there is no template for a new {kind!r}",
            why=did_you_mean(kind, KINDS),
            fix=f"Kinds: {', '.join(sorted(KINDS))}.",
        )
    paths = {template: out / file.format(name=name) for template, file in KINDS[kind].items()}
    for path in paths.values():
        if path.exists():
            raise ConfigError(
                f"{str(path)!r} exists", why="It is not overwritten.", fix="Choose another name or --out."
            )
    _check_name(kind, name)
    values = {"name": name, "Name": "".join(word.capitalize() for word in name.split("_"))}
    out.mkdir(parents=True, exist_ok=True)
    for template, path in paths.items():
        path.write_text(_rendered(template, values), encoding="utf-8")
    return list(paths.values())


def _rendered(template: str, values: Mapping[str, str]) -> str:
    from jinja2 import Environment, StrictUndefined

    source = (files("mmdpo.extensions") / "templates" / template).read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(source).render(values)


def _check_name(kind: str, name: str) -> None:
    """Refuses what cannot be a module, a registered name and the type of a content part at once."""
    problem = None
    if not name.isascii() or not name.isidentifier() or name != name.lower() or keyword.iskeyword(name):
        problem = "it has to be a Python identifier in lower case"
    elif name.startswith("_") or len(name) > LONGEST_NAME:
        problem = f"it has to start with a letter and to be at most {LONGEST_NAME} characters long"
    elif kind == "modality" and name == "text":
        problem = "content parts of that type are the text of a prompt"
    elif name in _REGISTRIES[kind]:
        problem = f"a {kind} of that name is registered"
    elif name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        problem = "a Python module of that name is installed, and one of the two would hide the other"
    if problem is not None:
        raise ConfigError(
            f"a new {kind} cannot be called {name!r}", why=f"Of the name: {problem}.", fix="Choose another."
        )
