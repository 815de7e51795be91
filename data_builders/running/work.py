"""What a builder works with while it builds: the ledger, a scratch folder, checked media, numbers and notes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from data_builders.care.media_store import MediaStore
from data_builders.running.ledger import Ledger
from mmdpo.jsonfiles import append_json_line, read_json_lines
from mmdpo.media import MAX_PIXELS, Media, MediaError, frame_paths, open_image, read_bytes
from mmdpo.modalities.base import modality_of
from mmdpo.progress import Progress
from mmdpo.records import media_field
from mmdpo.records.staging import is_plainly_absent
from mmdpo.shard import Shard

THREADS = max(4, os.cpu_count() or 4)
"""Decoding and hashing leave Python's lock, reading waits for the disk."""
_BLOCK = 4096  # items that wait for a thread at a time: each takes a kilobyte


@dataclass
class Work:
    """What a builder works with.

    Args:
        scratch: Folder that outlives an interrupted build; what is in it is there again when the build goes on.
        ledger: The account of every row.
        progress: Wraps long loops for a progress bar.
        quality: The builder's own numbers for `quality.json`.
        notes: What a person should know beside the counts.
        shard: Which of several processes this is; None where there is one, or the builder does not share its work.
    """

    scratch: Path
    ledger: Ledger
    progress: Progress = iter
    quality: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    shard: Shard | None = None
    _journals: dict[Path | None, MediaJournal] = field(default_factory=dict)

    @cached_property
    def store(self) -> MediaStore:
        """Keeps the bytes of media that came inside a table; what is yielded gets them back."""
        return MediaStore(self.scratch / "media")

    def checked_media(
        self,
        items: Iterable[Media],
        root: Path | None,
        *,
        modality: str = "image",
        optional: bool = False,
        decode: Callable[[Media], object] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> dict[Media, Media | MediaError]:
        """Each distinct item with its content hash, or why it cannot be used; in parallel, and once over all resumes.

        Args:
            items: The items; repeated ones are looked at once.
            root: Folder of their files.
            modality: What they are: `image`, `audio`, or any registered modality.
            optional: Whether an item whose file is absent stays as it is.
            decode: Opens an item's bytes, which finds damage behind the header; by default as the modality does.
            max_pixels: Largest image that is decoded.
        """
        opened = decode or _decoder(modality, max_pixels)
        distinct = list(dict.fromkeys(items))
        if root not in self._journals:  # read once: builders ask block after block
            self._journals[root] = MediaJournal(self.scratch / "media.jsonl", root)
        journal = self._journals[root]

        def check(item: Media) -> Media | MediaError:
            if item in self.store:
                return _in_store(item, self.store, opened)
            if optional and is_plainly_absent(item, root):
                return item
            known = journal.find(item)
            if known is not None and item.sha256 in (None, known):
                return replace(item, sha256=known)
            try:
                result = _checked(item, root, opened)
            except MediaError as error:
                return item if optional and error.kind == "missing_media" else error
            journal.add(item, result)
            return result

        with ThreadPoolExecutor(THREADS) as pool:
            blocks = (distinct[start : start + _BLOCK] for start in range(0, len(distinct), _BLOCK))
            found = (result for block in blocks for result in pool.map(check, block))
            return dict(zip(distinct, self.progress(found) if len(distinct) > 1000 else found, strict=True))


class MediaJournal:
    """Hashes of the files that were found sound, by path, size and time of change.

    Args:
        path: Its file.
        root: Folder of the media.
    """

    def __init__(self, path: Path, root: Path | None) -> None:
        self._path, self._root = path, root
        rows = read_json_lines(path).rows
        self._known = {(row["path"], row["size"], row["changed"]): row["sha256"] for row in rows}

    def find(self, item: Media) -> str | None:
        """The hash of an item that was found sound before and has not changed since."""
        key = self._key(item) if self._known else None
        return None if key is None else self._known.get(key)

    def add(self, item: Media, checked: Media) -> None:
        """Keeps the hash of an item that was found sound."""
        key = self._key(item)
        if key is not None and checked.sha256 is not None:
            path, size, changed = key
            append_json_line(self._path, {"path": path, "size": size, "changed": changed, "sha256": checked.sha256})
            self._known[key] = checked.sha256

    def _key(self, item: Media) -> tuple[str, int, int] | None:
        if item.path is None or item.data is not None or self._root is None:
            return None
        try:
            status = (self._root / item.path).stat()
        except OSError:
            return None
        return item.path, status.st_size, status.st_mtime_ns


def _decoder(modality: str, max_pixels: int) -> Callable[[Media], object]:
    if modality == "image":
        return lambda media: open_image(media, None, max_pixels=max_pixels)
    return lambda media: modality_of(media_field(modality)).load(media, None)


def _in_store(item: Media, store: MediaStore, decode: Callable[[Media], object]) -> Media | MediaError:
    try:
        decode(store.whole(item))
    except MediaError as error:
        return error
    return item


def _checked(item: Media, root: Path | None, decode: Callable[[Media], object]) -> Media:
    if frame_paths(item, root) is not None:  # a video as a folder of frames: hashed when it is saved
        return item
    data = read_bytes(item, root)
    decode(Media(item.path, data=data))
    return replace(item, sha256=Media(data=data).identity)
