"""From the ``loss:`` section of a configuration to terms, with every mistake told at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from mmdpo import registry
from mmdpo.errors import ConfigError, did_you_mean
from mmdpo.objectives.base import Term
from mmdpo.objectives.explanations import Published, Terms
from mmdpo.objectives.links import Link, Transform
from mmdpo.objectives.presets import Place, Preset
from mmdpo.objectives.schedules import always_zero

SEE = "See: mmdpo ls losses"
SAID = {"union_tag_not_found": "Its name is missing"}
WHY = {
    "beta": "At 0 the loss is constant, below it the rejected answer is preferred.",
    "weight": "Below 0 the term would train the reverse of what it says.",
}
LOW = ("greater_than", "greater_than_equal")


@dataclass(frozen=True)
class Written:
    """A registered term as the configuration has it.

    Args:
        fields: Its fields, with the class as ``term``.
        published: The published loss that it comes from.
        given: What stands in the configuration for a value: name and value of a parameter, by the value's place.
    """

    fields: Mapping[str, Any]
    published: Published | None = None
    given: Mapping[Place, tuple[str, Any]] = field(default_factory=dict)


def made_terms(
    config: str | Mapping[str, Mapping[str, Any] | None],
) -> tuple[Terms, list[ConfigError]]:
    """The terms of a ``loss:`` section by their full names, and everything that is wrong with it."""
    entries = {config: {}} if isinstance(config, str) else config
    given = {name: fields for name, fields in entries.items() if fields is not None}
    problems: dict[str, ConfigError] = {}  # by what is wrong: a parameter of several terms is told once
    terms: dict[str, Term] = {}
    published: dict[str, Published] = {}
    for name, fields in given.items():
        try:
            expanded = _expanded(name, _mapping(f"loss.{name}", fields))
        except ConfigError as error:
            problems[error.what] = error
            continue
        for full, written in expanded.items():
            found = {error.what: error for error in _problems(full, written)}
            problems |= found
            if not found:
                terms[full] = _made(written.fields)
                if written.published is not None:
                    published[full] = written.published
    if not problems and all(always_zero(term.weight) for term in terms.values()):
        nothing = _nothing_to_train(terms)
        problems[nothing.what] = nothing
    return Terms(terms, published), list(problems.values())


def _nothing_to_train(terms: Mapping[str, Term]) -> ConfigError:
    return ConfigError(
        f"the weight of every loss term is 0 ({', '.join(terms)})" if terms else "the configuration has no loss term",
        why="There would be nothing to train.",
        fix="Add one, for example: loss: {dpo: {beta: 0.1}}",
    )


def _mapping(name: str, fields: Any) -> Mapping[str, Any]:
    if isinstance(fields, Mapping):
        return fields
    why = "A loss has fields, each with its name."
    raise ConfigError(f"{name} is {fields!r}", why=why, fix=f"Write {name}: {{weight: 1.0}}. {SEE}")


def _expanded(entry: str, given: Mapping[str, Any], inside: tuple[str, ...] = ()) -> dict[str, Written]:
    """An entry as registered terms: presets by their parts, until only terms are left."""
    fields = dict(given)
    term = fields.pop("term", entry)
    what = registry.terms.get(f"{term}")
    if not isinstance(what, Preset):
        return {entry: Written({**fields, "term": what})}
    path = (*inside, what.name)
    if what.name in inside:
        raise ConfigError(
            f"the preset {what.name!r} is made of itself: {' > '.join(path)}",
            why="It would never end.",
            fix="Build presets of terms, or of other presets.",
        )
    found: dict[str, Written] = {}
    values = what.values(fields)
    for name, part in what.expand(entry, fields).items():
        whole = len(what.terms) == 1 and not part.changed
        published = Published(what.name, what.formula, what.source, values, whole)
        for full, written in _expanded(name, part.fields, path).items():
            places = {
                place: (f"loss.{entry}.{parameter}", values[parameter])
                for place, parameter in _reaching(name, written, part.parameters)
            }
            found[full] = replace(written, published=written.published or published, given={**written.given, **places})
    return found


def _reaching(name: str, written: Written, parameters: Mapping[Place, str]) -> Iterator[tuple[Place, str]]:
    """Places in a term of an inner preset whose parameters are those of the outer one; of a term its own places."""
    if written.published is None:
        yield from parameters.items()
    for place, (inner, _) in written.given.items():
        outer = (inner.removeprefix(f"loss.{name}."),)
        if outer in parameters:
            yield place, parameters[outer]


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


def _problems(name: str, written: Written) -> Iterator[ConfigError]:
    """What is wrong with the fields of one term."""
    settings = written.fields
    adapters = field_adapters(settings["term"])
    wrong = list(_missing(name, settings))
    for key, value in settings.items():
        if key == "term":
            continue
        if key not in adapters:
            wrong.append(ConfigError(f"loss.{name}.{key} is unknown", why=did_you_mean(key, adapters), fix=SEE))
            continue
        try:
            adapters[key].validate_python(value)
        except ValidationError as error:
            wrong.append(_wrong_value(name, key, value, error, written.given))
    yield from wrong
    if not wrong:
        try:
            _made(settings).views()
        except ValueError as error:
            yield ConfigError(f"loss.{name}: {error}", why="Nothing could be trained with it.", fix=SEE)


def _missing(name: str, settings: Mapping[str, Any]) -> Iterator[ConfigError]:
    """Fields without a default that are not given."""
    for known in dataclasses.fields(settings["term"]):
        required = known.default is dataclasses.MISSING and known.default_factory is dataclasses.MISSING
        if required and known.init and known.name not in settings:
            yield ConfigError(f"loss.{name}.{known.name} is missing", why="It has no default.", fix=SEE)


def _wrong_value(
    name: str, key: str, value: Any, error: ValidationError, given: Mapping[Place, tuple[str, Any]]
) -> ConfigError:
    """What is wrong with a value, said of the parameter that it comes from, if it comes from one."""
    # a number or a schedule, a name or a mapping: the last complaint is about the mapping
    complaint = error.errors()[-1 if isinstance(value, Mapping) else 0]
    inside = tuple(str(part) for part in complaint["loc"] if isinstance(value, Mapping) and part in value)
    said = f"{SAID.get(complaint['type'], complaint['msg'])}."
    if complaint["type"] in LOW and not inside:
        said = WHY.get(key, said)
    if (key, *inside) in given:
        what, value = given[(key, *inside)]
    else:
        what, said = f"loss.{name}.{key}", "".join(f"{part}: " for part in inside) + said
    return ConfigError(f"{what} is {value!r}", why=said, fix=SEE)
