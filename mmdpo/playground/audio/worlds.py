"""The world of sounds as the demo, the measuring and the experiment take it."""

from __future__ import annotations

import io
from typing import Final

import soundfile

from mmdpo.playground.audio.sounds import render
from mmdpo.playground.audio.text import LANGUAGE
from mmdpo.playground.audio.world import RATE, Scene, scenes
from mmdpo.playground.worlds import World


def _wav(scene: Scene) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, render(scene), RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


SOUNDS: Final = World(
    "audio",
    "audio-playground",
    "tiny-whisper",
    LANGUAGE,
    scenes,
    _wav,
    "usual_sound",
    ratings={"modality": "audio", "columns": {"image": "audio", "prompt": "prompt"}},
    options={"media": "audios"},
)
