"""Videos opened safely: a few frames, spread evenly, of a file, an animation or a folder of pictures.

Files are read by PyAV (the extra `video`), animated GIF, PNG and WebP by Pillow. Only containers whose header says how
long they are count as video, so that a file that was cut off is noticed; playlists, which could name other files or
addresses, are never opened.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mmdpo.errors import ConfigError
from mmdpo.media.files import MAX_PIXELS, Media, MediaError, content_hash, frame_paths, open_image, read_bytes, to_rgb

FRAMES = 8
"""Frames that are taken of a video where nobody says how many; even, because many models pair them."""
MAX_FRAMES = 216_000
"""Most frames that are walked through: an hour at 60 a second."""
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
"""What is decoded through PyAV, as libav names it."""
ANIMATIONS = ("GIF", "PNG", "WEBP")
"""What is decoded through Pillow, as it names it."""

_END_TOLERANCE = 0.5
"""Seconds by which a header may promise more than the frames fill: codec delays and rounding are far below it."""
_GIF_END = b";"
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
"""First boxes of mp4 and QuickTime files (ISO/IEC 14496-12), behind four bytes of length."""
_EBML = b"\x1a\x45\xdf\xa3"
"""Start of Matroska and WebM files (RFC 8794)."""


@dataclass(frozen=True, eq=False)
class Video:
    """Frames of a video.

    Args:
        frames: Pictures of one size, 8-bit RGB, upright.
        indices: Which frames of the video they are, counted from 0.
        total: How many frames the video has.
        seconds: Its length, where that is known.
    """

    frames: tuple[Image.Image, ...]
    indices: tuple[int, ...]
    total: int
    seconds: float | None = None

    @property
    def fps(self) -> float | None:
        """Frames a second on average, where the length is known."""
        return self.total / self.seconds if self.seconds else None


def sample_indices(total: int, count: int) -> tuple[int, ...]:
    """The middle frame of each of `count` equal parts of a video; all frames where there are no more than that.

    Part i of n covers the frames from i * total / n up to (i + 1) * total / n, so its middle is (2i + 1) * total / 2n,
    rounded down: 8 of 100 frames are 6, 18, 31, 43, 56, 68, 81 and 93.
    """
    if total <= count:
        return tuple(range(total))
    return tuple((2 * part + 1) * total // (2 * count) for part in range(count))


def open_video(media: Media, root: Path | None, *, frames: int = FRAMES, max_pixels: int = MAX_PIXELS) -> Video:
    """Frames of a video, by `sample_indices`.

    Args:
        media: A video file, an animated GIF, PNG or WebP, embedded bytes of one of these, or a folder of pictures.
        root: Folder that its path is relative to.
        frames: How many frames to take.
        max_pixels: Most pixels of all taken frames together.

    Raises:
        MediaError: Of a kind of `read_bytes` or (for the pictures of a folder) `open_image`, or `not_video` (by its
            content, not its name), `empty_video` (no frames), `truncated_video` (cut off or damaged),
            `too_long_video`, `unsupported_video` (frames of different sizes, or of an unknown kind),
            `decompression_bomb`.
        ConfigError: PyAV is not installed.
    """
    paths = frame_paths(media, root)
    if paths is not None:
        return _from_folder(media, root, paths, frames, max_pixels)
    data = read_bytes(media, root)
    try:
        animation = Image.open(io.BytesIO(data), formats=ANIMATIONS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _bomb(media, str(error), max_pixels) from error
    except Exception:  # whatever Pillow trips over: then it is no animation
        return _from_container(media, data, frames, max_pixels)
    return _from_animation(media, data, animation, frames, max_pixels)


def _from_folder(media: Media, root: Path | None, paths: Sequence[str], count: int, max_pixels: int) -> Video:
    if media.sha256 is not None:
        content_hash(media, root)  # refuses a folder that has changed
    _check_total(media, len(paths))
    indices = sample_indices(len(paths), count)
    pictures = [open_image(Media(paths[index]), root, max_pixels=max_pixels // len(indices)) for index in indices]
    return _video(media, pictures, indices, len(paths), None)


def _from_animation(media: Media, data: bytes, animation: Any, count: int, max_pixels: int) -> Video:
    try:
        if not animation.is_animated:
            raise _not_video(media, data)
        if animation.format == "GIF" and not data.rstrip(b"\0").endswith(_GIF_END):
            raise EOFError("its end mark is missing")
        total = animation.n_frames
        _check_total(media, total)
        indices = sample_indices(total, count)
        _check_pixels(media, animation.width, animation.height, len(indices), max_pixels)
        pictures, milliseconds = [], 0.0
        for index in range(total):
            animation.seek(index)
            animation.load()
            milliseconds += animation.info.get("duration", 0)
            if index in indices:
                pictures.append(to_rgb(animation.copy(), media))
    except MediaError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever the damage makes them trip over
        raise _cut_off(media, str(error)) from error
    return _video(media, pictures, indices, total, milliseconds / 1000 or None)


def _from_container(media: Media, data: bytes, count: int, max_pixels: int) -> Video:
    av = _pyav()
    pictures: list[Image.Image] = []
    try:
        total, seconds = _length(av, media, data)
        _check_total(media, total)
        indices = sample_indices(total, count)
        with _stream(av, media, data) as (container, stream):
            codec = stream.codec_context
            if codec is None:
                raise _unsupported(media, "pictures of a kind that libav cannot decode")
            _check_pixels(media, codec.width, codec.height, len(indices), max_pixels)
            codec.options = {"max_pixels": str(max_pixels)}  # for streams that differ from their header
            for index, frame in enumerate(container.decode(stream)):
                if frame.is_corrupt:
                    raise _cut_off(media, f"frame {index} is damaged")
                if index in indices:
                    # libav tells the turn to make counterclockwise, which is how Pillow turns
                    pictures.append(frame.to_image().rotate(frame.rotation, expand=True))
                if index == indices[-1]:
                    break
    except av.FFmpegError as error:
        raise _cut_off(media, str(error)) from error
    if len(pictures) < len(indices):
        raise _cut_off(media, f"of its {total} frames, frame {indices[len(pictures)]} is not there")
    return _video(media, pictures, indices, total, seconds)


def _length(av: Any, media: Media, data: bytes) -> tuple[int, float | None]:
    """Frames and seconds, found by walking over the packets without decoding them.

    Raises:
        MediaError: Less is there than the header promises.
    """
    starts: list[float] = []
    total, end = 0, 0.0
    with _stream(av, media, data) as (container, stream):
        if stream.duration is not None:
            promised = float(stream.duration * stream.time_base)
        else:
            promised = (container.duration or 0) / 1e6
        for packet in container.demux():
            time = packet.pts if packet.pts is not None else packet.dts  # avi tells only the latter
            if time is not None:
                end = max(end, float((time + (packet.duration or 0)) * packet.time_base))
            if packet.stream is stream and packet.size:
                total += 1
                starts += [] if time is None else [float(time * packet.time_base)]
                if total > MAX_FRAMES:
                    break
    if total <= MAX_FRAMES and end < promised - _END_TOLERANCE:
        raise _cut_off(media, f"its header promises {promised:.1f} seconds, and {end:.1f} are there")
    if len(starts) < 2:
        return total, promised or None
    return total, (max(starts) - min(starts)) * len(starts) / (len(starts) - 1)


@contextmanager
def _stream(av: Any, media: Media, data: bytes) -> Iterator[tuple[Any, Any]]:
    """The container and its first track of moving pictures."""
    known = data[4:8] in _BOXES or data.startswith(_EBML) or (data.startswith(b"RIFF") and data[8:12] == b"AVI ")
    options = {"format_whitelist": CONTAINERS}
    try:
        container = av.open(io.BytesIO(data), options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        raise (_cut_off(media, str(error)) if known else _not_video(media, data)) from error
    with container:
        if not container.streams:
            raise _cut_off(media, "it has no tracks")
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams:
            raise _empty(media)
        yield container, streams[0]


def _pyav() -> Any:
    try:
        import av
        import av.stream
    except ImportError as error:
        raise ConfigError(
            "PyAV, which decodes video files, is not installed",
            why="A video cannot be shown to a model without its frames.",
            fix="pip install mmdpo[video]; or give folders of frames or animated GIF, PNG or WebP files.",
        ) from error
    return av


def _video(
    media: Media, pictures: Sequence[Image.Image], indices: tuple[int, ...], total: int, seconds: float | None
) -> Video:
    sizes = sorted({picture.size for picture in pictures})
    if len(sizes) > 1:
        raise _unsupported(media, f"frames of different sizes: {sizes[0]} and {sizes[-1]}")
    return Video(tuple(pictures), indices, total, seconds)


def _check_total(media: Media, total: int) -> None:
    if total == 0:
        raise _empty(media)
    if total > MAX_FRAMES:
        raise MediaError(
            "too_long_video",
            f"the video {media.name!r} has more than {MAX_FRAMES} frames",
            why="All of them are walked through for the few that are shown to a model.",
            fix="Cut it into pieces, and have those rated.",
        )


def _check_pixels(media: Media, width: int, height: int, count: int, max_pixels: int) -> None:
    if width * height * count > max_pixels:
        raise _bomb(media, f"{count} frames of {width} x {height} pixels", max_pixels)


def _bomb(media: Media, claim: str, max_pixels: int) -> MediaError:
    return MediaError(
        "decompression_bomb",
        f"the video {media.name!r} is refused: {claim}; the limit is {max_pixels} pixels in all",
        why="A small file can claim a size that exhausts memory when it is decoded.",
        fix="Scale it down, take fewer frames, or raise the limit (max_pixels) if you trust the file.",
    )


def _unsupported(media: Media, what: str) -> MediaError:
    return MediaError(
        "unsupported_video",
        f"the video {media.name!r} has {what}",
        why="Models take the frames of a video as one block of numbers.",
        fix="Convert it, for instance with `ffmpeg -i IN OUT.mp4`, or scale its frames to one size.",
    )


def _not_video(media: Media, data: bytes) -> MediaError:
    return MediaError(
        "not_video",
        f"the file {media.name!r} ({len(data)} bytes, starts with {data[:16]!r}) is not a video that is read here",
        why="Its content decides, not its name. Read are: mp4, mov, mkv, webm, avi, and animated GIF, PNG and WebP.",
        fix="Convert it, or remove it from the table; a single picture belongs among the images.",
    )


def _empty(media: Media) -> MediaError:
    return MediaError(
        "empty_video",
        f"the video {media.name!r} has no frames",
        why="There is nothing in it that an answer could be about.",
        fix="Copy or download it again, or remove it from the table.",
    )


def _cut_off(media: Media, reason: str) -> MediaError:
    return MediaError(
        "truncated_video",
        f"the video {media.name!r} is damaged or cut off: {reason}",
        why="Part of the video that people rated is not there.",
        fix="Copy or download the file again.",
    )
