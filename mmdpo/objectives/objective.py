"""The objective: a weighted sum of terms, each with its own denominator over the whole optimizer step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from mmdpo import registry
from mmdpo.config import together
from mmdpo.errors import ConfigError, did_you_mean
from mmdpo.objectives.terms import Term
from mmdpo.views import ScoreTable, View


@dataclass(frozen=True)
class Objective:
    """``loss = sum over terms of weight * mean(term)``.

    Args:
        terms: Terms by their name in the configuration.
    """

    terms: Mapping[str, Term]

    @property
    def views(self) -> tuple[View, ...]:
        """Union of the views that the terms read, in a fixed order."""
        return tuple(sorted({view for term in self.terms.values() for view in term.views()}))

    @property
    def needs_reference(self) -> bool:
        """Whether any term compares with a reference."""
        return any(term.needs_reference for term in self.terms.values())

    @property
    def coupled(self) -> bool:
        """Whether any term must see the whole optimizer step at once."""
        return any(term.scope == "batch" for term in self.terms.values())

    def counts(self, table: ScoreTable) -> Tensor:
        """[terms] denominators of one table; add them over micro-batches and processes before calling."""
        return torch.stack([term.count(table) for term in self.terms.values()])

    def __call__(self, table: ScoreTable, counts: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss contribution of one table.

        Args:
            table: Score table of one micro-batch.
            counts: [terms] denominators of the whole optimizer step.

        Returns:
            The scalar loss, and each term's unweighted contribution by name (detached).
        """
        loss = table.logp.sum() * 0.0
        parts: dict[str, Tensor] = {}
        for (name, term), count in zip(self.terms.items(), counts, strict=True):
            value = term.total(table) / count.clamp(min=1.0)
            parts[name] = value.detach()
            loss = loss + term.weight * value
        return loss, parts

    def describe(self) -> dict[str, dict[str, Any]]:
        """Every term with its fields and formula, for the manifest, the model card and the terminal."""
        return {
            name: {"term": type(term).__name__, "formula": term.formula, "source": term.source}
            | dataclasses.asdict(term)
            for name, term in self.terms.items()
        }


def make_objective(config: Mapping[str, Mapping[str, Any] | None]) -> Objective:
    """Builds the objective from the ``loss:`` section of a configuration.

    Args:
        config: Term name to its fields; a name is a registered term, or any name with ``term: REGISTERED``. A field set
            of None switches the term off.

    Raises:
        ConfigError: Listing every unknown term, unknown field and wrong value, or that there is no term at all.
    """
    problems = loss_problems(config)
    if problems:
        raise together("the loss: section", problems)
    terms: dict[str, Term] = {}
    for name, given in config.items():
        if given is not None:
            term_type, fields = _term_of(name, given)
            terms[name] = term_type(**{key: _adapters(term_type)[key].validate_python(fields[key]) for key in fields})
    return Objective(terms)


def loss_problems(config: Mapping[str, Mapping[str, Any] | None]) -> list[ConfigError]:
    """Everything that is wrong with a ``loss:`` section."""
    given = {name: fields for name, fields in config.items() if fields is not None}
    if not given:
        return [
            ConfigError(
                "the configuration has no loss term",
                why="There would be nothing to train.",
                fix="Add one, for example: loss: {dpo: {beta: 0.1}}",
            )
        ]
    return [problem for name, fields in given.items() for problem in _term_problems(name, fields)]


def _term_of(name: str, given: Mapping[str, Any]) -> tuple[type[Term], dict[str, Any]]:
    """The registered term of an entry, and its fields."""
    fields = dict(given)
    return registry.terms.get(fields.pop("term", name)), fields


def _adapters(term_type: type[Term]) -> dict[str, TypeAdapter[Any]]:
    """What each field of a term may hold, by its annotation."""
    hints = get_type_hints(term_type)
    rules = ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True)
    return {field.name: TypeAdapter(hints[field.name], config=rules) for field in dataclasses.fields(term_type)}


def _term_problems(name: str, given: Mapping[str, Any]) -> Iterator[ConfigError]:
    see = "See: mmdpo ls losses"
    try:
        term_type, fields = _term_of(name, given)
    except ConfigError as error:
        yield error
        return
    adapters = _adapters(term_type)
    for key, value in fields.items():
        if key not in adapters:
            yield ConfigError(f"loss.{name}.{key} is unknown", why=did_you_mean(key, adapters), fix=see)
            continue
        try:
            accepted = adapters[key].validate_python(value)
        except ValidationError as error:
            yield ConfigError(f"loss.{name}.{key} is {value!r}", why=f"{error.errors()[0]['msg']}.", fix=see)
            continue
        if key == "beta" and not accepted > 0:
            why = "At 0 the loss is constant, below it the rejected answer is preferred."
            yield ConfigError(f"loss.{name}.{key} is {value!r}", why=why, fix="Give a number above 0.")
