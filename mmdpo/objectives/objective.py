"""The objective: a weighted sum of terms, each with its own denominator over the whole optimizer step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmdpo import registry
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
        ConfigError: An unknown term or field, or no term at all.
    """
    terms: dict[str, Term] = {}
    for name, given in config.items():
        if given is None:
            continue
        fields = dict(given)
        term_type: type[Term] = registry.terms.get(fields.pop("term", name))
        known = {f.name for f in dataclasses.fields(term_type)}
        for key in fields:
            if key not in known:
                raise ConfigError(
                    f"loss.{name}.{key} is unknown",
                    why=did_you_mean(key, known),
                    fix="See: mmdpo ls losses",
                )
        terms[name] = term_type(**fields)
    if not terms:
        raise ConfigError(
            "the configuration has no loss term",
            why="There would be nothing to train.",
            fix="Add one, for example: loss: {dpo: {beta: 0.1}}",
        )
    return Objective(terms)
