"""The objective: a weighted sum of terms, each with its own denominator over the whole optimizer step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mmdpo.config import together
from mmdpo.errors import ConfigError
from mmdpo.objectives.base import Term
from mmdpo.objectives.configuration import made_terms
from mmdpo.objectives.explanations import Terms, described, explained
from mmdpo.objectives.schedules import weight_at
from mmdpo.views import ScoreTable, View

__all__ = ["Objective", "explained", "in_float32", "make_objective", "without_reference_gradient"]


@dataclass(frozen=True)
class Objective:
    """``loss = sum over terms of weight * mean(term)``.

    Args:
        terms: Terms by their full name.
        state: Running values of each term that has some, by the term's name; :meth:`advance` changes them.
    """

    terms: Mapping[str, Term]
    state: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, term in self.terms.items():
            initial = term.initial_state()
            if initial and term.scope != "batch":
                raise ConfigError(
                    f"the term {name!r} has running values, and its scope is {term.scope!r}",
                    why="Each micro-batch of each process would move them: processes would train different losses.",
                    fix='Give the term scope = "batch".',
                )
            if initial:
                self.state.setdefault(name, initial)

    @property
    def views(self) -> tuple[View, ...]:
        """Union of the views that the terms read, in a fixed order."""
        return tuple(sorted({view for term in self.terms.values() for view in term.views()}))

    @property
    def statistics(self) -> tuple[str, ...]:
        """Per-token statistics beyond log-probabilities that the terms read."""
        return tuple(sorted({name for term in self.terms.values() for name in term.statistics}))

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

    def __call__(self, table: ScoreTable, counts: Tensor, progress: float = 0.0) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss contribution of one table.

        Args:
            table: Score table of one micro-batch; of the whole optimizer step if a term is coupled.
            counts: [terms] denominators of the whole optimizer step.
            progress: Share of the run that is done (0..1), for weights that are scheduled.

        Returns:
            The scalar loss, and each term's unweighted contribution by name (detached).
        """
        table = in_float32(without_reference_gradient(table))
        loss = table.logp.sum() * 0.0
        parts: dict[str, Tensor] = {}
        for (name, term), count in zip(self.terms.items(), counts, strict=True):
            value = self.total(name, table) / torch.where(count > 0, count, 1.0)  # weighted tokens may be below 1
            parts[name] = value.detach()
            loss = loss + weight_at(term.weight, progress) * value
        return loss, parts

    def total(self, name: str, table: ScoreTable) -> Tensor:
        """Sum of one term's losses (a scalar)."""
        return self.terms[name].total(self._with_state(name, table))

    def advance(self, table: ScoreTable) -> None:
        """Updates the running values after an optimizer step.

        Args:
            table: Score table of the whole step, of all processes in the same order everywhere.
        """
        table = in_float32(table)
        for name in self.state:
            self.state[name] = self.terms[name].next_state(self._with_state(name, table))

    @torch.no_grad()
    def watch(self, table: ScoreTable) -> dict[str, Tensor]:
        """What the terms say of themselves, ``beta`` or ``saturated``, [M] values over all terms that have it."""
        table = in_float32(table)
        values: dict[str, list[Tensor]] = {}
        for name, term in self.terms.items():
            for what, value in term.watch(self._with_state(name, table)).items():
                values.setdefault(what, []).append(value.float())
        return {what: torch.cat(parts) for what, parts in values.items()}

    def describe(self) -> dict[str, dict[str, Any]]:
        """Every term with its fields, for the manifest, the model card and the terminal.

        ``formula`` is the term's own (the published one where it is a published loss unchanged), ``settings`` says in
        one line what is set, ``source`` is the paper, ``preset`` and ``preset_formula`` the published loss it is of.
        """
        published = self.terms.published if isinstance(self.terms, Terms) else {}
        return {name: described(term, published.get(name)) for name, term in self.terms.items()}

    def _with_state(self, name: str, table: ScoreTable) -> ScoreTable:
        return replace(table, state=self.state[name]) if name in self.state else table


def without_reference_gradient(table: ScoreTable) -> ScoreTable:
    """The table with the reference held still, however it was computed."""
    return replace(
        table,
        ref_logp=None if table.ref_logp is None else table.ref_logp.detach(),
        ref_statistics={name: values.detach() for name, values in table.ref_statistics.items()},
    )


def in_float32(table: ScoreTable) -> ScoreTable:
    """The table with log-probabilities and statistics in at least float32: sums over answers need it."""
    if table.logp.dtype in (torch.float32, torch.float64):
        return table
    return replace(
        table,
        logp=table.logp.float(),
        ref_logp=None if table.ref_logp is None else table.ref_logp.float(),
        statistics={name: values.float() for name, values in table.statistics.items()},
        ref_statistics={name: values.float() for name, values in table.ref_statistics.items()},
    )


def make_objective(config: str | Mapping[str, Mapping[str, Any] | None]) -> Objective:
    """Builds the objective from the ``loss:`` section of a configuration.

    Args:
        config: The name of a loss, or names with their fields. A name is a preset, a registered term, or any name with
            ``term: REGISTERED``. A field set of None switches the entry off.

    Raises:
        ConfigError: Listing every unknown name, unknown field and wrong value, or that there is no term at all.
    """
    terms, problems = made_terms(config)
    if problems:
        raise together("the loss: section", problems)
    return Objective(terms)
