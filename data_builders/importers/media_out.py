"""Media on their way out: copied beside the rows, named where they lie, or embedded as bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from data_builders.importers.unusable import Unusable
from mmdpo.media import Media, MediaError, frame_paths, read_bytes, resolve_path
from mmdpo.records import Record

MediaMode = Literal["copy", "paths"]
FOLDER = "media"

_SIGNATURES = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"fLaC", ".flac"),
    (b"OggS", ".ogg"),
    (b"ID3", ".mp3"),
)


class MediaOut:
    """Gives the media of records in the ways in which formats want them, and writes files where they need some.

    Args:
        root: Folder that the records' paths are relative to.
        staged: Folder in which the export is written.
        out: Folder that it will be, which paths are relative to.
        mode: `copy` puts every file below `media/`; `paths` names files where they lie.
        fields: Media fields that occur among the records.
        used: Media fields that the format can hold.
    """

    def __init__(
        self, root: Path | None, staged: Path, out: Path, mode: MediaMode, fields: Iterable[str], used: Iterable[str]
    ) -> None:
        self.fields = tuple(name for name in used if name in set(fields))
        self.copied = self.embedded = 0
        self._root, self._staged, self._out, self._mode, self._used = root, staged, out, mode, tuple(used)
        self._names: dict[tuple[str | None, ...], str] = {}
        self._taken: set[str] = set()

    def require_known(self, record: Record) -> None:
        """Refuses a record with media that the format has no place for.

        Raises:
            Unusable: It has some.
        """
        other = next((name for name, items in record.media.items() if items and name not in self._used), None)
        if other is not None:
            raise Unusable("media_not_supported", f"the format has no place for {other}")

    def paths(self, record: Record, field: str) -> list[str]:
        """The items of a field as paths relative to the output; files are copied as far as they must be.

        Raises:
            Unusable: A file is missing, has changed, or leads out of the media root.
        """
        try:
            return [self._path(item) for item in record.media.get(field, ())]
        except MediaError as error:
            raise Unusable(error.kind, error.what) from error

    def columns(self, record: Record) -> dict[str, list[str]]:
        """The items of every field that occurs, as columns of paths; empty lists where a record has none."""
        return {name: self.paths(record, name) for name in self.fields}

    def cells(self, record: Record, field: str) -> list[dict[str, Any]]:
        """The items of a field as bytes with a name, as `datasets` embeds them.

        Raises:
            Unusable: As `paths`; or one is a folder of frames.
        """
        try:
            items = record.media.get(field, ())
            cells = [{"bytes": read_bytes(item, self._root), "path": _base(item)} for item in items]
        except MediaError as error:
            raise Unusable(error.kind, error.what) from error
        self.embedded += len(cells)
        return cells

    def _path(self, item: Media) -> str:
        key = (item.path, item.sha256) if item.data is None else (item.identity,)
        if key not in self._names:
            self._names[key] = self._placed(item)
        return self._names[key]

    def _placed(self, item: Media) -> str:
        frames = frame_paths(item, self._root)
        if self._mode == "paths" and item.data is None:
            first = frames[0] if frames else item.path or ""
            file = resolve_path(first, self._root)
            if not frames:
                read_bytes(item, self._root)  # a changed file is noticed here as well
            return Path(os.path.relpath(file.parent if frames else file, self._out.resolve())).as_posix()
        if frames is not None:
            return self._copied_folder(item.path or "", frames)
        data = read_bytes(item, self._root)
        name = self._free(item.path if item.data is None else None, data, item.identity)
        target = self._staged / FOLDER / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        self.copied += 1
        return f"{FOLDER}/{name}"

    def _copied_folder(self, path: str, frames: list[str]) -> str:
        """Copies the frames of a video."""
        name = self._free(path.rstrip("/"), b"", path)
        for frame in frames:
            target = self._staged / FOLDER / name / PurePosixPath(frame).name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(resolve_path(frame, self._root), target)
        self.copied += 1
        return f"{FOLDER}/{name}"

    def _free(self, path: str | None, data: bytes, identity: str) -> str:
        """A name below `media/`: the item's path where it stays inside, else made of its content."""
        pure = None if path is None else PurePosixPath(os.path.normpath(path))
        if pure is None or pure.is_absolute() or ".." in pure.parts:
            suffix = pure.suffix if pure is not None else _suffix(data)
            name = f"{identity.removeprefix('path:')[:16] if pure is None else _digest(path or '')}{suffix}"
        else:
            name = pure.as_posix()
        while name in self._taken:
            name = f"_{name}"
        self._taken.add(name)
        return name


def _digest(text: str) -> str:
    return Media(data=text.encode("utf-8", "surrogatepass")).identity[:16]


def _base(item: Media) -> str | None:
    return None if item.path is None else PurePosixPath(item.path).name


def _suffix(data: bytes) -> str:
    """What a file of these bytes is usually called, so that others open it; they go by names."""
    if data[:4] == b"RIFF":
        return {b"WEBP": ".webp", b"WAVE": ".wav", b"AVI ": ".avi"}.get(data[8:12], "")
    if data[4:8] == b"ftyp":
        return ".mp4"
    return next((suffix for start, suffix in _SIGNATURES if data.startswith(start)), "")
