"""Records out into a format of another toolkit: rows, media beside them, and an account of what it cannot express."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

from data_builders.importers.base import Format, OutRow
from data_builders.importers.media_out import MediaMode, MediaOut
from data_builders.importers.unusable import Unusable
from mmdpo.errors import ConfigError, DataError
from mmdpo.jsonfiles import plain, write_json
from mmdpo.records import Candidate, Record, Records
from mmdpo.records.checks import is_unicode

REPORT_FILE = "EXPORT.json"
SET_ASIDE_FILE = "set_aside.jsonl"

_ROWS_PER_GROUP = 200
_DEFAULTS = {item.name: item.default for item in fields(Candidate) if item.name != "text"}


@dataclass(frozen=True)
class ExportReport:
    """What became of the records; `EXPORT.json` holds the same.

    Args:
        format: The format.
        read: Records read.
        written: Records written.
        set_aside: Records that the format cannot express, by reason; `set_aside.jsonl` lists them.
        lost: What records had and the format has no place for, by name, with the number of written records.
        files: Files of rows, with their number of rows.
        media: How many media were copied and embedded.
    """

    format: str
    read: int
    written: int
    set_aside: Mapping[str, int]
    lost: Mapping[str, int]
    files: Mapping[str, int]
    media: Mapping[str, int]


def write_records(records: Records, form: Format, out: Path, *, media: MediaMode = "copy") -> ExportReport:
    """Writes records in a format, all or nothing.

    Args:
        records: The records.
        form: The format.
        out: Folder to make.
        media: `copy` puts media files below `OUT/media`; `paths` names them where they lie, relative to the output.

    Raises:
        ConfigError: The folder holds something.
        DataError: The format can express none of the records.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"the output {str(out)!r} exists and is not an empty folder",
            why="Nothing is overwritten: somebody may depend on what is there.",
            fix="Choose another --out, or remove it first.",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        staged = Path(scratch) / "export"
        staged.mkdir()
        report = _write(records, form, staged, out, media)
        write_json(staged / REPORT_FILE, vars(report))
        if out.exists():
            out.rmdir()
        staged.rename(out)
    return report


def _write(records: Records, form: Format, staged: Path, out: Path, mode: MediaMode) -> ExportReport:
    used = {name for record in records for name, items in record.media.items() if items}
    media = MediaOut(records.media_root, staged, out, mode, used, form.media)
    files: dict[str, _RowFile] = {}
    reasons: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    first = ""
    with ExitStack() as stack:
        listed = stack.enter_context((staged / SET_ASIDE_FILE).open("w", encoding="utf-8"))
        for record in records:
            try:
                made = _made(record, form, media)
            except Unusable as problem:
                reasons[problem.reason] += 1
                first = first or problem.message
                entry = {"id": record.id, "reason": problem.reason, "message": problem.message}
                listed.write(json.dumps(plain(entry)) + "\n")
                continue
            if made.table not in files:
                files[made.table] = _RowFile(form, made.table, staged)
                stack.callback(files[made.table].close)
            files[made.table].add({"id": record.id, **made.cells, **form.written_back(record)})
            lost.update(_lost(record, form))
    if not files:
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise DataError(
            f"{form.name} can express none of the {len(records)} records",
            why=f"Set aside: {counts}. The first: {first}." if first else "There are no records.",
            fix="docs/formats.md says what each format can express.",
        )
    if not reasons:
        (staged / SET_ASIDE_FILE).unlink()
    tables = {name: file.n for name, file in files.items()}
    for name, value in form.descriptions(tables, media).items():
        write_json(staged / name, value)
    rows = {file.path.name: file.n for file in files.values()}
    moved = {"copied": media.copied, "embedded": media.embedded}
    return ExportReport(
        form.name,
        len(records),
        sum(rows.values()),
        dict(reasons.most_common()),
        dict(sorted(lost.items())),
        rows,
        moved,
    )


def _made(record: Record, form: Format, media: MediaOut) -> OutRow:
    """The row of a record.

    Raises:
        Unusable: The format cannot express it.
    """
    texts = [part["text"] for message in record.prompt for part in message["content"] if part["type"] == "text"]
    texts += [record.id, *(candidate.text for candidate in record.candidates)]
    if not all(map(is_unicode, texts)):
        raise Unusable("bad_text", "it holds half of a surrogate pair, which no file can hold")
    media.require_known(record)
    return form.row(record, media)


class _RowFile:
    """One file of rows in the way of the format, written row by row."""

    def __init__(self, form: Format, table: str, folder: Path) -> None:
        self.n = 0
        self.path = folder / f"{table}.{form.kind}"
        self._kind, self._rows = form.kind, list[dict[str, Any]]()
        self._text: TextIO | None = None
        if form.kind == "parquet":
            import datasets
            import pyarrow.parquet

            columns = datasets.Features({"id": datasets.Value("string"), **form.features(table)})
            self._schema = columns.arrow_schema
            self._parquet = pyarrow.parquet.ParquetWriter(self.path, self._schema)
        else:
            self._text = self.path.open("w", encoding="utf-8")

    def add(self, row: dict[str, Any]) -> None:
        if self._text is None:
            self._rows.append(row)
            if len(self._rows) == _ROWS_PER_GROUP:
                self._flush()
        else:
            before = "" if self._kind == "jsonl" else ",\n" if self.n else "[\n"
            after = "\n" if self._kind == "jsonl" else ""
            self._text.write(before + json.dumps(row, ensure_ascii=False) + after)
        self.n += 1

    def close(self) -> None:
        if self._text is None:
            self._flush()
            self._parquet.close()
        else:
            self._text.write("\n]\n" if self._kind == "json" else "")
            self._text.close()

    def _flush(self) -> None:
        import pyarrow

        self._parquet.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []


def _lost(record: Record, form: Format) -> set[str]:
    """What a written record had and the format has no place for."""
    lost = set()
    for candidate in record.candidates if not form.prompts_only else ():
        told = {name for name, default in _DEFAULTS.items() if getattr(candidate, name) != default}
        lost |= {f"candidates.{name}" for name in told - form.keeps}
    if form.prompts_only and record.candidates:
        lost.add("candidates")
    if record.higher_is_better is not None and not form.keeps & {"score", "rank"}:
        lost.add("higher_is_better")
    if set(record.meta) - {"columns"} or record.meta.get("columns", {}) != form.written_back(record):
        lost.add("meta")
    for message in record.prompt:
        pairs = pairwise(message["content"])
        joined = any(one["type"] == other["type"] == "text" for one, other in pairs)
        if joined or any(part.get("text") == "" for part in message["content"]):
            lost.add("parts of one text")
    return lost
