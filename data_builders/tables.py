"""Tables of any common kind, row by row: CSV, TSV, JSON lines, JSON with nested rows, Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mmdpo.errors import ConfigError, DataError, did_you_mean

Format = Literal["csv", "tsv", "jsonl", "json", "parquet"]

_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}


class Row(NamedTuple):
    """One row of a table.

    Args:
        number: Its number, from 1; a header is not counted.
        cells: Values by column.
        problem: Why it could not be read; `cells` then holds what there was.
    """

    number: int
    cells: Mapping[str, Any]
    problem: str | None = None


def read_table(path: Path, *, kind: Format | None = None, rows: str | None = None) -> list[Row]:
    """Reads a table.

    Args:
        path: The file.
        kind: Its format; by default what its suffix says.
        rows: Where the rows of a JSON document are: keys joined by dots, `*` for every item of a list or value of an
            object. `image.*` is the list under "image"; `*.human_judgement.*` the lists of all entries. By default
            the document itself is the list.

    Raises:
        ConfigError: The file is missing, its format is not known, or `rows` leads nowhere.
        DataError: The file as a whole cannot be read.
    """
    if not path.is_file():
        raise ConfigError(
            f"there is no table {str(path)!r}",
            why="It is what the records are made from.",
            fix="Give the path with data=FILE; it is relative to the current folder.",
        )
    kind = kind or _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(
            f"the format of {path.name!r} is not known from its suffix {path.suffix!r}",
            why=f"Known are {', '.join(_SUFFIXES)}.",
            fix="Say it: format=csv (or tsv, jsonl, json, parquet).",
        )
    if rows is not None and kind != "json":
        raise ConfigError(f"rows={rows!r} is only for JSON documents, not for {kind}", fix="Leave it out.")
    if kind == "parquet":
        return list(_parquet_rows(path))
    # Bytes that are no UTF-8 become half surrogates, so that the rows that hold them can be set aside by themselves.
    text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    if kind == "json":
        return list(_json_rows(path, text, rows))
    if kind == "jsonl":
        return list(_json_line_rows(text))
    return list(_delimited_rows(path, text, "\t" if kind == "tsv" else ","))


def matches(row: Row, where: Mapping[str, Any]) -> bool:
    """Whether every column named has the value, or one of the values, that is asked for (compared as text)."""
    for column, wanted in where.items():
        allowed = wanted if isinstance(wanted, list | tuple) else [wanted]
        if str(row.cells.get(column)) not in {str(value) for value in allowed}:
            return False
    return True


def require_columns(rows: Sequence[Row], columns: Iterable[tuple[str, str]]) -> None:
    """Refuses a table that lacks columns.

    Args:
        rows: Its rows.
        columns: (setting, column) pairs: which setting asks for which column.

    Raises:
        ConfigError: It names every missing column, the setting, and near names.
    """
    known = {name for row in rows for name in row.cells}
    missing = [(setting, column) for setting, column in columns if column not in known]
    if missing and rows:
        raise ConfigError(
            "the table has no column " + ", ".join(f"{column!r} ({setting})" for setting, column in missing),
            why=" ".join(dict.fromkeys(did_you_mean(column, known) for _, column in missing)),
            fix="Name the columns: "
            + ", ".join(f"{setting}=..." for setting, _ in missing)
            + " (null where the table has none and the setting may be left out).",
        )


def _delimited_rows(path: Path, text: str, delimiter: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        repeated = {name for name in header if header.count(name) > 1}
        if repeated:
            raise DataError(
                f"the table {str(path)!r} has two columns {min(repeated)!r}",
                why="Which of them is meant cannot be known.",
                fix="Rename one of them.",
            )
        number = 0
        for cells in reader:
            if not cells:  # an empty line
                continue
            number += 1
            is_whole = len(cells) == len(header)
            problem = None if is_whole else f"{len(cells)} cells under {len(header)} columns"
            yield Row(number, dict(zip(header, cells, strict=False)), problem)
    except csv.Error as error:
        raise DataError(
            f"the table {str(path)!r} cannot be read near line {reader.line_num}: {error}",
            why="After a broken quote no later row can be told from another.",
            fix="Check the quotes of that line, or say format=tsv for a table with tabs.",
        ) from error


def _json_line_rows(text: str) -> Iterator[Row]:
    lines = (line for line in text.split("\n") if line.strip())
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except ValueError as error:
            yield Row(number, {}, f"no JSON: {error}")
            continue
        yield _object_row(number, value)


def _json_rows(path: Path, text: str, rows: str | None) -> Iterator[Row]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise DataError(
            f"{str(path)!r} is no JSON: {error}",
            why="A document with one broken place cannot be read at all.",
            fix="Repair it; if it holds one object per line, say format=jsonl.",
        ) from error
    pattern = rows or "*"
    found = list(_descend(document, pattern.split(".")))
    if not found or (rows is None and not isinstance(document, list)):
        shape = sorted(document)[:8] if isinstance(document, dict) else f"a list of {len(document)}"
        raise ConfigError(
            f"rows={rows!r} finds no rows in {str(path)!r}" if rows else f"{str(path)!r} is not a list of rows",
            why=f"At the top it holds: {shape}.",
            fix='Say where the rows are, for instance rows="KEY.*" for the list under KEY.',
        )
    for number, value in enumerate(found, start=1):
        yield _object_row(number, value)


def _descend(value: Any, keys: list[str]) -> Iterator[Any]:
    if not keys:
        yield value
        return
    if keys[0] == "*":
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    else:
        children = [value[keys[0]]] if isinstance(value, dict) and keys[0] in value else ()
    for child in children:
        yield from _descend(child, keys[1:])


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            for value in batch.to_pylist():
                number += 1
                yield Row(number, value)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{str(path)!r} cannot be read as Parquet: {error}",
            why="The file is damaged, or is something else.",
            fix="Check how it was written.",
        ) from error


def _object_row(number: int, value: Any) -> Row:
    if isinstance(value, dict):
        return Row(number, value)
    return Row(number, {}, f"a JSON {type(value).__name__}, not an object")
