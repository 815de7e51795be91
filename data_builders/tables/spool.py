"""More items than memory should hold, grouped by a key: through files, a part at a time."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

from mmdpo.media import Media

IN_MEMORY = 250_000
"""Items of a part; more than that go through files. A rating of a caption takes about 500 bytes."""

LARGEST = 128 * 2**20
"""Characters of a part as JSON: answers of thousands of characters fill memory before there are so many items."""
_EACH = 100  # of so many items one is measured

T = TypeVar("T")


class Spool(Generic[T]):
    """Takes items and gives them back in parts, all items of one key in the same part and in their order.

    Up to ``limit`` items, or `LARGEST` characters of them, stay in memory, as one part. What is beyond goes to a
    JSON-lines file, and from there to one file for each part when they are asked for.

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
        self._size = self._kept_size = 0
        self._path.unlink(missing_ok=True)  # of a build that was interrupted: its rows are read again

    def extend(self, items: Iterable[T]) -> None:
        """Takes items."""
        for item in items:
            self._kept.append(item)
            if self.n % _EACH == 0:
                size = _EACH * len(json.dumps(self._dump(item)))
                self._size, self._kept_size = self._size + size, self._kept_size + size
            self.n += 1
            if len(self._kept) > self._limit or self._kept_size > LARGEST:
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
        count = max(-(-self.n // self._limit), -(-self._size // LARGEST))
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
        self._kept, self._kept_size = [], 0


def as_lists(kind: type[T]) -> tuple[Callable[[T], list[Any]], Callable[[list[Any]], T]]:
    """How a spool writes and reads a dataclass: a list of its fields, media as path and content hash.

    Args:
        kind: Its field `media` is an item without bytes; its other fields are what JSON can hold.
    """
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    values, place = attrgetter(*names), names.index("media")
    made: Callable[..., T] = kind

    def dump(item: T) -> list[Any]:
        given = list(values(item))
        given[place] = [given[place].path, given[place].sha256]
        return given

    def load(given: list[Any]) -> T:
        return made(*given[:place], Media(*given[place]), *given[place + 1 :])

    return dump, load
