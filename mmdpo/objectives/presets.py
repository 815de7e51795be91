"""Published losses by name: each is a list of terms with parameters, read from ``presets.yaml`` or a user's file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mmdpo import registry
from mmdpo.errors import ConfigError, did_you_mean

SHIPPED = Path(__file__).with_name("presets.yaml")
PARAMETER = re.compile(r"\$(\w+)")
"""How a parameter stands in a term."""
Place = tuple[str, ...]
"""Where a value stands in the fields of a term: ``("link", "tau")``."""


@dataclass(frozen=True)
class Part:
    """One term of an entry of a ``loss:`` section.

    Args:
        fields: Its fields, with the registered term's name as ``term``.
        parameters: Which parameter of the preset each value is, by its place.
        changed: Whether the entry sets fields beyond the parameters and the weight.
    """

    fields: dict[str, Any]
    parameters: dict[Place, str]
    changed: bool


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named list of terms.

    Args:
        name: Its name.
        terms: Fields of each term by its name within the preset; ``$x`` stands for parameter x, ``-$x`` for its
            negative, and within a text (``2/$media``) for what the parameter is written as.
        parameters: Parameters with their defaults.
        formula: The loss in one line.
        source: Paper and equation.
        aliases: Other names.
        note: What differs from the paper or from its released code.
    """

    name: str
    terms: Mapping[str, Mapping[str, Any]]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    formula: str = ""
    source: str = ""
    aliases: tuple[str, ...] = ()
    note: str = ""

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of one entry of a ``loss:`` section: given ones, and defaults."""
        return {key: given.get(key, default) for key, default in self.parameters.items()}

    def expand(self, entry: str, given: Mapping[str, Any]) -> dict[str, Part]:
        """The terms of one entry of a ``loss:`` section.

        Args:
            entry: Name of the entry: that of the term, if there is one alone, else followed by a dot and the term's.
            given: Parameters; ``weight``, a factor of all terms; fields of a term under its name (None leaves it out);
                with one term alone also its fields.

        Returns:
            The terms by their full names.

        Raises:
            ConfigError: A key is neither a parameter nor a term.
        """
        alone = next(iter(self.terms)) if len(self.terms) == 1 else None
        values = self.values(given)
        rest = {key: value for key, value in given.items() if key not in self.parameters}
        factor = rest.pop("weight", 1.0) if alone is None else 1.0
        expanded: dict[str, Part] = {}
        for name, template in self.terms.items():
            fields = {key: _filled(value, values) for key, value in template.items()}
            own = rest if alone is not None else rest.pop(name, {})
            if own is None:
                continue
            if not isinstance(own, Mapping):
                raise ConfigError(
                    f"loss.{entry}.{name} is {own!r}",
                    why=f"It is a term of {self.name}, and has fields, each with its name.",
                    fix=f"Write {name}: {{weight: 1.0}}, or {name}: null to leave it out.",
                )
            fields |= own
            if factor != 1.0:
                fields["weight"] = _times(fields.get("weight", 1.0), factor, entry)
            places = {place: found for place, found in _places(template) if place[0] not in own}
            full = entry if alone is not None else f"{entry}.{name}"
            expanded[full] = Part(fields, places, changed=bool(own.keys() - {"weight"}))
        if alone is None and rest:
            known = [*self.parameters, *self.terms, "weight"]
            key = next(iter(rest))
            raise ConfigError(
                f"loss.{entry}.{key} is unknown", why=did_you_mean(key, known), fix=f"It has: {', '.join(known)}."
            )
        return expanded


def _filled(value: Any, parameters: Mapping[str, Any]) -> Any:
    """A field of a term with the parameters put in their places."""
    if isinstance(value, Mapping):
        return {_filled(key, parameters): _filled(entry, parameters) for key, entry in value.items()}
    if isinstance(value, list):
        return [_filled(entry, parameters) for entry in value]
    if not isinstance(value, str) or "$" not in value:
        return value
    whole = PARAMETER.fullmatch(value.removeprefix("-"))
    if whole is None:
        return PARAMETER.sub(lambda found: str(parameters[found[1]]), value)
    given = parameters[whole[1]]
    if not value.startswith("-"):
        return given
    if not isinstance(given, int | float):
        raise ConfigError(
            f"the parameter {whole[1]} of a loss is {given!r}",
            why="Its negative enters the loss.",
            fix="Give a number.",
        )
    return -given


def _places(template: Any, path: Place = ()) -> Iterator[tuple[Place, str]]:
    """Where the value of a field, or a value inside it, is a parameter as it is given."""
    if isinstance(template, Mapping):
        for key, value in template.items():
            yield from _places(value, (*path, str(key)))
    elif isinstance(template, str) and (found := PARAMETER.fullmatch(template)):
        yield path, found[1]


def _times(weight: Any, factor: Any, entry: str) -> float:
    if not isinstance(weight, int | float) or not isinstance(factor, int | float):
        raise ConfigError(
            f"loss.{entry}.weight is {factor!r}",
            why="The weight of several terms at once is a number; a schedule belongs to one term.",
            fix=f"Give the schedule to a term of {entry}: {{TERM: {{weight: ...}}}}.",
        )
    return float(weight * factor)


def read_presets(path: Path) -> list[Preset]:
    """Reads a file of presets and registers them.

    Raises:
        ConfigError: It is not a mapping from names to presets, or the parameters of a preset are not those that its
            terms use.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        presets = [_preset(name, entry) for name, entry in entries.items()]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{str(path)!r} is not a file of presets: {error}",
            why="Names that it should register would be unknown.",
            fix="Write NAME: {parameters: {beta: 0.1}, terms: {pair: {term: pair, beta: $beta}}}.",
        ) from error
    for preset in presets:
        registry.terms.register(preset.name, *preset.aliases)(preset)
    return presets


def _preset(name: str, entry: Mapping[str, Any]) -> Preset:
    fields = dict(entry)
    preset = Preset(name=name, aliases=tuple(fields.pop("aliases", ())), **fields)
    for part, term in preset.terms.items():
        if "term" not in term:
            raise ConfigError(
                f"the preset {name!r} does not say what its term {part!r} is",
                why="There are many kinds of terms.",
                fix=f"Write {part}: {{term: pair, ...}}. See: mmdpo ls losses",
            )
    used = {found for term in preset.terms.values() for found in PARAMETER.findall(str(term))}
    if used != set(preset.parameters):
        odd = sorted(used ^ set(preset.parameters))
        raise ConfigError(
            f"the parameters of the preset {name!r} are not those that its terms use: {', '.join(odd)}",
            why="A parameter without a use would be set in vain, and one without a value cannot be used.",
            fix=f"Name under parameters: what stands in its terms after a $: {', '.join(sorted(used)) or 'nothing'}.",
        )
    return preset


PRESETS = {preset.name: preset for preset in read_presets(SHIPPED)}
"""What ships with the package."""
