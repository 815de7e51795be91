"""Reading the configuration of a run: YAML merged with ``a.b=c`` overrides, every error reported at once."""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from mmdpo.errors import ConfigError, MMDPOError, did_you_mean
from mmdpo.sections import (
    DataSection,
    EvalSection,
    FeaturesSection,
    LoraSection,
    ModelSection,
    ReferenceSection,
    RunConfig,
    Section,
    StopSection,
)

__all__ = [
    "DataSection",
    "EvalSection",
    "FeaturesSection",
    "LoraSection",
    "ModelSection",
    "ReferenceSection",
    "RunConfig",
    "Section",
    "StopSection",
    "copy_shipped",
    "describe_problem",
    "load_config",
    "parse_config",
    "problems_error",
    "read_yaml",
    "shipped_configs",
    "together",
]


PLACEHOLDER = re.compile(r"\{\w[^{}, ]*\}")
"""How a text begins that is filled in: ``{id}.jpg``, ``{id:0>12}.jpg``."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a configuration and applies ``a.b=c`` overrides (defaults < file < shell).

    Raises:
        ConfigError: Listing every problem, with near names for unknown keys.
    """
    return parse_config(read_yaml(path, overrides), str(path))


def read_yaml(path: Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A YAML file (or nothing) merged with overrides, as plain dictionaries.

    Raises:
        ConfigError: The file is missing or not YAML, or an override is not of the form ``a.b=c``.
    """
    if path is not None and not path.is_file():
        raise ConfigError(
            f"configuration file {str(path)!r} does not exist",
            why="There is nothing to run.",
            fix="See what ships with the package: mmdpo ls configs; copy one: mmdpo cp NAME",
        )
    for override in overrides:
        if "=" not in override:
            raise ConfigError(
                f"override {override!r} has no '='",
                why="It does not say which value to set.",
                fix="Write it as section.key=value, for example train.learning_rate=1e-5",
            )
    try:
        loaded = OmegaConf.create({}) if path is None else OmegaConf.load(path)
        if isinstance(loaded, DictConfig):
            loaded = OmegaConf.merge(loaded, OmegaConf.from_dotlist([as_typed(override) for override in overrides]))
        plain = OmegaConf.to_container(loaded, resolve=True)
    except (OmegaConfBaseException, ValueError, OSError) as error:
        raise ConfigError(
            f"cannot read the configuration {str(path)!r}: {str(error).splitlines()[0]}",
            why="It is not valid YAML, or an interpolation does not resolve.",
            fix="Correct the line that is named.",
        ) from error
    except Exception as error:  # PyYAML's own errors share no base with OmegaConf's
        if type(error).__module__.split(".")[0] != "yaml":
            raise
        raise ConfigError(
            f"configuration {str(path)!r} is not valid YAML: {error}",
            why="Nothing of it could be read.",
            fix="Correct the line that is named.",
        ) from error
    if not isinstance(plain, dict):
        raise ConfigError(
            f"configuration {str(path)!r} is not a mapping of sections",
            why="Its settings have no names.",
            fix="Start from one that ships with the package: mmdpo cp start",
        )
    return {str(key): value for key, value in plain.items()}


def as_typed(override: str) -> str:
    """An override whose value is read as it was typed: yes, no, on and off are words, ``{id}.jpg`` is a text.

    YAML reads the words as true and false (a field that takes a boolean understands them all the same), and a brace as
    the beginning of a mapping.

    Raises:
        ConfigError: A list or a mapping is not valid YAML.
    """
    key, _, value = override.partition("=")
    try:
        node = None if PLACEHOLDER.match(value) else yaml.compose(value, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        if value.startswith(("[", "{")):
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise ConfigError(
                f"override {override!r} is not valid YAML: {problem}",
                why="Its value begins a list or a mapping that does not end.",
                fix="Close its brackets; put a text that holds such characters in quotes of its own: key='\"...\"'.",
            ) from error
        node = None
    if node is None and value:
        return f"{key}={json.dumps(value, ensure_ascii=False)}"
    for start, end in reversed(list(_words(node))):
        value = f'{value[:start]}"{value[start:end]}"{value[end:]}'
    return f"{key}={value}"


def _words(node: yaml.Node | None) -> Iterator[tuple[int, int]]:
    """Where the words stand that YAML 1.1 takes for booleans and 1.2 does not."""
    if isinstance(node, yaml.ScalarNode):
        if node.tag == "tag:yaml.org,2002:bool" and node.value.lower() not in {"true", "false"}:
            yield node.start_mark.index, node.end_mark.index
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _words(child)
    elif isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            yield from (*_words(key), *_words(child))


def parse_config(values: Mapping[str, Any], origin: str = "the configuration") -> RunConfig:
    """Validates plain values.

    Raises:
        ConfigError: Listing every problem at once.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise problems_error(origin, [describe_problem(problem, RunConfig) for problem in error.errors()]) from error


def problems_error(origin: str, problems: Sequence[str]) -> ConfigError:
    """One error that lists every problem of a configuration."""
    return ConfigError(
        f"{origin} has {len(problems)} problem{'s' if len(problems) > 1 else ''}:\n  " + "\n  ".join(problems),
        why="Nothing was started.",
        fix="Correct them all at once; mmdpo check CONFIG shows the result.",
    )


def together(origin: str, errors: Sequence[MMDPOError]) -> MMDPOError:
    """One error for several: itself if it is alone, else a list of what is wrong and why."""
    if len(errors) == 1:
        return errors[0]
    return problems_error(origin, [f"{error.what}. {error.why}" for error in errors])


def describe_problem(problem: Mapping[str, Any], root: type[BaseModel]) -> str:
    """One line for one validation problem: where, what, and near names for an unknown key."""
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _fields_at(root, problem["loc"][:-1])
        return f"{where}: unknown key. {did_you_mean(str(problem['loc'][-1]), known)}"
    if problem["type"] == "missing":
        return f"{where}: required, but not given"
    return f"{where}: {problem['msg']} (got {problem['input']!r})"


def _fields_at(root: type[BaseModel], path: Iterable[Any]) -> list[str]:
    """Names of the fields of the section at a path."""
    current: Any = root
    for part in path:
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            continue  # union tags and list indices
        current = next(
            (a for a in (field.annotation, *getattr(field.annotation, "__args__", ())) if hasattr(a, "model_fields")),
            current,
        )
    return list(current.model_fields)


def shipped_configs() -> dict[str, Path]:
    """Configurations that ship with the package, by name; found in a wheel, a checkout and an editable install."""
    installed = Path(str(importlib.resources.files("mmdpo"))) / "_configs"
    folder = installed if installed.is_dir() else Path(__file__).resolve().parent.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def copy_shipped(name: str, to: Path) -> Path:
    """Copies a shipped configuration.

    Raises:
        ConfigError: There is none of that name, or the target exists.
    """
    configs = shipped_configs()
    if name not in configs:
        raise ConfigError(
            f"no configuration {name!r} ships with the package",
            why=did_you_mean(name, configs),
            fix="See: mmdpo ls configs",
        )
    if to.exists():
        raise ConfigError(
            f"{str(to)!r} exists", why="It is not overwritten.", fix="Give another name: mmdpo cp NAME OTHER.yaml"
        )
    to.write_text(configs[name].read_text(encoding="utf-8"), encoding="utf-8")
    return to
