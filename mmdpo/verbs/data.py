"""Verbs of the ``mmdpo`` command that look after data sets: ``quality``, ``show`` and ``leakage``."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mmdpo.errors import ConfigError
from mmdpo.jsonfiles import plain, read_json, write_json
from mmdpo.verbs.commandline import AsJson, Plugins, use_plugins
from mmdpo.verbs.terminal import closing, progress, quality_table, results, say

if TYPE_CHECKING:
    from data_builders.care.leakage import Leakage
    from mmdpo.records import Record

_SHOWN = 10
_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # direction of writing, overridden
STYLES = {"chosen": "green", "rejected": "red"}


def add_to(app: typer.Typer) -> None:
    """Adds the verbs to the command."""
    for verb in (quality, show, leakage):
        app.command(verb.__name__, rich_help_panel="Helpers")(verb)


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
