"""Media items found and read safely, and images opened; `audio` and `video` beside it open the others.

A media item is a path relative to the media root of its data set, or embedded bytes. Files come from strangers: paths
are kept inside their root, the size is judged from the header before anything is decoded, only common formats are
read (Pillow would otherwise start Ghostscript for an EPS file), and every failure is a `MediaError` with a short
stable `kind` under which a builder counts it.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmdpo.errors import DataError

MAX_PIXELS = 89_478_485
"""Largest width x height that is decoded: Pillow's own limit, a quarter of a gibibyte as RGB."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""What is decoded, as Pillow names it."""

_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
_SIDEWAYS_ORIENTATIONS = (5, 6, 7, 8)
_ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class Media:
    """One image, clip or other item: a path relative to the media root, embedded bytes, or both.

    Args:
        path: Path relative to the media root; with `data`, only the name that the bytes came under. A video may be a
            folder of frames.
        sha256: Hex digest of the file's bytes, where it is known. It identifies the item across paths.
        data: The bytes themselves, when they are embedded in the data set.
    """

    path: str | None = None
    sha256: str | None = None
    data: bytes | None = None

    @property
    def identity(self) -> str:
        """What tells this item from another: the content hash where it can be had, else the path."""
        if self.sha256 is not None:
            return self.sha256
        if self.data is not None:
            return hashlib.sha256(self.data).hexdigest()
        return f"path:{self.path}"

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.path if self.path is not None else f"embedded bytes {self.identity[:12]}"


class MediaError(DataError):
    """A media item that cannot be used.

    Args:
        kind: Short stable name of the reason: `missing_media`, `changed_media`, `outside_root`, `remote_url` or
            `folder_media` for any item; `not_an_image`, `truncated_image`, `unsupported_image` or
            `decompression_bomb` for images; those of sound and video are told by `open_audio` and `open_video`.
        what: What is wrong, with the value.
        why: Why it matters.
        fix: What can be done.
    """

    def __init__(self, kind: str, what: str, *, why: str = "", fix: str = "") -> None:
        self.kind = kind
        super().__init__(what, why=why, fix=fix)


def resolve_path(path: str, root: Path | None) -> Path:
    """The file of a path, symbolic links followed, provided that it lies inside the root.

    Raises:
        MediaError: The path is a URL, leaves the root, has no root to start from, or is not a file.
    """
    resolved = _inside(path, root)
    if not resolved.is_file():
        raise MediaError(
            "missing_media",
            f"the media file {path!r} is not under {str(root)!r}",
            why="The record cannot be shown to a model without it.",
            fix="Check the media root, or copy the missing files there.",
        )
    return resolved


def frame_paths(media: Media, root: Path | None) -> list[str] | None:
    """Paths of the frames of a folder in the order of their names; None where the item is no folder below the root.

    Numbers in names count as numbers, so that `frame10.png` follows `frame9.png`. Hidden files are left out.

    Raises:
        MediaError: As `resolve_path`, save that a file which is not there is left to whoever opens it.
    """
    if media.data is not None or media.path is None:
        return None
    folder = _inside(media.path, root)
    if not folder.is_dir() or (root is not None and folder == root.resolve()):
        return None
    names = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    return [f"{media.path.rstrip('/')}/{name}" for name in sorted(names, key=_numbers_as_numbers)]


def _numbers_as_numbers(name: str) -> tuple[list[str | int], str]:
    pieces = re.split(r"([0-9]+)", name)  # text and digits by turns, so that like is compared with like
    return [int(piece) if place % 2 else piece for place, piece in enumerate(pieces)], name


def _inside(path: str, root: Path | None) -> Path:
    """Where a path leads, symbolic links followed: inside the root, whether or not anything is there."""
    if "://" in path or path.startswith("data:"):
        raise MediaError(
            "remote_url",
            f"the media path {path[:120]!r} is a URL",
            why="Remote media can change or vanish between two runs, and a data set could make this machine call any "
            "address, so nothing is fetched.",
            fix="Download the files first and give their paths.",
        )
    if root is None:
        raise MediaError(
            "missing_media",
            f"the media path {path!r} has no media root",
            why="Paths are relative to the media root of the data set, and this one has none.",
            fix="Load the records with media_root=FOLDER.",
        )
    base = root.resolve()
    try:
        resolved = (base / path).resolve()
        resolved.exists()  # only this notices a name that is too long
    except (OSError, ValueError, RuntimeError) as error:  # that, a name with a NUL byte, a loop of links
        raise MediaError("missing_media", f"the media path {path[:120]!r} cannot be a file: {error}") from error
    if not resolved.is_relative_to(base):
        raise MediaError(
            "outside_root",
            f"the media path {path!r} leads outside the media root {str(base)!r}",
            why="A data set could otherwise read any file of this machine.",
            fix="Move the file under the media root, or choose a root that holds both.",
        )
    return resolved


def read_bytes(media: Media, root: Path | None) -> bytes:
    """The item's bytes, checked against its content hash where one is recorded.

    Raises:
        MediaError: The file cannot be read, is a folder of frames (`folder_media`), or is no longer the one that was
            recorded (`changed_media`).
    """
    if media.data is not None:
        data = media.data
    elif media.path is not None:
        if frame_paths(media, root) is not None:
            raise MediaError(
                "folder_media",
                f"the media item {media.path!r} is a folder of frames, not a file",
                why="Its bytes laid end to end would no longer say where a frame ends.",
                fix="Name it in the videos of a record, without embedding; or make one video file of it.",
            )
        try:
            data = resolve_path(media.path, root).read_bytes()
        except OSError as error:
            raise MediaError("missing_media", f"the media file {media.path!r} cannot be read: {error}") from error
    else:
        raise MediaError("missing_media", "a media item has neither a path nor bytes")
    if media.sha256 is not None:
        _require_unchanged(media, hashlib.sha256(data))
    return data


def _require_unchanged(media: Media, digest: hashlib._Hash) -> None:
    if media.sha256 is not None and media.sha256 != digest.hexdigest():
        raise MediaError(
            "changed_media",
            f"the media item {media.name!r} is not the one that was recorded (sha256 {media.sha256[:12]}...)",
            why="Preferences that people gave for one item would be trained on another.",
            fix="Restore the file, or build the records again from the new one.",
        )


def content_hash(media: Media, root: Path | None) -> str:
    """The sha256 hex digest of the item's bytes; of a folder, of its frames' bytes in their order.

    Raises:
        MediaError: As `read_bytes`, save for `folder_media`.
    """
    digest, frames = hashlib.sha256(), frame_paths(media, root)
    for item in [media] if frames is None else [Media(path) for path in frames]:
        digest.update(read_bytes(item, root))
    _require_unchanged(media, digest)
    return digest.hexdigest()


def image_size(media: Media, root: Path | None, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height in pixels as `open_image` would give them, from the header alone.

    Raises:
        MediaError: As `open_image`, except for damage behind the header.
    """
    image = _open_header(media, read_bytes(media, root), max_pixels)
    # Pillow decodes a whole PNG to look for an orientation unless the header already held one.
    has_orientation = image.format != "PNG" or "exif" in image.info
    orientation = image.getexif().get(_ORIENTATION_TAG, 1) if has_orientation else 1
    width, height = image.size
    return (height, width) if orientation in _SIDEWAYS_ORIENTATIONS else (width, height)


def open_image(media: Media, root: Path | None, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture as a person would see it, as 8-bit RGB.

    Turned upright by its EXIF orientation; CMYK, palette and 16-bit pixels are converted (16 bits by dividing by
    257, so that white stays white); transparency is laid over white; of an animation the first frame is taken.

    Args:
        media: The item.
        root: Folder that its path is relative to.
        max_pixels: Largest width x height to decode, judged from the header.

    Raises:
        MediaError: The item is missing, outside the root, remote, changed, no image, cut off, of an unsupported
            kind, or too large; `kind` says which.
    """
    image = _open_header(media, read_bytes(media, root), max_pixels)
    try:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # Pillow's decoders raise whatever the damage makes them trip over
        raise MediaError(
            "truncated_image",
            f"the image {media.name!r} is damaged or cut off: {error}",
            why="Part of the picture that people rated is not there.",
            fix="Copy or download the file again.",
        ) from error
    return to_rgb(image, media)


def _open_header(media: Media, data: bytes, max_pixels: int) -> Image.Image:
    """The image with its header read and nothing decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise MediaError(
            "not_an_image",
            f"the file {media.name!r} ({len(data)} bytes, starts with {data[:16]!r}) is not an image that is read here",
            why=f"Its content decides, not its name. Read are: {', '.join(FORMATS)}.",
            fix="Convert it, or remove it from the table.",
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _bomb(media, str(error), max_pixels) from error
    except Exception as error:  # a header that begins like an image and then breaks the parser
        raise MediaError("truncated_image", f"the image {media.name!r} has a damaged header: {error}") from error
    width, height = image.size
    if width * height > max_pixels:
        raise _bomb(media, f"its header claims {width} x {height} pixels", max_pixels)
    return image


def _bomb(media: Media, claim: str, max_pixels: int) -> MediaError:
    return MediaError(
        "decompression_bomb",
        f"the image {media.name!r} is refused: {claim}; the limit is {max_pixels}",
        why="A small file can claim a size that exhausts memory when it is decoded.",
        fix="Scale it down, or raise the limit (max_pixels) if you trust the file.",
    )


def to_rgb(image: Image.Image, media: Media) -> Image.Image:
    """Any decoded image as 8-bit RGB.

    Raises:
        MediaError: Its pixels are numbers without a fixed range.
    """
    is_integer = image.mode == "I" and image.format in ("PNG", "PPM")  # these formats hold 16 bits at most
    if image.mode in _SIXTEEN_BIT_MODES or is_integer:
        levels = np.asarray(image).astype(np.uint32)
        return Image.fromarray((levels // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise MediaError(
            "unsupported_image",
            f"the image {media.name!r} has {image.mode!r} pixels (32-bit numbers without a fixed range)",
            why="Which value is white is not written in the file, and a guess would change the picture.",
            fix="Convert it to 8 or 16 bits, or register a modality of your own for such measurements.",
        )
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")
