"""Media items inside a page: something to look at for each, a player for sounds, or the reason why there is neither."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from mmdpo.errors import MMDPOError
from mmdpo.media import Media, MediaError, open_image, read_bytes
from mmdpo.media.audio import Audio, open_audio
from mmdpo.media.video import Video, open_video
from mmdpo.report.sketches import sketch, spectrum

CLIP_BYTES = 2_500_000
"""Largest sound file that is put into a page: ten seconds in stereo as on a compact disc have 1.8 million bytes."""
PAGE_BYTES = 8_000_000
"""Most characters that the sounds of one page take together."""
PHOTO, FRAME = 320, 200
"""Longest side of a photo and of a video's frame in a page, in pixels."""
SMALL = 128
"""Pictures up to this side are kept as they are (PNG) and enlarged without blur by the page."""
FRAMES = 4
"""Frames that are shown of a video."""

_SOUND_TYPES = {b"RIFF": "wav", b"fLaC": "flac", b"OggS": "ogg"}
_OPENERS: dict[str, Callable[[Media, Path | None], Any]] = {
    "images": open_image,
    "audios": open_audio,
    "videos": partial(open_video, frames=FRAMES),
}


@dataclass(frozen=True)
class Exhibit:
    """One media item as a page shows it.

    Args:
        pictures: Data URIs: one picture, or the frames of a video.
        what: What the pictures show, for those who do not see them.
        look: ``photo``; ``drawn`` for small drawings, enlarged without blur; ``chart`` for what fills a lower place;
            ``table`` for both.
        sound: Data URI of the sound, where it is played.
        caption: Name and measures, where the pictures do not say enough.
        missing: Why there is nothing to see.
    """

    pictures: Sequence[str] = ()
    what: str = ""
    look: Literal["photo", "drawn", "chart", "table"] = "photo"
    sound: str | None = None
    caption: str = ""
    missing: str = ""


class Exhibits:
    """Shows the media items of one page, and stops putting sounds into it before it grows too large."""

    def __init__(self) -> None:
        self._left = PAGE_BYTES
        self._played: set[str] = set()

    def show(self, plural: str, media: Media, root: Path | None) -> Exhibit:
        """One item of a list of :attr:`mmdpo.Record.media`; what cannot be shown is said in its place."""
        if media.path is None and media.data is None:
            return Exhibit(missing="embedded in the records")
        # Folders travel: one from elsewhere could name the whole machine as its root, and so any file.
        if media.path is not None and root is not None and root.resolve() == Path(root.resolve().anchor):
            return Exhibit(caption=media.name, missing="outside root")
        try:
            return self._sound(media, root) if plural == "audios" else _shown(_opened(plural, media, root), media.name)
        except MediaError as error:
            reason = error.kind.replace("_", " ")
        except MMDPOError as error:
            reason = error.what
        except Exception as error:  # a modality is anybody's code: it may spoil its place, never the page
            reason = f"{type(error).__name__}: {error}"
        return Exhibit(caption=media.name, missing=reason)

    def _sound(self, media: Media, root: Path | None) -> Exhibit:
        """A clip with its spectrum, and a player where there is room for its bytes."""
        data = read_bytes(media, root)
        read = Media(media.path, data=data)
        shown = _shown(_opened("audios", read, None), media.name)
        if read.identity in self._played:
            return replace(shown, caption=f"{shown.caption} · plays further up")
        uri = f"data:audio/{_SOUND_TYPES.get(data[:4], 'mpeg')};base64,{base64.b64encode(data).decode('ascii')}"
        if len(data) > CLIP_BYTES:
            return replace(shown, caption=f"{shown.caption} · too large to play here ({len(data) / 1e6:.1f} MB)")
        if len(uri) > self._left:
            return replace(shown, caption=f"{shown.caption} · not played here: the page is full")
        self._left -= len(uri)
        self._played.add(read.identity)
        return replace(shown, sound=uri)


def embed(picture: Image.Image, side: int = PHOTO) -> tuple[str, bool]:
    """An opened picture as a data URI: small drawings as they are, photos reduced to a longest side.

    Returns:
        The URI, and whether it is a small drawing.
    """
    small = max(picture.size) <= SMALL
    if not small:
        picture = picture.copy()
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    kind = "png" if small else "jpeg"
    with io.BytesIO() as file:
        picture.save(file, format=kind, optimize=True, **({} if small else {"quality": 82}))
        data = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/{kind};base64,{data}", small


def _opened(plural: str, media: Media, root: Path | None) -> Any:
    opener = _OPENERS.get(plural)
    if opener is None:
        from mmdpo.modalities.base import modality_of  # needs torch, which other pages do without

        opener = modality_of(plural).load
    return opener(media, root)


def _shown(item: Any, name: str) -> Exhibit:
    """A decoded item by what it is: picture, sound, video or numbers; of anything else the name alone."""
    if isinstance(item, Image.Image):
        uri, small = embed(item.convert("RGB"))
        return Exhibit((uri,), "Picture", "drawn" if small else "photo")
    if isinstance(item, Audio):
        silent = "" if item.samples.any() else " · silent"
        caption = f"{name} · {item.seconds:,.2f} s · {item.rate / 1000:g} kHz{silent}"
        return Exhibit((spectrum(item),), "Spectrum", "chart", caption=caption)
    if isinstance(item, Video):
        frames = [embed(frame, FRAME) for frame in item.frames]
        length = f" · {item.seconds:,.2f} s" if item.seconds else ""
        caption = f"{name} · {len(frames)} of {item.total:,} frames{length}"
        return Exhibit(tuple(uri for uri, _ in frames), "Frames", "drawn" if frames[0][1] else "photo", caption=caption)
    values = np.asarray(item)
    if values.dtype.kind not in "fiu" or values.ndim not in (1, 2) or values.size == 0:
        return Exhibit(caption=name, missing="no picture for items of this kind")
    finite = "" if np.isfinite(values).all() else " · some are not finite"
    caption = f"{name} · {' × '.join(f'{size:,}' for size in values.shape)} numbers{finite}"
    return Exhibit((sketch(values),), "Values", "table", caption=caption)
