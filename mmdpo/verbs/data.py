"""Verbs of the ``mmdpo`` command that look after data sets: ``leakage``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from mmdpo.errors import ConfigError
from mmdpo.verbs.terminal import closing, results, say

if TYPE_CHECKING:
    from data_builders.care.leakage import Leakage

_SHOWN = 10


def add_to(app: typer.Typer) -> None:
    """Adds the verbs to the command."""
    app.command("leakage", rich_help_panel="Helpers")(leakage)


def leakage(
    data: Annotated[Path, typer.Argument(help="Folder of records.")],
    more: Annotated[
        list[str] | None, typer.Argument(help="Further evaluation sets, NAME=PATH.", metavar="[NAME=PATH]...")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", help="NAME=PATH of an evaluation set: its question file, annotations or media."),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Write the records without those to --out.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="With --remove: folder to make.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every record.")] = False,
) -> None:
    """Which records show what an evaluation set shows; exit 1 when there are any and they are not removed.

    Example: `mmdpo leakage runs/pairs --against pope=coco_pope_random.json chair=annotations folder=photos`, then the
    same with `--remove --out runs/clean-pairs`
    """
    from data_builders.care.leakage import find_leakage, without_leaks

    if remove != (out is not None):
        raise ConfigError(
            "--remove and --out belong together",
            why="Records are never removed in place: a run may depend on them.",
            fix="Say --remove --out FOLDER, or neither to look alone.",
        )
    found = find_leakage(data, _named([*(against or []), *(more or [])]))
    left = without_leaks(data, found, out) if out is not None else None
    if as_json:
        everything = {**found.summary(), "leaks": [vars(leak) for leak in found.leaks], "left": left}
        typer.echo(json.dumps(everything, indent=2, ensure_ascii=False))
    else:
        _print(found)
    if left is not None and out is not None:
        told = ", ".join(f"{count} {split}" for split, count in left.items())
        closing(f"{found.summary()['leaking']} records removed; left are {told}", out, f"mmdpo quality {out}")
    elif found.leaks:
        raise typer.Exit(1)


def _named(pairs: list[str]) -> dict[str, Path]:
    """NAME=PATH arguments.

    Raises:
        ConfigError: One has no name, or two have the same.
    """
    named: dict[str, Path] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not (name and equals and path) or name in named:
            raise ConfigError(
                f"{pair!r} names no evaluation set"
                if name not in named
                else f"two evaluation sets are called {name!r}",
                why="Each is told apart in the result by a name of its own.",
                fix="Write NAME=PATH, for instance pope=coco_pope_random.json",
            )
        named[name] = Path(path)
    return named


def _print(found: Leakage) -> None:
    from data_builders.care.leakage import EVIDENCE

    summary = found.summary()
    table = Table("against", "leaking", "of", *EVIDENCE, box=None, header_style="bold")
    for name, told in summary["against"].items():
        kinds = [str(told["by_evidence"].get(kind, 0)) for kind in EVIDENCE]
        table.add_row(escape(name), str(told["leaking"]), str(told["n"]), *kinds)
    results.print(table)
    for leak in found.leaks[:_SHOWN]:
        evidence = "; ".join(f"{EVIDENCE[kind]}: {what}" for kind, what in leak.evidence.items())
        results.print(f"{leak.record} ({leak.split}) in {leak.against}: {evidence}", markup=False, highlight=False)
    if len(found.leaks) > _SHOWN:
        results.print(f"and {len(found.leaks) - _SHOWN} more; all of them with --json", highlight=False)
    elif found.unseen:
        say(f"{found.unseen} pictures of the records could not be opened; near copies of them are not found")
    for name, told in summary["against"].items():
        if told["holds"]["unreadable"]:
            say(f"{told['holds']['unreadable']} files of {name} could not be read")
