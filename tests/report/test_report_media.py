"""Pages of records whose media are no pictures: what a builder of listeners' votes writes, and records of any kind."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner

from data_builders.running.build import build
from mmdpo.cli import app
from mmdpo.media import Media
from mmdpo.records import Candidate, Message, Record, Records, save_records
from mmdpo.report import write_quality_page, write_records_page

from .parsed_page import Page, assert_self_contained

FENSE = Path(__file__).resolve().parents[3] / "shared" / "data" / "fense" / "audio"
NAME = "<i>bell & 'whistle'.wav"


def record(name: str, media: dict[str, tuple[Media, ...]]) -> Record:
    parts = [{"type": plural.removesuffix("s")} for plural, items in media.items() for _ in items]
    prompt: Message = {"role": "user", "content": [*parts, {"type": "text", "text": "What is it?"}]}  # type: ignore[list-item]
    return Record(name, (prompt,), (Candidate("a bell"), Candidate("a horn")), media)


@pytest.fixture
def mixed(tmp_path: Path) -> Records:
    """A sound, a video, a picture, a cut sound, and a picture beside a sound."""
    root = tmp_path / "media"
    root.mkdir()
    soundfile.write(root / NAME, 0.1 * np.sin(np.arange(4000) / 5), 8000)
    (root / "cut.wav").write_bytes((root / NAME).read_bytes()[:1000])
    frames = [Image.new("RGB", (32, 32), (60 * place, 0, 0)) for place in range(4)]
    frames[0].save(root / "walk.gif", save_all=True, append_images=frames[1:], duration=500)
    frames[0].save(root / "scene.png")
    sound, picture = (Media(NAME),), (Media("scene.png"),)
    kinds = [
        {"audios": sound},
        {"videos": (Media("walk.gif"),)},
        {"images": picture},
        {"audios": (Media("cut.wav"),)},
        {"images": picture, "audios": sound},
    ]
    return Records([record(f"r{place}", media) for place, media in enumerate(kinds)], root)


def test_records_of_every_kind_are_shown(mixed: Records, tmp_path: Path) -> None:
    html = write_records_page(mixed, tmp_path / "page.html").read_text(encoding="utf-8")
    page = assert_self_contained(html)
    text = " ".join(page.text.split())
    (player,) = [attributes for tag, attributes in page.elements if tag == "audio"]
    assert "controls" in player
    assert mixed.media_root is not None
    data = (mixed.media_root / NAME).read_bytes()
    assert player["src"] == f"data:audio/wav;base64,{base64.b64encode(data).decode()}"
    for expected in (
        f"{NAME} · 0.50 s · 8 kHz",
        "walk.gif · 4 of 4 frames · 2.00 s",
        "truncated audio",
        "cut.wav",
        "plays further up",
    ):
        assert expected in text, expected
    assert "<i>" not in html
    labels = [attributes["alt"] for tag, attributes in page.elements if tag == "img"]
    frames = ["Frames of record r1"] * 4
    assert labels == [
        "Spectrum of record r0",
        *frames,
        "Picture of record r2",
        "Picture of record r4",
        "Spectrum of record r4",
    ]


def test_the_policy_of_a_page_lets_only_its_own_sounds_play(mixed: Records, tmp_path: Path) -> None:
    html = write_records_page(mixed, tmp_path / "page.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert policy[1] == "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
    assert not re.search(r"https?://(?!www\.w3\.org/)", html)


def test_the_quality_page_of_listeners_votes_speaks_of_clips_and_votes(tmp_path: Path) -> None:
    rows = ["audio,caption_a,caption_b,a,b,tie"]
    for place in range(4):
        soundfile.write(tmp_path / f"{place}.wav", 0.1 * np.sin(np.arange(4000) * (place + 1) / 9), 8000)
        rows.append(f"{place}.wav,a bell rings,a horn blows {place},4,0,0")
    rows += ["9.wav,a bell,a horn,3,0,0", "0.wav,a bell,a bell,1,0,0", "0.wav,a bell,a gong,1,1,0"]
    (tmp_path / "votes.csv").write_text("\n".join(rows))
    config = {
        "source": str(tmp_path / "votes.csv"),
        "columns": {"audio": "audio", "counts": {"a": "a", "b": "b", "tie": "tie"}},
    }
    build("audio_votes", config, tmp_path / "out")
    quality = json.loads((tmp_path / "out" / "quality.json").read_text())
    path = write_quality_page(quality, tmp_path / "quality.html", media_root=tmp_path)
    page = assert_self_contained(path.read_text(encoding="utf-8"))
    text = " ".join(page.text.split())
    for expected in (
        "4 pairs on 4 clips, from 7 rows.",
        "missing media the clip is not there 1",
        "equal captions the two captions have the same words 1",
        "tie both captions have as many votes 1",
        "95% intervals over clips",
        "5 pairs of captions with several votes",
    ):
        assert expected in text, expected
    assert "picture" not in text
    assert sum(tag == "audio" for tag, _ in page.elements) == 4


def test_show_takes_a_modality_from_a_plugin(tmp_path: Path) -> None:
    plugin = tmp_path / "scent.py"
    plugin.write_text(
        "import numpy as np\n"
        "from mmdpo import registry\n"
        "from mmdpo.modalities.base import Modality\n"
        "@registry.modalities.register('scent')\n"
        "class Scent(Modality):\n"
        "    name, plural, corruptions = 'scent', 'scents', {}\n"
        "    def load(self, media, root):\n"
        "        return np.frombuffer(media.data, dtype=np.float32)\n"
    )
    scents = (Media(data=np.arange(4, dtype=np.float32).tobytes()),)
    save_records(Records([record("r", {"scents": scents})]), tmp_path / "data", embed=True)
    page = tmp_path / "page.html"
    command = ["show", str(tmp_path / "data"), "--html", str(page)]
    try:
        result = CliRunner().invoke(app, [*command, "--plugin", str(plugin)])
        assert result.exit_code == 0, result.output
        assert "4 numbers" in Page(page.read_text(encoding="utf-8")).text
    finally:
        from mmdpo import registry

        registry.modalities._entries.pop("scent", None)


@pytest.mark.skipif(not FENSE.is_dir(), reason=f"real clips are not at {FENSE}")
def test_a_page_of_real_clips_stays_within_its_bounds(tmp_path: Path) -> None:
    """Five clips of 1.7 to 2.2 million bytes: three fit into a page, all five are seen."""
    names = sorted(path.name for path in FENSE.iterdir())
    records = Records([record(name, {"audios": (Media(name),)}) for name in names], FENSE)
    path = write_records_page(records, tmp_path / "page.html")
    page = assert_self_contained(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 8_300_000
    assert [sum(tag == kind for tag, _ in page.elements) for kind in ("audio", "img")] == [3, 5]
