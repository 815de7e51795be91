"""The small verbs of the ``mmdpo`` command: list names, copy a configuration, write an extension, merge, versions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mmdpo.verbs.commandline import AsJson, Out, Plugins, use_plugins
from mmdpo.verbs.terminal import closing, results

if TYPE_CHECKING:
    pass


def add_to(app: typer.Typer) -> None:
    """Adds the verbs to the command."""
    verbs: dict[str, Callable[..., None]] = {
        "ls": list_names,
        "cp": copy_config,
        "new": new,
        "merge": merge,
        "env": env,
    }
    for name, verb in verbs.items():
        app.command(name, rich_help_panel="Helpers")(verb)


def list_names(
    kind: Annotated[str, typer.Argument(help="losses, builders, benchmarks, modalities, configs or families")],
    name: Annotated[
        str | None, typer.Argument(help="One of them; of a loss or a benchmark everything.", show_default=False)
    ] = None,
    as_json: AsJson = False,
    plugin: Plugins = None,
) -> None:
    """What there is to choose from; of a benchmark what it needs, and with its name which files and options.

    Example: `mmdpo ls losses`, `mmdpo ls losses mdpo`, `mmdpo ls benchmarks pope`
    """
    from mmdpo.extensions.discovery import benchmark_details, listing, one_of

    use_plugins(plugin)
    rows = listing(kind)
    rows = rows if name is None else [one_of(rows, name, kind)]
    if kind == "benchmarks" and name is not None:
        rows = [rows[0] | benchmark_details(name)]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if kind == "losses":
        _print_losses(name)
        return
    if kind == "benchmarks" and name is not None:
        _print_benchmark(rows[0])
        return
    table = Table(*(key for key in rows[0]), box=None, header_style="bold") if rows else Table()
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    results.print(table)


def _print_benchmark(row: dict[str, Any]) -> None:
    """One benchmark, a line for each thing that is known of it."""
    table = Table(box=None, show_header=False, pad_edge=False)
    options = {f"--{option.replace('_', '-')}": told for option, told in row["options"].items()}
    for key, value in {**{key: row[key] for key in row if key != "options"}, **options}.items():
        if value:
            table.add_row(Text(key, style="bold"), escape(str(value)))
    results.print(table)


def _print_losses(name: str | None) -> None:
    from mmdpo.extensions.loss_catalogue import catalogue
    from mmdpo.verbs.loss_listing import loss_blocks, loss_detail

    for block in loss_blocks(catalogue()) if name is None else loss_detail(name):
        results.print(block, soft_wrap=False, crop=False, highlight=False)


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


def new(
    kind: Annotated[str, typer.Argument(help="What to start: benchmark, builder, loss or modality")],
    name: Annotated[str, typer.Argument(help="Its name: lower case, letters, digits and _.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write to; no file is overwritten.")] = Path(),
) -> None:
    """Write the file of a new extension, and its test; both work as they are.

    Example: `mmdpo new loss steady`, `mmdpo new builder stars`, `mmdpo new modality sensor`
    """
    from mmdpo.extensions.scaffold import write_new

    file, test = write_new(kind, name, out)
    closing(f"new {kind} written", file, f"python -m pytest {test}; then change {file} where it says CHANGE")


def merge(
    run: Annotated[Path, typer.Argument(help="A run folder with an adapter.")],
    out: Out = Path("runs/merged"),
    plugin: Plugins = None,
) -> None:
    """Merge a run's adapter into its base model, for serving.

    Example: `mmdpo merge runs/first --out runs/first-merged`
    """
    from mmdpo.answering.evaluation import merge_run

    use_plugins(plugin)
    closing("merged model written", merge_run(run, out), f"mmdpo eval {out} BENCH --data BENCH=PATH")


def env(as_json: AsJson = False) -> None:
    """Versions and devices, for a bug report.

    Example: `mmdpo env`
    """
    from mmdpo.extensions.discovery import environment

    facts = environment()
    typer.echo(json.dumps(facts, indent=2) if as_json else "\n".join(f"{k:>14}  {v}" for k, v in facts.items()))
