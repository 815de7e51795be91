"""Media that come as bytes inside a table, on disk while the records are built: a table may hold many gigabytes."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmdpo.media import Media
from mmdpo.records import Record
from mmdpo.records.checks import is_unicode


class MediaStore:
    """Takes the bytes of media items and gives them back; an item without them has its content hash alone.

    Args:
        folder: Where they lie, each in a file that is called as its hash. Made when the first one comes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: set[str] = set()

    def __contains__(self, item: Media) -> bool:
        return item.data is None and item.sha256 in self._held

    def light(self, item: Media) -> Media:
        """The item without its bytes, which are on disk from now on; one without bytes stays as it is."""
        if item.data is None:
            return item
        sha256 = hashlib.sha256(item.data).hexdigest()
        if sha256 not in self._held:
            self._write(sha256, item.data)
            self._held.add(sha256)
        return Media(item.path, sha256)

    def light_cells(self, cells: Mapping[str, Any]) -> Mapping[str, Any]:
        """The cells of a row, with items in place of objects with bytes."""
        embedded = {name: cell for name, cell in cells.items() if _has_bytes(cell)}
        return {**cells, **{name: self.light(_item(cell)) for name, cell in embedded.items()}} if embedded else cells

    def light_record(self, record: Record) -> Record:
        """A record whose media are without their bytes."""
        if all(item.data is None for _, item in record.media_items()):
            return record
        return replace(record, media={name: tuple(map(self.light, items)) for name, items in record.media.items()})

    def whole(self, item: Media) -> Media:
        """The item with its bytes, if they were taken here."""
        return replace(item, data=(self._folder / str(item.sha256)).read_bytes()) if item in self else item

    def whole_record(self, record: Record) -> Record:
        """A record whose media have their bytes."""
        if not any(item in self for _, item in record.media_items()):
            return record
        return replace(record, media={name: tuple(map(self.whole, items)) for name, items in record.media.items()})

    def _write(self, sha256: str, data: bytes) -> None:
        path = self._folder / sha256
        if path.exists():  # of before an interruption
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f"{sha256}.{os.getpid()}.{threading.get_ident()}")  # several processes may build together
        half.write_bytes(data)
        half.replace(path)


def _has_bytes(cell: Any) -> bool:
    return isinstance(cell, Mapping) and isinstance(cell.get("bytes"), bytes | bytearray) and bool(cell["bytes"])


def _item(cell: Mapping[str, Any]) -> Media:
    """What `datasets` stores of an embedded image."""
    path = cell.get("path")
    return Media(path if isinstance(path, str) and is_unicode(path) else None, data=bytes(cell["bytes"]))
