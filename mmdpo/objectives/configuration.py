"""From the ``loss:`` section of a configuration to terms, with every mistake told at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from mmdpo import registry
from mmdpo.errors import ConfigError, did_you_mean
from mmdpo.objectives import batch_pairs, feedback, listwise, media_pairs, pairs, regular  # noqa: F401  (they register their terms)
from mmdpo.objectives.links import Link, Transform
from mmdpo.objectives.presets import Preset
from mmdpo.objectives.terms import Term

SEE = "See: mmdpo ls losses"
SAID = {"union_tag_not_found": "Its name is missing"}
WHY = {"beta": "At 0 the loss is constant, below it the rejected answer is preferred."}


def made_terms(
    config: str | Mapping[str, Mapping[str, Any] | None],
) -> tuple[dict[str, Term], list[ConfigError]]:
    """The terms of a ``loss:`` section by their full names, and everything that is wrong with it."""
    entries = {config: {}} if isinstance(config, str) else config
    given = {name: fields for name, fields in entries.items() if fields is not None}
    problems: list[ConfigError] = []
    terms: dict[str, Term] = {}
    for name, fields in given.items():
        try:
            expanded = _expanded(name, _mapping(f"loss.{name}", fields))
        except ConfigError as error:
            problems.append(error)
            continue
        for full, settings in expanded.items():
            found = list(_problems(full, settings))
            problems += found
            if not found:
                terms[full] = _made(settings)
    if not terms and not problems:
        problems.append(
            ConfigError(
                "the configuration has no loss term",
                why="There would be nothing to train.",
                fix="Add one, for example: loss: {dpo: {beta: 0.1}}",
            )
        )
    return terms, problems


def _mapping(name: str, fields: Any) -> Mapping[str, Any]:
    if isinstance(fields, Mapping):
        return fields
    why = "A loss has fields, each with its name."
    raise ConfigError(f"{name} is {fields!r}", why=why, fix=f"Write {name}: {{weight: 1.0}}. {SEE}")


def _expanded(entry: str, given: Mapping[str, Any], inside: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """An entry as registered terms: presets by their parts, until only terms are left."""
    fields = dict(given)
    term = fields.pop("term", entry)
    what = registry.terms.get(f"{term}")
    if not isinstance(what, Preset):
        return {entry: {**fields, "term": what}}
    path = (*inside, what.name)
    if what.name in inside:
        raise ConfigError(
            f"the preset {what.name!r} is made of itself: {' > '.join(path)}",
            why="It would never end.",
            fix="Build presets of terms, or of other presets.",
        )
    return {
        full: settings
        for name, part in what.expand(entry, fields).items()
        for full, settings in _expanded(name, part, path).items()
    }


def _made(settings: Mapping[str, Any]) -> Term:
    term_type: type[Term] = settings["term"]
    adapters = field_adapters(term_type)  # type: ignore[arg-type]  # mypy reads the hash of the instances
    return term_type(**{key: adapters[key].validate_python(value) for key, value in settings.items() if key != "term"})


@cache
def field_adapters(term_type: type[Term]) -> dict[str, TypeAdapter[Any]]:
    """What each field of a term may hold, by its annotation; links and transforms may be just a name."""
    hints = get_type_hints(term_type, include_extras=True)
    rules = ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True)
    return {
        field.name: TypeAdapter(_by_name(hints[field.name]), config=rules) for field in dataclasses.fields(term_type)
    }


def _by_name(hint: Any) -> Any:
    if hint not in (Link, Transform):
        return hint
    named = BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)
    return Annotated[hint, Field(discriminator="name"), named]


def _problems(name: str, settings: Mapping[str, Any]) -> Iterator[ConfigError]:
    """What is wrong with the fields of one term."""
    adapters = field_adapters(settings["term"])
    right = True
    for key, value in settings.items():
        if key == "term":
            continue
        if key not in adapters:
            right = False
            yield ConfigError(f"loss.{name}.{key} is unknown", why=did_you_mean(key, adapters), fix=SEE)
            continue
        try:
            adapters[key].validate_python(value)
        except ValidationError as error:
            right = False
            # a number or a schedule, a name or a mapping: the last complaint is about the mapping
            complaint = error.errors()[-1 if isinstance(value, Mapping) else 0]
            inside = [f"{part}: " for part in complaint["loc"] if isinstance(value, Mapping) and part in value]
            said = f"{''.join(inside)}{SAID.get(complaint['type'], complaint['msg'])}."
            low = complaint["type"] == "greater_than"
            yield ConfigError(f"loss.{name}.{key} is {value!r}", why=WHY.get(key, said) if low else said, fix=SEE)
    if right:
        try:
            _made(settings).views()
        except ValueError as error:
            yield ConfigError(f"loss.{name}: {error}", why="Nothing could be computed from it.", fix=SEE)
