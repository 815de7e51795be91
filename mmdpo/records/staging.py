"""Records written one by one into a data set, in memory that does not grow with them.

They go to a scratch file first, because their splits are known only when all of them are, and a save that fails must
leave no data set:

    add(record) --check, hash media--> scratch Parquet --finish(split of each)--> data/SPLIT.parquet, info.json
"""

from __future__ import annotations

import hashlib
import heapq
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from mmdpo.errors import DataError
from mmdpo.jsonfiles import write_json
from mmdpo.media import Media, MediaError, content_hash
from mmdpo.records.checks import RecordCheck
from mmdpo.records.record import Form, Record, fingerprint_line
from mmdpo.records.rows import RESERVED_COLUMNS, ROWS_PER_GROUP, features, from_row, row_groups, to_row

SCHEMA_VERSION = 1
INFO_FILE = "info.json"
DATA_FOLDER = "data"
BYTES_PER_GROUP = 32 * 2**20  # of embedded media in a row group, which is written and read at once
ROWS_PER_FILE = 100_000
"""A split with more records than this becomes several files, `train-00000-of-00003.parquet` and so on."""

_ORDER, _CONTENT = "__order", "__content"
_SCRATCH = pyarrow.schema([(_ORDER, pyarrow.int64()), (_CONTENT, pyarrow.large_string())])


@dataclass(frozen=True)
class _Shape:
    """What decides the columns of a scratch file."""

    form: Form
    media: tuple[str, ...]
    embedded: bool

    def schema(self) -> pyarrow.Schema:
        """The columns of records of this shape."""
        return features(self.form, list(self.media), self.embedded).arrow_schema


class _Scratch:
    """One Parquet file of records of one shape, in their order."""

    def __init__(self, path: Path, shape: _Shape) -> None:
        self.path = path
        self._schema = pyarrow.schema([*shape.schema(), *_SCRATCH])
        self._writer = pyarrow.parquet.ParquetWriter(path, self._schema)
        self._rows, self._bytes = list[dict[str, Any]](), 0

    def add(self, row: dict[str, Any], embedded: int = 0) -> None:
        self._rows.append(row)
        self._bytes += embedded
        if len(self._rows) == ROWS_PER_GROUP or self._bytes > BYTES_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
            self._rows, self._bytes = [], 0

    def close(self) -> None:
        self.flush()
        self._writer.close()

    def batches(self) -> Iterator[pyarrow.RecordBatch]:
        yield from row_groups(self.path)


class Staging:
    """Takes records one by one and makes a data set of them.

    Args:
        folder: An empty folder for the scratch files, on the disk of the data set.
        media_root: Folder that media paths are relative to.
        embed: Store the bytes of the media. Media that have no file are always embedded, and then all are.

    Attributes:
        n: Records taken so far.
    """

    def __init__(self, folder: Path, media_root: Path | None, *, embed: bool = False) -> None:
        self.n = 0
        self._folder, self._root, self._embed = folder, media_root, embed
        self._check = RecordCheck()
        self._files: dict[_Shape, _Scratch] = {}

    def add(self, record: Record) -> bool:
        """Takes a record; whether it could be.

        Raises:
            MediaError: A medium has changed, leaves the root, or cannot be embedded.
            DataError: A media field has the name of another column.
        """
        if self._check.problems_of(record):
            return False
        record = _with_hashes(record, self._root)
        names = tuple(sorted(name for name, items in record.media.items() if items))
        if clash := RESERVED_COLUMNS.intersection(names):
            raise DataError(
                f"the media name {min(clash)!r} is the name of another column",
                fix=f"Rename the modality; taken are {', '.join(sorted(RESERVED_COLUMNS))}.",
            )
        embedded = self._embed or any(item.data is not None for _, item in record.media_items())
        shape = _Shape(record.form, names, embedded)
        if shape not in self._files:
            self._files[shape] = _Scratch(self._folder / f"staged-{len(self._files)}.parquet", shape)
        with naming(record):
            row = to_row(record, shape.form, list(names), self._root, embedded)
        held = sum(len(item.data or b"") for _, item in record.media_items())
        self._files[shape].add({**row, _ORDER: self.n, _CONTENT: fingerprint_line(record)}, held)
        self.n += 1
        return True

    def start_split(self) -> None:
        """Ids may repeat those of before: they are unique within a split."""
        self._check = RecordCheck()

    def require_valid(self, name: str) -> None:
        """Refuses if a record had problems.

        Raises:
            DataError: It counts the kinds and shows the first.
        """
        self._check.require_none(name)

    def finish(self, out: Path, splits: Sequence[str], provenance: Mapping[str, Any]) -> None:
        """Writes the data set; until its last step there is none.

        Args:
            out: Its folder.
            splits: The split of each record, in their order.
            provenance: Anything that JSON can hold.
        """
        for file in self._files.values():
            file.close()
        shapes = list(self._files)
        form = shapes[0].form if len({shape.form for shape in shapes}) == 1 else "list"
        media = tuple(sorted({name for shape in shapes for name in shape.media}))
        whole = _Shape(form, media, any(shape.embedded for shape in shapes))
        data = self._folder / DATA_FOLDER
        data.mkdir()
        batches = self._as_they_are() if len(shapes) == 1 else self._converted(whole)
        described = _write_splits(batches, splits, whole.schema(), data)
        info = {
            "schema_version": SCHEMA_VERSION,
            "form": form,
            "embedded": whole.embedded,
            "media_root": None if whole.embedded or self._root is None else _portable_root(self._root, out),
            "folder": str(out.resolve()),
            "media": list(media),
            "splits": described,
            "provenance": dict(provenance),
        }
        write_json(self._folder / INFO_FILE, info)
        for name in (INFO_FILE, DATA_FOLDER):  # without the second one there is no data set
            (self._folder / name).replace(out / name)

    def records(self) -> Iterator[Record]:
        """Everything that was taken, in its order; nothing can be added afterwards."""
        for file in self._files.values():
            file.close()
        for row in heapq.merge(*(_rows(file) for file in self._files.values()), key=lambda row: row[_ORDER]):
            yield from_row({name: cell for name, cell in row.items() if name not in (_ORDER, _CONTENT)}, row[_ORDER])

    def _as_they_are(self) -> Iterator[pyarrow.RecordBatch]:
        for file in self._files.values():
            yield from file.batches()

    def _converted(self, shape: _Shape) -> Iterator[pyarrow.RecordBatch]:
        """The rows of all shapes in their order, as rows of the one that holds all."""
        schema = pyarrow.schema([*shape.schema(), *_SCRATCH])
        rows: list[dict[str, Any]] = []
        for row in heapq.merge(*(_rows(file) for file in self._files.values()), key=lambda row: row[_ORDER]):
            order, content = row.pop(_ORDER), row.pop(_CONTENT)
            record = from_row(row, order)
            with naming(record):
                made = to_row(record, shape.form, list(shape.media), self._root, shape.embedded)
            rows.append({**made, _ORDER: order, _CONTENT: content})
            if len(rows) == ROWS_PER_GROUP:
                yield from pyarrow.Table.from_pylist(rows, schema=schema).to_batches()
                rows = []
        yield from pyarrow.Table.from_pylist(rows, schema=schema).to_batches()


def _rows(file: _Scratch) -> Iterator[dict[str, Any]]:
    for batch in file.batches():
        yield from batch.to_pylist()


def _write_splits(
    batches: Iterator[pyarrow.RecordBatch], splits: Sequence[str], schema: pyarrow.Schema, folder: Path
) -> dict[str, dict[str, Any]]:
    """Writes every row into a file of its split; returns what `info.json` says of each split."""
    outputs = {name: _SplitFiles(folder, name, count, schema) for name, count in Counter(splits).items()}
    done = 0
    for batch in batches:
        names = splits[done : done + batch.num_rows]
        done += batch.num_rows
        for name in dict.fromkeys(names):
            part = batch.filter(pyarrow.array([other == name for other in names]))
            outputs[name].write(part)
    return {name: output.close() for name, output in outputs.items()}


class _SplitFiles:
    """The Parquet files of one split, its count and its fingerprint."""

    def __init__(self, folder: Path, name: str, count: int, schema: pyarrow.Schema) -> None:
        files = -(-count // ROWS_PER_FILE)
        self._paths = [folder / file_name(name, number, files) for number in range(files)]
        self._schema, self._count, self._written = schema, count, 0
        self._digest = hashlib.sha256()
        self._writer: pyarrow.parquet.ParquetWriter | None = None

    def write(self, batch: pyarrow.RecordBatch) -> None:
        for line in batch.column(_CONTENT).to_pylist():
            self._digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
        table = pyarrow.Table.from_batches([batch]).select(self._schema.names).cast(self._schema)
        while table.num_rows:
            place, within = divmod(self._written, ROWS_PER_FILE)
            if within == 0:
                self._next_file(place)
            piece = table.slice(0, ROWS_PER_FILE - within)
            assert self._writer is not None
            self._writer.write_table(piece)
            self._written += piece.num_rows
            table = table.slice(piece.num_rows)

    def close(self) -> dict[str, Any]:
        if self._writer is not None:
            self._writer.close()
        return {"records": self._written, "fingerprint": self._digest.hexdigest()}

    def _next_file(self, place: int) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = pyarrow.parquet.ParquetWriter(self._paths[place], self._schema)


def file_name(split: str, number: int, count: int) -> str:
    """The name of a split's file: `train.parquet` where there is one, else `train-00000-of-00003.parquet`."""
    return f"{split}.parquet" if count == 1 else f"{split}-{number:05d}-of-{count:05d}.parquet"


def _portable_root(media_root: Path, out: Path) -> str:
    """Relative for media inside the data set or next to it, which move along with it; absolute otherwise."""
    home = out.resolve().parent
    resolved = media_root.resolve()
    return os.path.relpath(resolved, out.resolve()) if resolved.is_relative_to(home) else str(resolved)


def _with_hashes(record: Record, media_root: Path | None) -> Record:
    """The record with the content hash of every media file that is there."""
    if all(item.sha256 is not None for _, item in record.media_items()):
        return record
    with naming(record):
        media = {name: tuple(_with_hash(item, media_root) for item in items) for name, items in record.media.items()}
    return replace(record, media=media)


@contextmanager
def naming(record: Record) -> Iterator[None]:
    """Errors of media also say whose they are."""
    try:
        yield
    except MediaError as error:
        raise MediaError(error.kind, f"record {record.id!r}: {error.what}", why=error.why, fix=error.fix) from error


def is_plainly_absent(item: Media, root: Path | None) -> bool:
    """Whether an item is a plain path below the root at which there is nothing: told by one look, not by ten."""
    path = item.path
    if item.data is not None or path is None or root is None or "://" in path or path.startswith("data:"):
        return False
    return not os.path.isabs(path) and ".." not in path and not os.path.lexists(os.path.join(root, path))  # noqa: PTH117, PTH118 # pathlib takes ten times as long


def _with_hash(item: Media, media_root: Path | None) -> Media:
    if item.sha256 is not None or is_plainly_absent(item, media_root):
        return item
    try:
        return replace(item, sha256=content_hash(item, media_root))
    except MediaError as error:
        if error.kind == "missing_media":  # allowed: text and paths alone, with the media somewhere else
            return item
        raise
