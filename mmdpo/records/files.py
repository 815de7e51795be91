"""A data set on disk: Parquet files that `datasets` and TRL read as they are, and an `info.json` beside them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from mmdpo.errors import DataError
from mmdpo.jsonfiles import read_json
from mmdpo.records.checks import require_valid
from mmdpo.records.record import Record, Records
from mmdpo.records.rows import from_row, row_groups
from mmdpo.records.staging import DATA_FOLDER, INFO_FILE, SCHEMA_VERSION, Staging, file_name

_PART = re.compile(r"-\d{5}-of-\d{5}$")


def save_records(
    records: Records | Mapping[str, Records],
    out: str | Path,
    *,
    embed: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `OUT/data/SPLIT.parquet` and `OUT/info.json`.

    Args:
        records: The records of split `train`, or records by split.
        out: Folder to make; it must not hold a data set already.
        embed: Store the bytes of the media in the Parquet file in place of paths. Media that have no file are
            always embedded.
        provenance: Anything that JSON can hold: which builder, with what configuration.

    Returns:
        The folder.

    Raises:
        DataError: The folder already holds a data set, the splits mix forms, or media to embed cannot be read.
    """
    out = Path(out)
    splits = {"train": records} if isinstance(records, Records) else dict(records)
    if (out / DATA_FOLDER).exists() or (out / INFO_FILE).exists():
        raise DataError(
            f"the folder {str(out)!r} already holds a data set",
            why="Nothing is overwritten: a run may depend on it.",
            fix="Choose another folder, or remove this one first.",
        )
    if not any(map(len, splits.values())):
        raise DataError(
            "there are no records to save",
            why="An empty data set would only fail later.",
            fix="See quality.json and set_aside.jsonl for what happened to the rows.",
        )
    media_root = _common_root(splits)
    for name, part in splits.items():
        require_valid(part, f"split {name!r}")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=out) as scratch:
        staging = Staging(Path(scratch), media_root, embed=embed)
        names = []
        for name, part in splits.items():
            staging.start_split()
            for record in part:
                staging.add(record)
                names.append(name)
        staging.finish(out, names, dict(provenance or {}))
    return out


def load_records(path: str | Path, *, split: str = "train", media_root: str | Path | None = None) -> Records:
    """Reads one split of a data set that `save_records` or a builder wrote.

    Args:
        path: The data set's folder, or one Parquet file with the columns of docs/records.md.
        split: Which split of the folder; a file has the split of its name alone, which `train` always means.
        media_root: Folder of the media, when it is not where the data set says.

    Raises:
        DataError: There is no such data set or split, a row is not a record, or the data set names a media root that
            it may not choose.
    """
    files, root = open_split(Path(path), split, None if media_root is None else Path(media_root))
    return Records(read_rows(files), root)


def open_split(path: Path, split: str, media_root: Path | None = None) -> tuple[list[Path], Path | None]:
    """The files of one split, for `read_rows`, and the folder of its media; arguments and errors of `load_records`."""
    if path.suffix == ".parquet":
        if split not in ("train", path.stem):
            raise DataError(
                f"the file {str(path)!r} has no split {split!r}",
                why="A file holds the rows of one split, whatever their name.",
                fix="Give the data set's folder, or the file of that split.",
            )
        files, folder = [path], path.parent.parent
    else:
        files, folder = split_files(path, split), path
    if not files or not all(file.is_file() for file in files):
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
    return files, media_root


def list_splits(path: Path) -> list[str]:
    """The names of the splits in a data set's folder."""
    return sorted({_PART.sub("", file.stem) for file in (path / DATA_FOLDER).glob("*.parquet")})


def split_files(path: Path, split: str) -> list[Path]:
    """The files of one split, in their order; empty where there is no such split.

    Raises:
        DataError: One of several files is missing.
    """
    folder = path / DATA_FOLDER
    if (folder / f"{split}.parquet").is_file():
        return [folder / f"{split}.parquet"]
    parts = sorted(file for file in folder.glob("*.parquet") if _PART.sub("", file.stem) == split)
    if not parts:
        return []
    count = int(parts[0].stem.rpartition("-")[2])
    files = [folder / file_name(split, number, count) for number in range(count)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(
            f"of the {count} files of split {split!r} in {str(folder)!r}, {len(missing)} are missing: {missing[0]}",
            why="A part of the records would be left out without a word.",
            fix="Copy the whole folder again, or build the data set again.",
        )
    return files


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


def _common_root(splits: Mapping[str, Records]) -> Path | None:
    roots = {records.media_root.resolve() for records in splits.values() if records.media_root is not None}
    if len(roots) > 1:
        raise DataError(
            f"the splits have different media roots: {', '.join(sorted(map(str, roots)))}",
            why="One data set has one media root.",
            fix="Save them with embed=True, or move the media under one folder.",
        )
    return roots.pop() if roots else None


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


def read_rows(files: Sequence[Path]) -> Iterator[Record]:
    """The rows of some files, a batch at a time. Read through Arrow alone: `datasets` would decode and cache."""
    index = 0
    for file in files:
        for batch in _batches(file):
            for row in batch.to_pylist():
                try:
                    yield from_row(row, index)
                except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                    raise DataError(
                        f"row {index} of {str(file)!r} is not a record: {type(error).__name__} {error}",
                        why="It lacks a column, or a column has another shape than docs/records.md says.",
                        fix="Bring the data through a builder: mmdpo ls builders",
                    ) from error
                index += 1


def _batches(file: Path) -> Iterator[pyarrow.RecordBatch]:
    try:
        yield from row_groups(file)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(
            f"the file {str(file)!r} is damaged or no Parquet file: {error}",
            why="None of its rows can be trusted.",
            fix="Copy it again, or build the data set again.",
        ) from error
