"""Sounds opened safely: wav, flac, mp3 and ogg as one channel of float32 samples.

libsndfile (through `soundfile`) reads the files and soxr resamples, as `transformers.audio_utils.load_audio` does, so a
model is trained on the very samples that it is given elsewhere. libsndfile is silent where less is there than the file
promises: it shortens a wav to what is left of it, an ogg to its last whole page, and an mp3 without a length in its
first frame to a guess. The containers are therefore looked through before it is believed.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from mmdpo.media.files import Media, MediaError, read_bytes

FORMATS = ("WAV", "WAVEX", "FLAC", "MP3", "OGG")
"""What is decoded, as libsndfile names it; ogg holds Vorbis, Opus or FLAC."""
MAX_SECONDS = 3600.0
"""Longest sound that is decoded; as one channel at 44.1 kHz it is 0.6 GiB."""
MIN_RATE, MAX_RATE = 1_000, 192_000
"""Samples a second that are believed; telephones have 8,000, studios 192,000."""
MAX_CHANNELS = 8
"""Most channels that are believed: a 7.1 surround track."""
MAX_PEAK = 16.0
"""Largest sample that is taken for full scale 1 with headroom (24 dB); above it a float file has another scale."""

_BLOCK = 1 << 18
_UNKNOWN_FRAMES = 2**63 - 1
_UNKNOWN_BYTES = 0xFFFFFFFF
_LAST_PAGE, _FIRST_PAGE = 4, 2
_STARTS = (b"RIFF", b"RIFX", b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xfa", b"\xff\xf3", b"\xff\xf2")


@dataclass(frozen=True, eq=False)
class Audio:
    """A decoded sound.

    Args:
        samples: [n] float32, one channel, full scale 1; codecs and resampling may overshoot it a little.
        rate: Samples a second.
    """

    samples: NDArray[np.float32]
    rate: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / self.rate


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a sound says, and what decoding then gives.

    Args:
        rate: Samples a second.
        frames: Samples of each channel.
        channels: How many channels.
    """

    rate: int
    frames: int
    channels: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.frames / self.rate


def audio_info(media: Media, root: Path | None, *, max_seconds: float = MAX_SECONDS) -> AudioInfo:
    """Rate, length and channels from the header alone.

    Raises:
        MediaError: As `open_audio`, except for damage behind the header and for what the samples are.
    """
    with _opened(media, read_bytes(media, root), max_seconds) as file:
        return AudioInfo(file.samplerate, file.frames, file.channels)


def open_audio(media: Media, root: Path | None, *, rate: int | None = None, max_seconds: float = MAX_SECONDS) -> Audio:
    """The sound as one channel, the mean of its channels.

    Args:
        media: The item.
        root: Folder that its path is relative to.
        rate: Samples a second of the result; by default those of the file.
        max_seconds: Longest sound to decode, judged from the header.

    Raises:
        MediaError: Of a kind of `read_bytes`, or `not_audio` (by its content, not its name), `empty_audio` (no
            samples), `truncated_audio` (cut off or damaged), `too_long_audio`, `not_finite_audio` (NaN or infinity),
            `unsupported_audio` (an unbelievable rate, number of channels or scale; a length that is not told; several
            sounds laid end to end).
    """
    with _opened(media, read_bytes(media, root), max_seconds) as file:
        audio = Audio(_decoded(file, media), file.samplerate)
    return audio if rate is None else resample(audio, rate)


def resampled_length(frames: int, from_rate: int, to_rate: int) -> int:
    """Samples that `resample` makes of `frames`: as long in time, rounded up, so that none is ever lost."""
    return -(-frames * to_rate // from_rate)


def resample(audio: Audio, rate: int) -> Audio:
    """The sound at another rate, by soxr at its high quality.

    soxr rounds the length to the nearest; where that is down, a zero is appended, as `load_audio` of transformers does.
    """
    if rate == audio.rate:
        return audio
    samples = soxr.resample(audio.samples, audio.rate, rate, quality="HQ")
    missing = resampled_length(len(audio.samples), audio.rate, rate) - len(samples)
    return Audio(np.pad(samples, (0, missing)), rate)


@contextmanager
def _opened(media: Media, data: bytes, max_seconds: float) -> Iterator[Any]:
    """The file with its header read and judged, and nothing decoded."""
    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except soundfile.LibsndfileError as error:
        if data.startswith(_STARTS) and (data[:3] != b"RIF" or data[8:12] == b"WAVE"):
            raise _cut_off(media, error.error_string) from error
        raise _not_audio(media, data) from error
    with file:
        if file.format not in FORMATS:
            raise _not_audio(media, data)
        check = _CONTAINER_CHECKS.get(file.format)
        if check is not None:
            check(media, data)
        _check_header(media, file, max_seconds)
        yield file


def _check_header(media: Media, file: Any, max_seconds: float) -> None:
    if not MIN_RATE <= file.samplerate <= MAX_RATE:
        raise _unsupported(media, f"{file.samplerate} samples a second; believed are {MIN_RATE} to {MAX_RATE}")
    if file.channels > MAX_CHANNELS:
        raise _unsupported(media, f"{file.channels} channels; believed are up to {MAX_CHANNELS}")
    if file.frames == _UNKNOWN_FRAMES:
        raise _unsupported(media, "a header that does not say how long it is")
    if file.frames == 0:
        raise MediaError(
            "empty_audio",
            f"the sound {media.name!r} has no samples",
            why="There is nothing in it that an answer could be about.",
            fix="Copy or download the file again, or remove it from the table.",
        )
    if file.frames > max_seconds * file.samplerate:
        raise MediaError(
            "too_long_audio",
            f"the sound {media.name!r} is refused: its header claims {file.frames / file.samplerate:.1f} seconds; the "
            f"limit is {max_seconds:g}",
            why="A small file can claim a length that exhausts memory when it is decoded.",
            fix="Cut it into pieces, or raise the limit (max_seconds) if you trust the file.",
        )


def _decoded(file: Any, media: Media) -> NDArray[np.float32]:
    """All samples, channels averaged block by block so that only one channel is ever held whole."""
    blocks: list[NDArray[np.float32]] = []
    try:
        while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
            with np.errstate(all="ignore"):  # what is not finite is judged below
                blocks.append(block.mean(axis=1))
    except soundfile.LibsndfileError as error:
        raise _cut_off(media, error.error_string) from error
    decoded = sum(len(block) for block in blocks)
    if decoded != file.frames:
        raise _cut_off(media, f"its header promises {file.frames} samples and {decoded} are there")
    samples = np.concatenate(blocks)
    if not np.isfinite(samples).all():
        raise MediaError(
            "not_finite_audio",
            f"the sound {media.name!r} has samples that are NaN or infinite",
            why="They would make every number that is computed from it NaN.",
            fix="Export it again as 16-bit or 24-bit integers.",
        )
    if (peak := float(np.abs(samples).max())) > MAX_PEAK:
        raise _unsupported(media, f"samples up to {peak:g} where full scale is 1")
    return samples


def _check_wav(media: Media, data: bytes) -> None:
    """Compares the length of the data chunk with what is there."""
    order, position = ">" if data.startswith(b"RIFX") else "<", 12
    while position + 8 <= len(data):
        name, size = struct.unpack_from(f"{order}4sI", data, position)
        left = len(data) - position - 8
        if name == b"data":
            if size != _UNKNOWN_BYTES and size > left:  # written to a pipe, a file says that it does not know
                raise _cut_off(media, f"its header promises {size} bytes of sound and {left} are there")
            return
        position += 8 + size + size % 2


def _check_ogg(media: Media, data: bytes) -> None:
    """Walks over the pages (RFC 3533, section 6): the last must be whole and say so, and there must be one stream."""
    position, flags = 0, []
    while data.startswith(b"OggS", position) and position + 27 <= len(data):
        flags.append(data[position + 5])
        segments = data[position + 27 : position + 27 + data[position + 26]]
        position += 27 + data[position + 26] + sum(segments)
    if position > len(data) or not flags[-1] & _LAST_PAGE:
        raise _cut_off(media, "its last page is missing")
    if sum(flag & _FIRST_PAGE for flag in flags) != _FIRST_PAGE:
        raise _unsupported(media, "several streams, of which only the first would be heard")


def _check_mp3(media: Media, data: bytes) -> None:
    """Looks for the length in the first frame, and whether another sound follows the one that it tells of.

    The frame begins behind the ID3 tags; its information (Xing's or LAME's) has flags, frames and bytes.
    """
    start = 0
    while data.startswith(b"ID3", start):
        size = 0
        for byte in data[start + 6 : start + 10]:  # seven bits each
            size = size << 7 | byte
        start += 10 + size
    found = max(data.find(name, start, start + 64) for name in (b"Xing", b"Info"))
    flags = int.from_bytes(data[found + 4 : found + 8], "big") if found >= 0 else 0
    if not flags & 1:
        raise _unsupported(media, "no length in its first frame, so that libsndfile would guess where it ends")
    end = start + int.from_bytes(data[found + 12 : found + 16], "big")
    if flags & 2 and data[end : end + 2] == data[start : start + 2]:
        raise _unsupported(media, "several recordings, of which only the first would be heard")


_CONTAINER_CHECKS: dict[str, Callable[[Media, bytes], None]] = {
    "WAV": _check_wav,
    "WAVEX": _check_wav,
    "OGG": _check_ogg,
    "MP3": _check_mp3,
}


def _not_audio(media: Media, data: bytes) -> MediaError:
    return MediaError(
        "not_audio",
        f"the file {media.name!r} ({len(data)} bytes, starts with {data[:16]!r}) is not a sound that is read here",
        why="Its content decides, not its name. Read are: wav, flac, mp3, and ogg with Vorbis or Opus.",
        fix="Convert it, or remove it from the table.",
    )


def _cut_off(media: Media, reason: str) -> MediaError:
    return MediaError(
        "truncated_audio",
        f"the sound {media.name!r} is damaged or cut off: {reason}",
        why="Part of the sound that people rated is not there.",
        fix="Copy or download the file again.",
    )


def _unsupported(media: Media, what: str) -> MediaError:
    return MediaError(
        "unsupported_audio",
        f"the sound {media.name!r} has {what}",
        why="Whatever were made of it might not be the sound that people rated.",
        fix="Export it again, for instance with `ffmpeg -i IN OUT.flac`, and listen to it.",
    )
