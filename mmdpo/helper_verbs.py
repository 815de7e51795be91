"""The small verbs of the ``mmdpo`` command: look at records, list names, copy a configuration, merge, versions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from mmdpo.terminal import closing, results

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to make; nothing is overwritten.")]


def add_to(app: typer.Typer) -> None:
    """Adds the verbs to the command."""
    verbs: dict[str, Callable[..., None]] = {
        "quality": quality,
        "show": show,
        "ls": list_names,
        "cp": copy_config,
        "merge": merge,
        "env": env,
    }
    for name, verb in verbs.items():
        app.command(name, rich_help_panel="Helpers")(verb)


def quality(data: Annotated[Path, typer.Argument(help="Folder of records.")], as_json: AsJson = False) -> None:
    """Counts, length bias and every problem of a set of records; exit 1 when there are problems.

    Example: `mmdpo quality runs/pairs`
    """
    from data_builders.quality import measure
    from mmdpo.records import load_records

    numbers = measure(load_records(data))
    if as_json:
        typer.echo(json.dumps(numbers, indent=2))
    else:
        results.print_json(json.dumps({k: v for k, v in numbers.items() if k != "examples"}))
    if numbers.get("problems"):
        raise typer.Exit(1)


def show(
    data: Annotated[Path, typer.Argument(help="Folder of records.")],
    n: Annotated[int, typer.Option("-n", help="How many.", min=1)] = 5,
    split: Annotated[str, typer.Option(help="Which split.")] = "train",
) -> None:
    """Look at records: media, prompt, chosen and rejected.

    Example: `mmdpo show runs/pairs -n 3`
    """
    from mmdpo.records import load_records, prompt_text

    for record in load_records(data, split=split)[:n]:
        results.print(f"[bold]{escape(record.id)}[/bold]")
        for plural, items in record.media.items():
            results.print(f"  {plural}: " + ", ".join(escape(item.name) for item in items))
        results.print(f"  prompt: {escape(prompt_text(record))}")
        names = ["chosen", "rejected"] if record.form == "pair" else [str(k) for k in range(len(record.candidates))]
        for name, candidate in zip(names, record.candidates, strict=True):
            style = {"chosen": "green", "rejected": "red"}.get(name, "cyan")
            rated = "" if candidate.score is None else f"  ({candidate.score:g})"
            results.print(f"  [{style}]{name}[/{style}]: {escape(candidate.text)}{rated}")


def list_names(
    kind: Annotated[str, typer.Argument(help="losses, builders, benchmarks, modalities, configs or families")],
    as_json: AsJson = False,
) -> None:
    """What there is to choose from.

    Example: `mmdpo ls losses`
    """
    from mmdpo.discovery import listing

    rows = listing(kind)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(*(key for key in rows[0]), box=None, header_style="bold") if rows else Table()
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    results.print(table)


def copy_config(
    name: Annotated[str, typer.Argument(help="A configuration of mmdpo ls configs.")],
    to: Annotated[Path | None, typer.Argument(help="Where to; default NAME.yaml here.")] = None,
) -> None:
    """Copy a ready-made configuration to edit.

    Example: `mmdpo cp llava_7b`
    """
    from mmdpo.config import copy_shipped

    path = copy_shipped(name, to or Path(f"{name}.yaml"))
    closing("configuration copied", path, f"mmdpo check {path}")


def merge(
    run: Annotated[Path, typer.Argument(help="A run folder with an adapter.")],
    out: Out = Path("runs/merged"),
) -> None:
    """Merge a run's adapter into its base model, for serving.

    Example: `mmdpo merge runs/first --out runs/first-merged`
    """
    from mmdpo.evaluation import merge_run

    closing("merged model written", merge_run(run, out), f"mmdpo eval {out} BENCH --data BENCH=PATH")


def env(as_json: AsJson = False) -> None:
    """Versions and devices, for a bug report.

    Example: `mmdpo env`
    """
    from mmdpo.discovery import environment

    facts = environment()
    typer.echo(json.dumps(facts, indent=2) if as_json else "\n".join(f"{k:>14}  {v}" for k, v in facts.items()))
