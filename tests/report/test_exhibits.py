"""Media inside pages: sounds with their very bytes and a picture, videos by frames, anything else by its numbers."""

from __future__ import annotations

import base64
import hashlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from PIL import Image

from mmdpo import registry
from mmdpo.media import Media, resolve_path
from mmdpo.modalities.base import Modality
from mmdpo.report import exhibits as exhibits_module
from mmdpo.report.exhibits import Exhibits, embed

RATE = 16_000
Write = Callable[..., str]


def payload(uri: str, kind: str) -> bytes:
    start = f"data:{kind};base64,"
    assert uri.startswith(start)
    return base64.b64decode(uri.removeprefix(start))


@pytest.fixture
def sound(tmp_path: Path) -> Write:
    """Writes a tone and gives its name."""

    def write(name: str = "tone.wav", *, seconds: float = 0.5, hertz: float = 440.0) -> str:
        time = np.arange(round(seconds * RATE)) / RATE
        soundfile.write(tmp_path / name, 0.5 * np.sin(2 * np.pi * hertz * time), RATE)
        return name

    return write


@pytest.mark.parametrize(("suffix", "kind"), [("wav", "wav"), ("flac", "flac"), ("ogg", "ogg"), ("mp3", "mpeg")])
def test_a_sound_plays_with_the_bytes_of_its_file(sound: Write, tmp_path: Path, suffix: str, kind: str) -> None:
    name = sound(f"tone.{suffix}")
    shown = Exhibits().show("audios", Media(name), tmp_path)
    assert shown.sound is not None
    assert payload(shown.sound, f"audio/{kind}") == (tmp_path / name).read_bytes()
    assert shown.caption == f"tone.{suffix} · 0.50 s · 16 kHz"
    assert [uri[:15] for uri in shown.pictures] == ["data:image/png;"]


def test_embedded_sounds_play_too(sound: Write, tmp_path: Path) -> None:
    data = (tmp_path / sound()).read_bytes()
    shown = Exhibits().show("audios", Media(data=data), None)
    assert shown.sound is not None
    assert payload(shown.sound, "audio/wav") == data
    assert shown.caption.startswith(f"embedded bytes {hashlib.sha256(data).hexdigest()[:12]} · ")


def test_the_same_sound_is_put_into_a_page_once(sound: Write, tmp_path: Path) -> None:
    (tmp_path / "copy.wav").write_bytes((tmp_path / sound()).read_bytes())
    page = Exhibits()
    first, second = (page.show("audios", Media(name), tmp_path) for name in ("tone.wav", "copy.wav"))
    assert first.sound is not None
    assert second.sound is None
    assert second.pictures == first.pictures
    assert second.caption.endswith("plays further up")


def test_a_large_sound_is_shown_but_not_played(sound: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = sound(seconds=2)  # 64,044 bytes
    monkeypatch.setattr(exhibits_module, "CLIP_BYTES", 64_043)
    shown = Exhibits().show("audios", Media(name), tmp_path)
    assert shown.sound is None
    assert shown.pictures
    assert shown.caption.endswith("too large to play here (0.1 MB)")
    monkeypatch.setattr(exhibits_module, "CLIP_BYTES", 64_044)
    assert Exhibits().show("audios", Media(name), tmp_path).sound is not None


def test_a_page_takes_sounds_while_there_is_room(sound: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16,044 bytes make 21,392 characters, and 22 before them; a short sound still fits where a long one does not."""
    monkeypatch.setattr(exhibits_module, "PAGE_BYTES", 50_000)
    page = Exhibits()
    lengths = (0.5, 0.5, 0.5, 0.1)
    names = [sound(f"{place}.wav", hertz=200 + place, seconds=seconds) for place, seconds in enumerate(lengths)]
    shown = [page.show("audios", Media(name), tmp_path) for name in names]
    assert [item.sound is not None for item in shown] == [True, True, False, True]
    assert len(shown[0].sound or "") == 21_392 + 22
    assert shown[2].caption.endswith("not played here: the page is full")
    assert sum(len(item.sound or "") for item in shown) <= 50_000


def test_broken_sounds_say_why(sound: Write, tmp_path: Path) -> None:
    whole = (tmp_path / sound()).read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[:5000])
    (tmp_path / "text.wav").write_text("no sound")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "nan.wav", np.full(800, np.nan), RATE, subtype="FLOAT")
    reasons = {
        "cut.wav": "truncated audio",
        "text.wav": "not audio",
        "empty.wav": "empty audio",
        "nan.wav": "not finite audio",
        "gone.wav": "missing media",
        "../outside.wav": "outside root",
        "https://example.org/x.wav": "remote url",
    }
    for name, reason in reasons.items():
        shown = Exhibits().show("audios", Media(name), tmp_path)
        assert (shown.missing, shown.caption, shown.sound, shown.pictures) == (reason, name, None, ())
    changed = Exhibits().show("audios", Media("tone.wav", sha256="0" * 64), tmp_path)
    assert changed.missing == "changed media"
    assert Exhibits().show("audios", Media(), tmp_path).missing == "embedded in the records"


def test_silence_is_called_so(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    assert Exhibits().show("audios", Media("silence.wav"), tmp_path).caption.endswith("16 kHz · silent")


def test_a_video_is_a_few_frames_in_their_order(tmp_path: Path) -> None:
    """Of 8 frames, 1, 3, 5 and 7 are the middles of four equal parts (the later of two, rounded down)."""
    (tmp_path / "walk").mkdir()
    for place in range(8):
        Image.new("RGB", (48, 32), (30 * place, 0, 0)).save(tmp_path / "walk" / f"{place}.png")
    shown = Exhibits().show("videos", Media("walk"), tmp_path)
    frames = [Image.open(io.BytesIO(payload(uri, "image/png"))) for uri in shown.pictures]
    assert [frame.getpixel((0, 0)) for frame in frames] == [(30 * place, 0, 0) for place in (1, 3, 5, 7)]
    assert shown.caption == "walk · 4 of 8 frames"


def test_a_video_without_its_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(64))
    monkeypatch.setitem(sys.modules, "av", None)
    shown = Exhibits().show("videos", Media("clip.mp4"), tmp_path)
    assert (shown.missing, shown.caption) == ("PyAV, which decodes video files, is not installed", "clip.mp4")


class Sensor(Modality):
    """Numbers from a file: a single one breaks it, and truth values are a kind of item that nothing can draw."""

    name: ClassVar[str] = "sensor"
    plural: ClassVar[str] = "sensors"
    corruptions: ClassVar[dict[str, Any]] = {}

    def load(self, media: Media, root: Path | None) -> Any:
        values = np.load(resolve_path(media.path or "", root), allow_pickle=False)
        if values.size == 1:
            raise RuntimeError("one number is too few")
        return {"values": values} if values.dtype == bool else values


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[NDArray[Any]], exhibits_module.Exhibit]:
    monkeypatch.setitem(registry.modalities._entries, "sensor", Sensor)

    def show(values: NDArray[Any]) -> exhibits_module.Exhibit:
        np.save(tmp_path / "x.npy", values)
        return Exhibits().show("sensors", Media("x.npy"), tmp_path)

    return show


def test_numbers_of_a_modality_of_ones_own_are_drawn(
    measured: Callable[[NDArray[Any]], exhibits_module.Exhibit],
) -> None:
    line = measured(np.array([1.0, 2.0, 3.0]))
    assert line.caption == "x.npy · 3 numbers"
    assert b'points="0.0,95.0 120.0,50.0 240.0,5.0"' in payload(line.pictures[0], "image/svg+xml")
    table = measured(np.ones((500, 12)) + np.eye(500, 12))
    assert table.caption == "x.npy · 500 × 12 numbers"
    assert Image.open(io.BytesIO(payload(table.pictures[0], "image/png"))).size == (240, 12)
    gaps = measured(np.array([1.0, np.nan, np.inf, 3.0]))
    assert gaps.caption == "x.npy · 4 numbers · some are not finite"
    assert b"nan" not in payload(gaps.pictures[0], "image/svg+xml")


def test_what_a_modality_of_ones_own_cannot_show_is_said(
    measured: Callable[[NDArray[Any]], exhibits_module.Exhibit], tmp_path: Path
) -> None:
    assert measured(np.ones((2, 2), dtype=bool)).missing == "no picture for items of this kind"
    assert measured(np.ones((2, 2, 2))).missing == "no picture for items of this kind"
    assert measured(np.ones(1)).missing == "RuntimeError: one number is too few"
    unknown = Exhibits().show("thermals", Media("x.npy"), tmp_path)
    assert (unknown.missing, unknown.caption) == ("no modality is registered for media list 'thermals'", "x.npy")


def test_drawings_are_kept_and_photos_reduced() -> None:
    uri, small = embed(Image.new("RGB", (64, 64), "#123456"))
    assert small
    assert Image.open(io.BytesIO(payload(uri, "image/png"))).getpixel((3, 3)) == (0x12, 0x34, 0x56)
    uri, small = embed(Image.new("RGB", (1600, 800)))
    assert not small
    assert Image.open(io.BytesIO(payload(uri, "image/jpeg"))).size == (320, 160)


def test_pictures_that_cannot_be_shown_say_why(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    names = ("text.jpg", "gone.png", "../outside.png", "https://example.org/x.png")
    shown = [Exhibits().show("images", Media(name), tmp_path) for name in names]
    assert [item.missing for item in shown] == ["not an image", "missing media", "outside root", "remote url"]
    Image.new("RGB", (4, 4)).save(tmp_path / "private.png")
    whole_machine = Exhibits().show("images", Media(str(tmp_path / "private.png")), Path("/"))
    assert (whole_machine.missing, whole_machine.pictures) == ("outside root", ())
