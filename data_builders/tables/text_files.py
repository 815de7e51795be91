"""Text files of tables: any encoding, compressed or not, read as often as it is asked for."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from mmdpo.errors import ConfigError, DataError


class TextFile:
    """A text file, opened anew for each pass. Bytes that are no text become half surrogates, which mark their row."""

    def __init__(self, path: Path, encoding: str | None) -> None:
        self.path = path
        with _naming(path), self._open_bytes() as file:
            found = json.detect_encoding(file.read(4))  # by the mark, or by where the zero bytes are
        self.encoding = encoding or ("utf-8-sig" if found == "utf-8" else found)
        require_encoding(self.encoding)

    def open(self) -> TextIO:
        """The file as text with its line ends as they are."""
        return io.TextIOWrapper(self._open_bytes(), encoding=self.encoding, errors="surrogateescape", newline="")

    @contextmanager
    def reading(self) -> Iterator[TextIO]:
        """The same; what is wrong with the file itself becomes an error of the table.

        Raises:
            DataError: A compressed file is damaged, or the text is cut off in the middle of a letter.
        """
        with _naming(self.path), self.open() as text:
            yield text

    def _open_bytes(self) -> BinaryIO:
        return gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb")  # type: ignore[return-value]


def require_encoding(name: str) -> None:
    """Refuses the name of an encoding that does not exist.

    Raises:
        ConfigError: It is none.
    """
    try:
        codecs.lookup(name)
    except LookupError as error:
        raise ConfigError(
            f"there is no encoding {name!r}", fix="Usual ones are utf-8, utf-16, latin-1 and cp1252."
        ) from error


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, UnicodeError) as error:
        raise DataError(
            f"the table {str(path)!r} cannot be read: {error}",
            why="Behind such a place no row can be trusted.",
            fix="Copy it again, or say in which encoding it is: encoding=latin-1",
        ) from error
