"""The small verbs of the ``mmdpo`` command: look at records, list names, copy a configuration, merge, versions."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mmdpo.errors import ConfigError
from mmdpo.jsonfiles import plain, read_json, write_json
from mmdpo.verbs.commandline import use_plugins
from mmdpo.verbs.terminal import closing, progress, quality_table, results

if TYPE_CHECKING:
    from mmdpo.records import Record

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # direction of writing, overridden
STYLES = {"chosen": "green", "rejected": "red"}
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="Python file that registers an extension; may be repeated.", show_default=False),
]
Out = Annotated[Path, typer.Option("--out", help="Folder to make; nothing is overwritten.")]


def add_to(app: typer.Typer) -> None:
    """Adds the verbs to the command."""
    verbs: dict[str, Callable[..., None]] = {
        "quality": quality,
        "show": show,
        "ls": list_names,
        "cp": copy_config,
        "new": new,
        "merge": merge,
        "env": env,
    }
    for name, verb in verbs.items():
        app.command(name, rich_help_panel="Helpers")(verb)


def quality(
    data: Annotated[Path, typer.Argument(help="Folder of records.")],
    split: Annotated[str | None, typer.Option(help="One split alone; by default all.", show_default=False)] = None,
    media: Annotated[bool, typer.Option("--media", help="Also open every media item and compare its hash.")] = False,
    model: Annotated[
        str | None, typer.Option("--model", help="Also: how foreign the answers are to this model.", show_default=False)
    ] = None,
    thresholds: Annotated[
        Path | None, typer.Option("--thresholds", help="YAML with bounds of your own.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for quality.json and quality.html.", show_default=False)
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 when a check fails.")] = False,
    as_json: AsJson = False,
    plugin: Plugins = None,
) -> None:
    """The quality gate: problems, agreement, biases, shortcuts, duplicates, coverage; exit 1 when there are problems.

    Example: `mmdpo quality runs/pairs --out runs/pairs-quality`, or `mmdpo quality runs/pairs --strict`
    """
    from data_builders.quality import failures, load_thresholds, measure_folder, with_checks

    use_plugins(plugin)
    bounds = load_thresholds(thresholds)
    measured = measure_folder(data, split=split, check_media=media)
    if model is not None:
        from mmdpo.preferences.off_policy import off_policy_finding

        measured["findings"].append(off_policy_finding(model, data, split, progress=progress))
    built = data / "quality.json"
    account = read_json(built) if built.is_file() and split is None else {}
    numbers = with_checks({**account, "records": measured}, bounds)
    if out is not None:
        _write_quality(numbers, data, out)
    if as_json:
        typer.echo(json.dumps(plain(numbers), indent=2))
    else:
        results.print(*quality_table(numbers), sep="\n\n")
    failed = failures(numbers["checks"]) if strict else None
    if failed is not None:
        raise failed
    if measured["problems"]:
        raise typer.Exit(1)


def _write_quality(numbers: dict[str, Any], data: Path, out: Path) -> None:
    """Both forms of what the gate found, into a folder that has neither."""
    from mmdpo.records.files import open_split
    from mmdpo.report import write_quality_page

    files = [out / "quality.json", out / "quality.html"]
    if any(file.exists() for file in files):
        raise ConfigError(
            f"{str(out)!r} holds a quality.json or quality.html already",
            why="That of a build knows what became of every row, and cannot be made again without the source.",
            fix="Give another folder with --out.",
        )
    out.mkdir(parents=True, exist_ok=True)
    split = next(iter(numbers["records"]["splits"]), "train")
    _, root = open_split(data, split)
    write_json(files[0], numbers)
    write_quality_page(numbers, files[1], title=f"Quality of {data.name}", media_root=root)
    closing("quality measured", files[1], "open it in a browser")


def show(
    data: Annotated[Path, typer.Argument(help="Folder of records.")],
    n: Annotated[int, typer.Option("-n", help="How many.", min=1)] = 5,
    split: Annotated[str, typer.Option(help="Which split.")] = "train",
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with the media instead.")] = None,
    plugin: Plugins = None,
) -> None:
    """Look at records: media, prompt, chosen and rejected; words that differ between the two are underlined.

    Example: `mmdpo show runs/pairs -n 3`
    """
    from mmdpo.records import load_records
    from mmdpo.report import write_records_page

    use_plugins(plugin)
    records = load_records(data, split=split)
    if html is not None:
        page = write_records_page(records, html, title=f"Records of {data}", count=n)
        closing(f"page with the first {min(n, len(records))} of {len(records)} records", page, "open it in a browser")
        return
    for record in records[:n]:
        results.print(_shown(record), "", highlight=False)


def _shown(record: Record) -> Text:
    """A record as the terminal shows it."""
    from mmdpo.records import prompt_text
    from mmdpo.report import differing_words

    texts = [candidate.text for candidate in record.candidates]
    pair = record.form == "pair"
    parts = differing_words(*texts) if pair else [[(text, False)] for text in texts]
    names = ["chosen", "rejected"] if pair else [f"candidate {number}" for number in range(1, len(texts) + 1)]
    shown = Text(_visible(record.id), style="bold")
    for plural, items in record.media.items():
        shown.append(f"\n  {plural}: {_visible(', '.join(item.name for item in items))}", style="not bold")
    shown.append(f"\n  prompt: {_visible(prompt_text(record))}", style="not bold")
    for name, candidate, stretches in zip(names, record.candidates, parts, strict=True):
        shown.append(f"\n  {name}:", style=f"not bold {STYLES.get(name, 'cyan')}")
        for words, differs in stretches:
            shown.append(" ").append(_visible(words), style="not bold underline" if differs else "not bold")
        told = {None: [], True: ["desirable"], False: ["undesirable"]}[candidate.label]
        told += [] if candidate.score is None else [f"{candidate.score:.3g}"]
        told += [] if candidate.rank is None else [f"rank {candidate.rank}"]
        shown.append(f"  ({', '.join(told)})" if told else "", style="not bold dim")
    return shown


def _visible(text: str) -> str:
    """The text with further lines indented, and characters that would steer the terminal written out."""
    steers = (letter for letter in set(text) if letter not in "\n\t" and unicodedata.category(letter) in ("Cc", "Cs"))
    turns: dict[str, str | int | None] = {letter: ascii(letter)[1:-1] for letter in {*steers, *(set(text) & _TURNS)}}
    return text.translate(str.maketrans(turns)).replace("\n", "\n    ")


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
