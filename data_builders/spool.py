"""More items than memory should hold, grouped by a key: through files, a part at a time."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

IN_MEMORY = 250_000
"""Items of a part; more than that go through files. A rating of a caption takes about 500 bytes."""

T = TypeVar("T")


class Spool(Generic[T]):
    """Takes items and gives them back in parts, all items of one key in the same part and in their order.

    Up to ``limit`` items stay in memory, as one part. What is beyond goes to a JSON-lines file, and from there to one
    file for each part when they are asked for.

    Args:
        path: Where its files go; they are removed when the parts have been read.
        dump: From an item to what JSON can hold.
        load: And back.
        limit: Items in memory.
    """

    def __init__(
        self, path: Path, dump: Callable[[T], Any], load: Callable[[Any], T], *, limit: int = IN_MEMORY
    ) -> None:
        self.n = 0
        self._path, self._dump, self._load, self._limit = path, dump, load, limit
        self._kept: list[T] = []
        self._path.unlink(missing_ok=True)  # of a build that was interrupted: its rows are read again

    def extend(self, items: Iterable[T]) -> None:
        """Takes items."""
        for item in items:
            self._kept.append(item)
            self.n += 1
            if len(self._kept) > self._limit:
                self._spill()

    def __iter__(self) -> Iterator[T]:
        """Every item in its order."""
        if self._path.exists():
            with self._path.open(encoding="utf-8", errors="surrogatepass") as lines:
                yield from (self._load(json.loads(line)) for line in lines)
        yield from self._kept

    def parts(self, key: Callable[[T], str]) -> Iterator[list[T]]:
        """The items in parts of about ``limit``, those with the same key together."""
        if not self._path.exists():
            yield self._kept
            return
        count = -(-self.n // self._limit)
        paths = [self._path.with_name(f"{self._path.name}.{number}") for number in range(count)]
        files = [path.open("w", encoding="utf-8", errors="surrogatepass") for path in paths]
        for item in self:
            file = files[zlib.crc32(key(item).encode("utf-8", "surrogatepass")) % count]
            file.write(json.dumps(self._dump(item), ensure_ascii=False) + "\n")
        for file in files:
            file.close()
        self._path.unlink()
        self._kept = []
        for path in paths:
            with path.open(encoding="utf-8", errors="surrogatepass") as lines:
                yield [self._load(json.loads(line)) for line in lines]
            path.unlink()

    def _spill(self) -> None:
        with self._path.open("a", encoding="utf-8", errors="surrogatepass") as file:
            file.writelines(json.dumps(self._dump(item), ensure_ascii=False) + "\n" for item in self._kept)
        self._kept = []
