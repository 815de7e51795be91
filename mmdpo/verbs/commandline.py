"""Reads what the command line says: overrides, ``NAME=VALUE`` pairs, a benchmark's own options, ``--processes``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mmdpo.errors import ConfigError

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="Python file that registers an extension; may be repeated.", show_default=False),
]
Out = Annotated[Path, typer.Option("--out", help="Folder to make; nothing is overwritten.")]


def run_config(config: Path, overrides: list[str] | None) -> Any:
    """The configuration of a run: the file with the settings of the command.

    A loss that is named whole (``loss=NAME``, ``loss={NAME: {...}}``) takes the place of the file's, because two losses
    would be added up. ``loss.NAME.key=value`` changes one that is there, or adds one.

    Raises:
        ConfigError: As for `mmdpo.config.parse_config`.
    """
    from mmdpo.config import parse_config, read_yaml

    given = overrides or []
    values = read_yaml(config, given)
    whole = [word for word in given if word.startswith("loss=")]
    parts = [word for word in given if word.startswith("loss.")]
    named = read_yaml(config).get("loss")
    if whole:
        values["loss"] = read_yaml(None, [*map(_as_mapping, whole), *parts] if parts else whole)["loss"]
    elif parts and isinstance(named, str):
        values["loss"] = {named: {}} | values["loss"]
    return parse_config(values, str(config))


def _as_mapping(word: str) -> str:
    """``loss=NAME`` as ``loss={NAME: {}}``, so that its settings can be merged with it."""
    name = word.removeprefix("loss=")
    return word if name.startswith("{") else f"loss={{{name}: {{}}}}"


def merged(words: list[str]) -> tuple[dict[str, Any], Path]:
    """One YAML file (or none) and overrides, as plain values; and the folder where relative plugins start."""
    from mmdpo.config import read_yaml, shipped_configs

    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        raise ConfigError(
            f"two configuration files were given: {', '.join(files)}",
            why="It is not known which one counts.",
            fix="Give one file, and settings as key=value.",
        )
    path = None if not files else Path(files[0])
    if path is not None and not path.exists():
        path = shipped_configs().get(files[0], path)
    return read_yaml(path, [word for word in words if "=" in word]), path.parent if path else Path()


def use_plugins(files: list[Path] | None) -> None:
    """Imports the files of ``--plugin``; relative ones start where the command runs."""
    from mmdpo.registry import load_plugins

    load_plugins(files or [])


def eval_sections(
    words: list[str], data: list[str], images: list[str], limit: int | None, out: Path = Path(), **how: Any
) -> dict[str, Any]:
    """Sections of a configuration from benchmarks with their own options, ``--data`` and ``--images``.

    Args:
        words: Benchmarks, then their own options.
        data: ``BENCH=PATH`` of the questions.
        images: ``BENCH=FOLDER`` of the media.
        limit: Images or clips to use.
        out: Folder of the evaluation.
        how: Further fields of each section.

    Raises:
        ConfigError: A benchmark is unknown, lacks its data, or something is given for one that is not there.
    """
    from mmdpo.config import EvalSection
    from mmdpo.evals.shared.needs import data_paths, known_names

    start = next((n for n, word in enumerate(words) if word.startswith("--")), len(words))
    benchmarks, own = words[:start], own_options(words[:start], options(words[start:]))
    paths = data_paths(benchmarks, by_name(data, "--data"), out, "Add --data {name}=PATH")
    folders = by_name(images, "--images")
    known_names(folders, benchmarks, "--images")
    return {
        name: EvalSection(data=paths[name], images=folders.get(name), limit=limit, options=own[name], **how)
        for name in benchmarks
    }


def own_options(benchmarks: list[str], given: dict[str, str]) -> dict[str, dict[str, str]]:
    """Each benchmark's own options: of ``VALUE`` where one is named, of ``BENCH=VALUE`` where there are several."""
    own: dict[str, dict[str, str]] = {name: {} for name in benchmarks}
    for option, value in given.items():
        name, _, rest = value.partition("=")
        if name in own:
            own[name][option] = rest
        elif len(own) == 1:
            own[benchmarks[0]][option] = value
        else:
            raise ConfigError(
                f"--{option.replace('_', '-')} {value!r} has no benchmark name",
                why=f"It could belong to any of {', '.join(benchmarks)}.",
                fix=f"Write --{option.replace('_', '-')} BENCH=VALUE.",
            )
    return own


def by_name(pairs: list[str], option: str) -> dict[str, str]:
    """``NAME=VALUE`` pairs of an option."""
    named: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name in named:
            raise ConfigError(
                f"{option} {pair!r} has no benchmark name" if not equals else f"{option} names {name!r} twice",
                why="It is not known which benchmark it belongs to." if not equals else "Only one could be used.",
                fix=f"Write {option} BENCH=PATH, once for each.",
            )
        named[name] = value
    return named


def options(words: list[str]) -> dict[str, Any]:
    """``--name value`` and ``--name=value`` pairs of a benchmark's own options."""
    flat = [piece for word in words for piece in (word.split("=", 1) if word.startswith("--") else [word])]
    if len(flat) % 2 or any(not name.startswith("--") for name in flat[::2]):
        raise ConfigError(
            f"options {' '.join(words)!r} are not pairs of --name value",
            why="The benchmark's own options take one value each.",
            fix="Write --name value.",
        )
    return {name[2:].replace("-", "_"): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def free_to_write(*files: Path) -> Path:
    """Makes sure that none of the files exists; returns the last."""
    for file in files:
        if file.exists():
            raise ConfigError(
                f"{str(file)!r} exists",
                why="Scores and the items behind them stay together, so neither is overwritten.",
                fix="Choose another --out, in a folder of its own.",
            )
    return files[-1]


def relaunch(processes: int) -> None:
    """Runs the same command in several processes; does not return."""
    from mmdpo.launch import launch

    words, skip = [], False
    for word in sys.argv[1:]:
        if skip or word == "--processes":
            skip = not skip
        elif not word.startswith("--processes="):
            words.append(word)
    sys.exit(launch(words, processes))
