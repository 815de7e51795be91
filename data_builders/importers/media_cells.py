"""Media as other formats write them: paths, data-URIs, URLs, bytes, arrays of samples, lists of frames."""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from data_builders.importers.unusable import Unusable
from data_builders.tables.rows import named_kind
from mmdpo.media import Media, MediaError, frame_paths, resolve_path
from mmdpo.records.checks import is_unicode

MAX_BYTES = 64 * 2**20
"""Largest item that is taken out of a data-URI or fetched: 64 MiB."""
FETCH_SECONDS = 30
"""How long an address may take to answer."""

_DATA_URI = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w=.+-]+)*;base64,", re.IGNORECASE)


class MediaReader:
    """Makes media items of what a row holds.

    Args:
        root: Folder that paths are relative to; None where only bytes can be used.
        optional: Whether an item whose file is absent stays as a path.
        allow_remote: Whether addresses are fetched, and their bytes kept.
    """

    def __init__(self, root: Path | None, *, optional: bool = False, allow_remote: bool = False) -> None:
        self._root, self._optional, self._allow_remote = root, optional, allow_remote

    def items(self, field: str, values: Sequence[Any]) -> tuple[Media, ...]:
        """The items of one field of a row.

        Raises:
            Unusable: One of them is of no known kind, is not there, leads out of the root, or is remote.
        """
        return tuple(self._item(field, value) for value in values)

    def _item(self, field: str, value: Any) -> Media:
        if isinstance(value, str) and value:
            return self._named(value)
        if isinstance(value, bytes | bytearray):
            return Media(data=bytes(value))
        if isinstance(value, Mapping):
            return self._object(value)
        if field == "videos" and isinstance(value, list | tuple) and value:
            return self._frames(value)
        raise Unusable("unknown_media", f"one of the {field} is {named_kind(value)}", value)

    def _object(self, value: Mapping[str, Any]) -> Media:
        """What `datasets` makes of images and sounds: bytes, a path, or samples with their rate."""
        data, path, rate = value.get("bytes"), value.get("path"), value.get("sampling_rate")
        if data:
            if isinstance(data, bytes | bytearray):
                return Media(path=path if isinstance(path, str) and is_unicode(path) else None, data=bytes(data))
            raise Unusable("unknown_media", f"the bytes of a media item are {named_kind(data)}", path)
        if value.get("array") is not None:
            return Media(data=_wave(value["array"], rate))
        if isinstance(path, str) and path:
            return self._named(path)
        raise Unusable("unknown_media", f"a media item has the keys {sorted(map(str, value))}")

    def _named(self, name: str) -> Media:
        if name[:5].lower() == "data:":
            return Media(data=_decoded(name))
        if not is_unicode(name):
            raise Unusable("bad_text", "the path is not valid UTF-8", ascii(name))
        if self._allow_remote and name.lower().startswith(("http://", "https://")):
            return Media(path=Path(re.split(r"[?#]", name)[0]).name, data=_fetched(name))
        path = self._relative(name.removeprefix("file://"))
        try:
            if frame_paths(Media(path), self._root) is None:
                resolve_path(path, self._root)
        except MediaError as error:
            if not (self._optional and error.kind == "missing_media"):
                raise Unusable(error.kind, error.what, name) from error
        return Media(path=path)

    def _relative(self, name: str) -> str:
        """A path from the root on; absolute ones that lie below it are made relative, so that it can be moved."""
        if self._root is None or not Path(name).is_absolute():
            return name
        root = Path(os.path.normpath(self._root.absolute()))
        path = Path(os.path.normpath(name))
        return str(path.relative_to(root)) if path.is_relative_to(root) else name

    def _frames(self, frames: Sequence[Any]) -> Media:
        """A video as a list of its frames, which must be all files of one folder in their order."""
        if not all(isinstance(frame, str) for frame in frames):
            raise Unusable("video_frames", "a list of frames holds something else than paths")
        paths = [self._named(frame).path or "" for frame in frames]
        folder = Media(str(Path(paths[0]).parent))
        if folder.path == "." or frame_paths(folder, self._root) != paths:
            raise Unusable(
                "video_frames",
                "a list of frames is a video here only if it names all files of a folder of their own, in their order",
                paths[0],
            )
        return folder


def _decoded(uri: str) -> bytes:
    head = _DATA_URI.match(uri)
    if head is None:
        raise Unusable("bad_data_uri", "the data-URI is not base64", uri[:60])
    if (len(uri) - head.end()) * 3 // 4 > MAX_BYTES:
        raise Unusable("too_large", f"the data-URI holds more than {MAX_BYTES} bytes", uri[:60])
    try:
        return base64.b64decode(uri[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unusable("bad_data_uri", f"the data-URI cannot be decoded: {error}", uri[:60]) from error


def _fetched(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=FETCH_SECONDS) as answer:
            data: bytes = answer.read(MAX_BYTES + 1)
    except (OSError, ValueError, HTTPException) as error:  # no connection, no such page, no address
        raise Unusable("not_fetched", f"the address could not be fetched: {error}", address) from error
    if len(data) > MAX_BYTES:
        raise Unusable("too_large", f"the address gives more than {MAX_BYTES} bytes", address)
    return data


def _wave(samples: Any, rate: Any) -> bytes:
    """Samples, as `datasets` decodes a sound, in a wav file of 32-bit floats, which holds them as they are."""
    try:
        array = np.asarray(samples, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise Unusable("unknown_media", f"the samples of a sound are no numbers: {error}") from error
    if array.ndim != 1 or not len(array) or type(rate) is not int or rate < 1:
        raise Unusable("unsupported_audio", f"a sound of shape {array.shape} at the rate {rate!r}; one channel is read")
    buffer = io.BytesIO()
    soundfile.write(buffer, array, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()
