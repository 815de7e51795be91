"""What models answered, kept as it comes: a build that is interrupted asks for nothing again."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdpo.errors import ConfigError
from mmdpo.jsonfiles import append_json_line, end_last_line
from mmdpo.shard import Shard


class Journal:
    """Rows by key, in memory only where they stand in their files.

    Several processes append to a file each; of the others' they find here what was there when they began, and after
    :meth:`gather` all. A line that a killed process left half written is as if it were not there.

    Args:
        scratch: Folder that outlives an interrupted build.
        name: First part of the files' names.
        shard: Which of the processes this is.
    """

    def __init__(self, scratch: Path, name: str, shard: Shard) -> None:
        self.shard = shard
        self._pattern = scratch, f"{name}.part-*.journal.jsonl"
        self._own = scratch / f"{name}.part-{shard.index}.journal.jsonl"
        self._lock = threading.Lock()
        self._places = self._read()
        shard.wait()  # nobody appends before everybody has read

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> dict[str, Any]:
        path, at = self._places[key]
        with path.open("rb") as file:
            file.seek(at)
            row: dict[str, Any] = json.loads(file.readline())
        return row

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Keeps a row. May be called from several threads."""
        with self._lock:
            at = end_last_line(self._own)
            append_json_line(self._own, {"key": key, **row})
            self._places.setdefault(key, (self._own, at))

    def gather(self) -> None:
        """Waits for all processes and finds everything that they wrote."""
        self.shard.wait()
        self._places = self._read()

    def require_same(self, name: str, value: str) -> None:
        """Refuses to go on with something else than what the rows were made with.

        Args:
            name: What it is.
            value: A fingerprint of it.

        Raises:
            ConfigError: Before it was another.
        """
        key = f"made with {name}"
        if key not in self:
            self.add(key, {"value": value})
        elif self[key]["value"] != value:
            raise ConfigError(
                f"{name} is not what the interrupted build was made with",
                why="Answers of two models would stand in the records as those of one.",
                fix="Give the model that it began with, or choose another --out.",
            )

    def _read(self) -> dict[str, tuple[Path, int]]:
        """Where the row of each key begins; of two the first counts."""
        found: dict[str, tuple[Path, int]] = {}
        folder, pattern = self._pattern
        for path in sorted(folder.glob(pattern)):
            with path.open("rb") as file:
                at = 0
                for line in file:
                    key = _key(line)
                    if key is not None:
                        found.setdefault(key, (path, at))
                    at += len(line)
        return found


def _key(line: bytes) -> str | None:
    try:
        return str(json.loads(line)["key"])
    except (ValueError, LookupError, TypeError):
        return None
