"""A data set on disk: Parquet files that `datasets` and TRL read as they are, and an `info.json` beside them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from mmdpo.errors import DataError
from mmdpo.jsonfiles import read_json, write_json
from mmdpo.media import Media, MediaError, content_hash
from mmdpo.record_checks import require_valid
from mmdpo.records import Form, Record, Records
from mmdpo.records_rows import RESERVED_COLUMNS, features, from_row, to_row

SCHEMA_VERSION = 1
INFO_FILE = "info.json"
DATA_FOLDER = "data"
ROWS_PER_GROUP = 500


def save(splits: Mapping[str, Records], out: Path, *, embed: bool, provenance: dict[str, Any]) -> Path:
    """See `mmdpo.records.save_records`."""
    if (out / DATA_FOLDER).exists() or (out / INFO_FILE).exists():
        raise DataError(
            f"the folder {str(out)!r} already holds a data set",
            why="Nothing is overwritten: a run may depend on it.",
            fix="Choose another folder, or remove this one first.",
        )
    form, media_root = _common_form(splits), _common_root(splits)
    for name, records in splits.items():
        require_valid(records, f"split {name!r}")
    everything = [record for records in splits.values() for record in records]
    media_fields = sorted({name for record in everything for name, items in record.media.items() if items})
    if clash := RESERVED_COLUMNS.intersection(media_fields):
        raise DataError(
            f"the media name {min(clash)!r} is the name of another column",
            fix=f"Rename the modality; taken are {', '.join(sorted(RESERVED_COLUMNS))}.",
        )
    embed = embed or any(item.data is not None for record in everything for _, item in record.media_items())
    schema = features(form, media_fields, embed).arrow_schema
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=out) as staging:  # a save that fails leaves no data set
        (Path(staging) / DATA_FOLDER).mkdir()
        described = {}
        for name, records in splits.items():
            hashed = Records((_with_hashes(record, media_root) for record in records), media_root)
            with pyarrow.parquet.ParquetWriter(Path(staging) / DATA_FOLDER / f"{name}.parquet", schema) as writer:
                for start in range(0, len(hashed), ROWS_PER_GROUP):
                    group = hashed[start : start + ROWS_PER_GROUP]
                    rows = [_to_row(record, form, media_fields, media_root, embed) for record in group]
                    writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
            described[name] = {"records": len(hashed), "fingerprint": hashed.fingerprint()}
        info = {
            "schema_version": SCHEMA_VERSION,
            "form": form,
            "embedded": embed,
            "media_root": None if embed or media_root is None else _portable_root(media_root, out),
            "folder": str(out.resolve()),
            "media": media_fields,
            "splits": described,
            "provenance": provenance,
        }
        write_json(Path(staging) / INFO_FILE, info)
        for name in (DATA_FOLDER, INFO_FILE):
            (Path(staging) / name).rename(out / name)
    return out


def load(path: Path, split: str, media_root: Path | None) -> Records:
    """See `mmdpo.records.load_records`."""
    if path.suffix == ".parquet":
        if split not in ("train", path.stem):
            raise DataError(
                f"the file {str(path)!r} has no split {split!r}",
                why="A file holds the rows of one split, whatever their name.",
                fix="Give the data set's folder, or the file of that split.",
            )
        file, folder = path, path.parent.parent
    else:
        file, folder = path / DATA_FOLDER / f"{split}.parquet", path
    if not file.is_file():
        raise _missing(path, split)
    info_path = folder / INFO_FILE
    info = read_json(info_path) if info_path.is_file() else {}
    if info.get("schema_version", SCHEMA_VERSION) > SCHEMA_VERSION:
        raise DataError(
            f"{str(info_path)!r} has schema version {info['schema_version']}; this mmdpo reads up to {SCHEMA_VERSION}",
            why="Fields that it does not know could change the meaning of a record.",
            fix="Update mmdpo.",
        )
    if media_root is None and info.get("media_root") is not None:
        media_root = _trusted_root(folder.resolve(), info)
    return Records(_read_rows(file), media_root)


def list_splits(path: Path) -> list[str]:
    """The names of the splits in a data set's folder."""
    return sorted(file.stem for file in (path / DATA_FOLDER).glob("*.parquet"))


def _missing(path: Path, split: str) -> DataError:
    known = list_splits(path)
    if known:
        return DataError(
            f"the data set {str(path)!r} has no split {split!r}",
            why=f"It has: {', '.join(known)}.",
            fix="Name one of them.",
        )
    return DataError(
        f"there is no data set at {str(path)!r}",
        why=f"A data set is a folder with {DATA_FOLDER}/train.parquet, or one .parquet file.",
        fix="Make one with: mmdpo build BUILDER ... --out FOLDER",
    )


def _common_form(splits: Mapping[str, Records]) -> Form:
    forms = {records.form for records in splits.values() if len(records)}
    if not forms:
        raise DataError(
            "there are no records to save",
            why="An empty data set would only fail later.",
            fix="See quality.json and set_aside.jsonl for what happened to the rows.",
        )
    return forms.pop() if len(forms) == 1 else "list"


def _common_root(splits: Mapping[str, Records]) -> Path | None:
    roots = {records.media_root.resolve() for records in splits.values() if records.media_root is not None}
    if len(roots) > 1:
        raise DataError(
            f"the splits have different media roots: {', '.join(sorted(map(str, roots)))}",
            why="One data set has one media root.",
            fix="Save them with embed=True, or move the media under one folder.",
        )
    return roots.pop() if roots else None


def _portable_root(media_root: Path, out: Path) -> str:
    """Relative for media inside the data set or next to it, which move along with it; absolute otherwise."""
    home = out.resolve().parent
    resolved = media_root.resolve()
    return os.path.relpath(resolved, out.resolve()) if resolved.is_relative_to(home) else str(resolved)


def _trusted_root(folder: Path, info: Mapping[str, Any]) -> Path:
    """The media root that a data set names for itself, as far as it may.

    Raises:
        DataError: The root is the whole file system, or lies neither inside the data set nor beside it and the data
            set is not where it was written: then it speaks of somebody else's folders.
    """
    root, top = (folder / str(info["media_root"])).resolve(), Path(folder.anchor)
    nearby = root.is_relative_to(folder if folder.parent == top else folder.parent)
    at_home = info.get("folder") == str(folder)
    if root != top and (nearby or at_home):
        return root
    raise DataError(
        f"the data set {str(folder)!r} names {info['media_root']!r} as its media root",
        why="A data set that was moved or comes from elsewhere could otherwise read any picture of this machine.",
        fix="Say where its media are: data.media_root=FOLDER in a run, load_records(..., media_root=FOLDER) in Python, "
        "or its own media_root in info.json, relative to the data set, with the media beside it.",
    )


def _with_hashes(record: Record, media_root: Path | None) -> Record:
    """The record with the content hash of every media file that is there."""
    with _naming(record):
        media = {name: tuple(_with_hash(item, media_root) for item in items) for name, items in record.media.items()}
    return replace(record, media=media)


def _to_row(
    record: Record, form: Form, media_fields: list[str], media_root: Path | None, embed: bool
) -> dict[str, Any]:
    with _naming(record):
        return to_row(record, form, media_fields, media_root, embed)


@contextmanager
def _naming(record: Record) -> Iterator[None]:
    """Errors of media also say whose they are."""
    try:
        yield
    except MediaError as error:
        raise MediaError(error.kind, f"record {record.id!r}: {error.what}", why=error.why, fix=error.fix) from error


def _with_hash(item: Media, media_root: Path | None) -> Media:
    if item.sha256 is not None:
        return item
    try:
        return replace(item, sha256=content_hash(item, media_root))
    except MediaError as error:
        if error.kind == "missing_media":  # allowed: text and paths alone, with the media somewhere else
            return item
        raise


def _read_rows(file: Path) -> Iterator[Record]:
    """The rows of a file, a batch at a time. Read through Arrow alone: `datasets` would decode and cache."""
    index = 0
    for batch in _batches(file):
        for row in batch.to_pylist():
            try:
                yield from_row(row, index)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                raise DataError(
                    f"row {index} of {str(file)!r} is not a record: {type(error).__name__} {error}",
                    why="It lacks a column, or a column has another shape than docs/data.md says.",
                    fix="Bring the data through a builder: mmdpo ls builders",
                ) from error
            index += 1


def _batches(file: Path) -> Iterator[pyarrow.RecordBatch]:
    try:
        yield from pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=ROWS_PER_GROUP)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(
            f"the file {str(file)!r} is damaged or no Parquet file: {error}",
            why="None of its rows can be trusted.",
            fix="Copy it again, or build the data set again.",
        ) from error
