"""How losses are shown: in a terminal (``mmdpo ls losses``), and as the table of a Markdown page."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mmdpo import registry
from mmdpo.extensions.loss_catalogue import (
    CHOICES,
    GROUPS,
    FieldEntry,
    LossEntry,
    explained_terms,
    fields_of,
    loss_entry,
    pasted,
    summary,
    terms_of,
    ways,
)
from mmdpo.objectives.explanations import in_yaml

SYMBOLS = (
    "p, r: log-probability of an answer under policy and reference (natural logarithm, summed over its tokens); "
    "R = p - r; yw, yl: chosen and rejected answer, w = R(yw), l = R(yl); |y|: tokens; ls: log sigmoid; "
    "sg: no gradient; m, m~: the media, and other media; score: the rating of a candidate."
)
NAME_WIDTH = 20
INDENT = 2


def loss_blocks(entries: Sequence[LossEntry]) -> Iterator[RenderableType]:
    """All losses, group by group."""
    yield Text(SYMBOLS, style="dim")
    for group, members in itertools.groupby(entries, key=lambda entry: entry.group):
        yield Text(f"\n{group}", style="bold").append(f": {GROUPS[group]}", style="not bold")
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=NAME_WIDTH)
        grid.add_column(overflow="fold")
        for entry in members:
            name = Text(entry.name, style="cyan")
            grid.add_row(name.append("\n" + "\n".join(entry.aliases), style="dim"), _facts(entry))
        yield Padding(grid, (0, 0, 0, INDENT), expand=False)
    yield Text("\nmmdpo ls losses NAME: its terms as YAML, and what each setting does", style="dim")


def _facts(entry: LossEntry) -> Text:
    """Formula, parameters, what it reads and needs, paper: a line each."""
    own = _listed(entry)
    text = Text(f"{entry.formula}\n")
    text.append(f"{_settings(own)}  " if own else "", style="green")
    text.append(f"reads {', '.join(entry.views)}", style="dim")
    if entry.needs:
        text.append(f"; needs {'; '.join(entry.needs)}", style="yellow")
    if extra := _extra(entry):
        text.append(f"; {extra}", style="dim")
    return text.append(f"\n{entry.source}", style="dim")


def _extra(entry: LossEntry) -> str:
    """What is not as usual: statistics, no reference, the whole step."""
    parts = [f"statistics {', '.join(entry.statistics)}"] if entry.statistics else []
    parts += [] if entry.reference else ["no reference"]
    parts += ["sees the whole step"] if entry.batch else []
    return "; ".join(parts)


def _settings(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{name}={in_yaml(value)}" for name, value in values.items())


def loss_detail(name: str) -> Iterator[RenderableType]:
    """One loss: what it is, its terms as YAML to paste, what each of their fields does.

    Raises:
        ConfigError: The name is unknown; near names are suggested.
    """
    entry = loss_entry(name)
    title = Text(entry.name, style="bold")
    yield title.append(f"  {', '.join(entry.aliases)}", style="not bold dim")
    yield Padding(_about(entry), (0, 0, 1, INDENT), expand=False)
    if entry.views:
        yield Text("The terms that it is made of; paste and change them:", style="bold")
        yield Group(Text(pasted(entry.name), style="green", no_wrap=True, overflow="ignore"))  # a bare Text is wrapped
    formulas = explained_terms(entry.name) if entry.terms else {}
    if len(formulas) > 1:
        yield Padding(_pairs(formulas), (0, 0, 1, INDENT), expand=False)
    choices: dict[str, None] = {}
    for term in _kinds(entry):
        described = fields_of(registry.terms.get(term))
        yield Text(f"Fields of {term}", style="bold").append(f": {summary(registry.terms.get(term))}", style="not bold")
        yield Padding(_field_table(described), (0, 0, 1, INDENT), expand=False)
        choices |= {field.name: None for field in described if field.name in CHOICES}
    for field in choices:
        yield Text(f"Ways of {field}", style="bold").append(": a name, or {name: ..., setting: ...}", style="not bold")
        yield Padding(_pairs(_ways(field)), (0, 0, 1, INDENT), expand=False)


def _about(entry: LossEntry) -> Table:
    facts = {
        "formula": entry.formula,
        "parameters": _settings(entry.parameters) if entry.terms else "",
        "takes": _takes(entry),
        "reads": ", ".join(entry.views),
        "needs": "; ".join(entry.needs),
        "also": _extra(entry),
        "source": entry.source,
        "note": entry.note,
    }
    return _pairs({name: value for name, value in facts.items() if value})


def _takes(entry: LossEntry) -> str:
    """What one may write under the name of a published loss."""
    if not entry.terms:
        return ""
    if len(entry.terms) == 1:
        return "its parameters, and the fields of its term"
    names = [full.removeprefix(f"{entry.name}.") for full in entry.terms]
    return f"its parameters; weight, a factor of all; fields of a term, or null, under {', '.join(names)}"


def _pairs(facts: Mapping[str, str]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        grid.add_row(name, Text(value))
    return grid


def _kinds(entry: LossEntry) -> list[str]:
    """The registered terms that a loss is made of, each once."""
    if not entry.views:  # a term that cannot be made without its settings
        return [entry.name]
    return list(dict.fromkeys(fields["term"] for fields in terms_of(entry.name).values()))


def _field_table(fields: Sequence[FieldEntry]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(style="green")
    grid.add_column(overflow="fold")
    for field in fields:
        grid.add_row(field.name, "required" if field.required else in_yaml(field.default), Text(field.what))
    return grid


def _ways(field: str) -> dict[str, str]:
    return {
        name: what + (f" [{_settings({f.name: f.default for f in fields})}]" if fields else "")
        for name, fields, what in ways(field)
    }


def markdown_tables(entries: Sequence[LossEntry]) -> str:
    """All losses as Markdown: a heading and a table for each group."""
    lines: list[str] = []
    for group, members in itertools.groupby(entries, key=lambda entry: entry.group):
        lines += [f"### {group.capitalize()}", "", f"{GROUPS[group].capitalize()}.", ""]
        lines += ["| name | loss | parameters | reads | source |", "|---|---|---|---|---|"]
        lines += [_markdown_row(entry) for entry in members]
        lines.append("")
    return "\n".join(lines)


def _markdown_row(entry: LossEntry) -> str:
    names = "<br>".join([f"**{entry.name}**", *(f"`{alias}`" for alias in entry.aliases)])
    settings = "<br>".join(f"`{name}: {in_yaml(value)}`" for name, value in _listed(entry).items())
    needs = "".join(f"; needs {need}" for need in entry.needs) + (f"; {_extra(entry)}" if _extra(entry) else "")
    cells = (names, f"`{entry.formula}`", settings, f"{', '.join(entry.views)}{needs}", entry.source)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _listed(entry: LossEntry) -> Mapping[str, Any]:
    """The settings that tell a loss from others: its parameters, or the fields of a building block's own class."""
    if entry.group != "building blocks":
        return entry.parameters
    own = inspect.get_annotations(registry.terms.get(entry.name))
    return {name: value for name, value in entry.parameters.items() if name in own}
