"""The verb ``mmdpo export``: records for other toolkits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mmdpo.verbs.terminal import closing, results


def add_to(app: typer.Typer) -> None:
    """Adds the verb to the command."""
    app.command("export", rich_help_panel="Helpers")(export)


def export(
    data: Annotated[Path, typer.Argument(help="Folder of records.")],
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="Name of a format: docs/formats.md lists them.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to make; nothing is overwritten.")] = Path("runs/export"),
    split: Annotated[str, typer.Option(help="Which split.")] = "train",
    media: Annotated[
        Literal["copy", "paths"],
        typer.Option(help="Copy media files below OUT/media, or name them where they lie."),
    ] = "copy",
    media_root: Annotated[Path | None, typer.Option(help="Folder of the media, if the records lack it.")] = None,
) -> None:
    """Write records in the format of another toolkit; what it cannot express is listed, and never lost unsaid.

    Example: `mmdpo export runs/pairs llamafactory_sharegpt --out runs/for-llamafactory`
    """
    from data_builders.importers.formats import format_named
    from data_builders.importers.writing import REPORT_FILE, SET_ASIDE_FILE, write_records
    from mmdpo.records import load_records
    from mmdpo.records.files import list_splits

    chosen = format_named(form)
    report = write_records(load_records(data, split=split, media_root=media_root), chosen, out, media=media)
    results.print(f"{report.read} records read: {report.written} written, {sum(report.set_aside.values())} set aside")
    for reason, count in report.set_aside.items():
        results.print(f"  {count:>6}  {reason}", highlight=False)
    for name, count in report.lost.items():
        results.print(f"  {count:>6}  written without {name}", highlight=False)
    for name, count in report.files.items():
        results.print(f"{count} rows in {name}", highlight=False)
    others = [name for name in (list_splits(data) if data.is_dir() else []) if name != split]
    for name in others:
        count = len(load_records(data, split=name, media_root=media_root))
        results.print(f"{count} records of {name} are not in it: --split {name} exports them", highlight=False)
    listed = f"; each record that was set aside: {out / SET_ASIDE_FILE}" if report.set_aside else ""
    closing(f"exported as {chosen.name}", out, f"see {out / REPORT_FILE}{listed}")
