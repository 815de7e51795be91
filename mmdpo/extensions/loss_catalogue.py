"""What there is to know of each loss: read from the registry, so that no list of losses is written by hand."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import yaml

from mmdpo import registry
from mmdpo.objectives import Objective, Term, make_objective
from mmdpo.objectives.explanations import explained, plain
from mmdpo.objectives.feedback import Feedback
from mmdpo.objectives.links import Link, Transform
from mmdpo.objectives.listwise import ListTerm
from mmdpo.objectives.presets import PRESETS, Preset
from mmdpo.objectives.schedules import Linear, Warmup
from mmdpo.views import CLEAN, EVERY, MISMATCHED, PARTNER

GROUPS: Mapping[str, str] = {
    "pairwise": "a chosen and a rejected answer",
    "listwise": "all candidates of a record",
    "unpaired": "single answers that are desirable or not",
    "multimodal": "the same answers under other media, or answers to another record",
    "regularisers": "one answer alone: no preference, but a hold on it",
    "building blocks": "the terms that all others are made of; each can be used as it is",
}
"""Groups by what a loss reads, in the order in which they are listed."""
CHOICES: Mapping[str, Any] = {"link": Link, "transform": Transform, "weight": Linear | Warmup}
"""Fields that are one of several ways, and the ways."""
PAGE = 64
"""Columns after which YAML that people read goes on in the next line."""


@dataclass(frozen=True)
class FieldEntry:
    """One setting of a term.

    Args:
        name: Its name.
        default: Its default as a configuration has it; None too where it has none.
        required: Whether it has none.
        what: What it does, from the docstring of the class.
    """

    name: str
    default: Any
    required: bool
    what: str


@dataclass(frozen=True)
class LossEntry:
    """One loss, published or a building block.

    Args:
        name: Its name.
        aliases: Other names.
        group: One of :data:`GROUPS`.
        formula: The loss in one line.
        source: Paper and equation.
        note: What differs from the paper or from its released code.
        parameters: Parameters with their defaults; of a building block its fields.
        terms: The full names of its terms.
        views: What is scored of each record.
        needs: What a record must have beyond its views.
        statistics: Per-token statistics beyond log-probabilities.
        reference: Whether a reference model is needed.
        batch: Whether the whole optimizer step is seen at once (two passes).
    """

    name: str
    aliases: tuple[str, ...]
    group: str
    formula: str
    source: str
    note: str
    parameters: Mapping[str, Any]
    terms: tuple[str, ...]
    views: tuple[str, ...]
    needs: tuple[str, ...]
    statistics: tuple[str, ...]
    reference: bool
    batch: bool


def catalogue() -> list[LossEntry]:
    """Every registered loss, group by group; the shipped ones stand as in their file, those of plugins follow."""
    entries: dict[int, LossEntry] = {}
    for name in registry.terms:
        what = registry.terms.get(name)
        if id(what) not in entries:
            entries[id(what)] = _entry(name, what)
    shipped, order = list(PRESETS), list(GROUPS)

    def place(entry: LossEntry) -> tuple[int, int, str]:
        known = shipped.index(entry.name) if entry.name in shipped else len(shipped)
        return order.index(entry.group), known, entry.name

    return sorted(entries.values(), key=place)


def loss_entry(name: str) -> LossEntry:
    """One loss by its name or an alias.

    Raises:
        ConfigError: The name is unknown; near names are suggested.
    """
    return _entry(name, registry.terms.get(name))


def _entry(name: str, what: Preset | type[Term]) -> LossEntry:
    aliases = tuple(other for other in registry.terms if other != name and registry.terms.get(other) is what)
    preset = isinstance(what, Preset)
    if isinstance(what, Preset):
        name, aliases = what.name, what.aliases
    parameters = dict(what.parameters) if isinstance(what, Preset) else {f.name: f.default for f in fields_of(what)}
    objective = _objective(name, preset)
    return LossEntry(
        name=name,
        aliases=aliases,
        group=_group(objective, preset),
        formula=what.formula,
        source=what.source,
        note=what.note if isinstance(what, Preset) else summary(what),
        parameters=parameters,
        terms=tuple(objective.terms) if preset else (),
        views=tuple(map(str, objective.views)),
        needs=tuple(dict.fromkeys(_needs(objective))),
        statistics=objective.statistics,
        reference=objective.needs_reference,
        batch=objective.coupled,
    )


def _objective(name: str, preset: bool) -> Objective:
    """The loss with its defaults; a user's term may have fields without one, and then nothing is known before."""
    what = registry.terms.get(name)
    if not preset and any(_value(field) is dataclasses.MISSING for field in dataclasses.fields(what)):
        return Objective({})
    return make_objective(name)


def _group(objective: Objective, preset: bool) -> str:
    """By what the terms read, so that a loss of a plugin has its place too."""
    terms, views = objective.terms.values(), objective.views
    if not preset:
        return "building blocks"
    if any(view.media != CLEAN or view.candidate == PARTNER for view in views):
        return "multimodal"
    if any(isinstance(term, ListTerm) for term in terms):
        return "listwise"
    if all(isinstance(term, Feedback) and term.per == "answer" for term in terms):
        return "unpaired"
    alone = len(views) == 1 and views[0].candidate != EVERY
    return "regularisers" if alone else "pairwise"


def _needs(objective: Objective) -> Iterator[str]:
    for term in objective.terms.values():
        if term.needs:
            yield term.needs
        if getattr(term, "reads_marks", False):
            yield "marked tokens (data.marks)"
    candidates = {view.candidate for view in objective.views}
    if max(candidates, default=0) > 1:
        yield f"{max(candidates) + 1} candidates"
    if PARTNER in candidates or any(view.media == "swap" for view in objective.views):
        yield "a partner: another record with as many media"
    if MISMATCHED in candidates:
        yield "other records, for answers that belong to other prompts"
    if any(view.media != CLEAN for view in objective.views):
        yield "media"


def fields_of(what: type[Any]) -> list[FieldEntry]:
    """The fields of a term, a link or a transform: those of its own class first, the common ones after."""
    said: dict[str, str] = {}
    own_first: list[str] = []
    for base in what.__mro__:
        described = _described(base)
        own_first += [name for name in described if name not in said]
        said = described | said
    fields = {field.name: field for field in dataclasses.fields(what) if field.name != "name"}
    names = [name for name in own_first if name in fields]
    names += [name for name in fields if name not in names]
    return [_field(fields[name], said.get(name, "")) for name in names]


def _described(what: type[Any]) -> dict[str, str]:
    """What the ``Args:`` of a class's own docstring say, by name."""
    text = inspect.cleandoc(what.__dict__.get("__doc__") or "")
    _, found, arguments = text.partition("Args:\n")
    if not found:
        return {}
    block = re.split(r"\n(?=\S)", arguments)[0]
    parts = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", block, re.MULTILINE)
    return {name: " ".join(_without_markup(said).split()) for name, said in parts}


def _without_markup(text: str) -> str:
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("``", "")


def _field(field: dataclasses.Field[Any], what: str) -> FieldEntry:
    return FieldEntry(field.name, plain(_value(field)), _value(field) is dataclasses.MISSING, what)


def _value(field: dataclasses.Field[Any]) -> Any:
    """A field's default; MISSING where it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def terms_of(name: str) -> dict[str, dict[str, Any]]:
    """The terms of a loss as entries of a ``loss:`` section: beta, and what is not the default.

    Args:
        name: Its name or an alias.
    """
    entries = {}
    for full, term in make_objective(name).terms.items():
        fields: dict[str, Any] = {"term": _registered(type(term))}
        for field in dataclasses.fields(term):
            value = getattr(term, field.name)
            if field.name == "beta" or value != _value(field):
                fields[field.name] = plain(value)
        entries[full.removeprefix(f"{name}.").replace(".", "_")] = fields
    return entries


def pasted(name: str) -> str:
    """A loss as the ``loss:`` section of its terms, in YAML that means the same as the name alone."""
    return yaml.safe_dump({"loss": terms_of(name)}, default_flow_style=None, sort_keys=False, width=PAGE)


def _registered(what: type[Term]) -> str:
    return next(name for name in registry.terms if registry.terms.get(name) is what)


def explained_terms(name: str) -> dict[str, str]:
    """The formula of each term of a loss with the names of its rows, by the term's full name."""
    return {full: explained(term) for full, term in make_objective(name).terms.items()}


def ways(field: str) -> list[tuple[str, list[FieldEntry], str]]:
    """The ways among which a field chooses: name, settings, what it is."""
    return [(way.name, fields_of(way), summary(way)) for way in get_args(CHOICES.get(field))]


def summary(what: type[Any]) -> str:
    """The first line of a class's docstring, without markup."""
    return _without_markup((what.__doc__ or "").strip().partition("\n")[0])
