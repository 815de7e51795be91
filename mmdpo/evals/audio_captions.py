"""Captions of sounds: which events does a caption name that cannot be heard?

There is no official code. This is CHAIR's rule (`mmdpo.evals.chair`) with events for objects: chair_i = mentions of
    absent events / all mentions, chair_s = captions with such a mention / all captions, recall = different present
    events named / present events. Present are the clip's tags and what its reference captions name.
Rule here: words and phrases of a table (``sound_events.json``: 77 kinds of sounds, our own), whatever the endings of
    their words; a longer name takes the words of a shorter one ("fire truck" is no fire). Kinds are coarse where the
    ear is: car, truck and engine are one vehicle. Who makes a sound is not looked for: "a man speaks" and "a woman
    speaks" name the same event, and so does "a voice".
Known quirks: words are not read in context, so "no birds can be heard" names birds, and "like thunder" thunder.
Data: JSON ``{clip: [tags]}`` or ``{clip: {"tags": [...], "captions": [...]}}``; or CSV of reference captions as
    AudioCaps (``youtube_id``, ``caption``, a row per caption) and Clotho (``file_name``, ``caption_1`` to
    ``caption_5``) have them. AudioCaps: MIT; Clotho: non-commercial; AudioSet's tags: CC BY 4.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError
from mmdpo.evals.base import Sample
from mmdpo.evals.shared.audio_files import is_csv, read_any_rows
from mmdpo.evals.shared.files import read_json
from mmdpo.evals.shared.object_captions import ObjectCaptions
from mmdpo.evals.shared.options import check_file_name, file_name
from mmdpo.evals.shared.phrases import Phrases
from mmdpo.registry import benchmarks

PROMPT = "Describe the sounds in this recording in one sentence."

_CLIP_KEYS = ("file_name", "youtube_id", "audio", "clip", "id")
_CAPTION = re.compile(r"caption(_\d+)?")
_SOUND_FILE = re.compile(r"\.(wav|flac|mp3|ogg|m4a)$", re.IGNORECASE)


@benchmarks.register("audio_captions")
@dataclass(frozen=True)
class AudioCaptions(ObjectCaptions):
    """Events named in captions of clips.

    Args:
        events: Table of names, JSON ``{"names": {event: [names]}, "irregular": {form: word}}`` or ``{event: [names]}``;
            None is our own.
        prompt: What the model is asked.
        audio_name: File name of a clip, made from its ``{id}``, such as ``Y{id}.wav``; None takes what the data say.
        at_recall: Also gives the rates at this recall (`mmdpo.evals.coverage`).
        at_objects: Also gives the rates at this number of mentions per caption.
    """

    events: str | Path | None = None
    prompt: str = PROMPT
    audio_name: str | None = None
    name = "audio_captions"
    max_new_tokens = 128
    id_keys = ("audio", "file_name", "youtube_id", "id")
    text_keys = ("caption", "text", "answer", "response")

    def __post_init__(self) -> None:
        check_file_name("audio_name", self.audio_name)
        _ = self.targets  # says at once if a level cannot be reached

    @property
    def rule(self) -> str:
        """Whose table of names is used."""
        table = "own events" if self.events is None else f"events {Path(self.events).name}"
        return "; ".join([table, *(str(target) for target in self.targets)])

    @property
    def modality(self) -> str:
        """Audio."""
        return "audios"

    @cached_property
    def names(self) -> Phrases:
        """The table of names in use."""
        with resources.as_file(resources.files("mmdpo.evals") / "sound_events.json") as own:
            path = own if self.events is None else Path(self.events)
            table = read_json(path)
        table = table if isinstance(table, dict) else {}
        plain = "names" not in table or isinstance(table["names"], list)  # an event may be called "names"
        names, irregular = (table, {}) if plain else (table["names"], table.get("irregular", {}))
        if not _is_table(names) or not isinstance(irregular, dict):
            raise DataError(
                f"{str(path)!r} is no table of events",
                why="Every event needs a list of the names that captions have for it.",
                fix='Write {"names": {"dog": ["dog", "bark"]}, "irregular": {"spoke": "speak"}}.',
            )
        return Phrases(names, irregular)

    def base_words(self, text: str) -> list[str]:
        """The words of a caption, those of the table without their endings."""
        return self.names.base_forms(text)

    def sample_id(self, raw: Any) -> str:
        """The name of the clip, without the ending of a sound file."""
        return _SOUND_FILE.sub("", str(raw))

    def samples(self, data: Path) -> list[Sample]:
        """One sample per clip."""
        if is_csv(data):
            clips = self._references(data)
        else:
            clips = read_json(data)
            if not isinstance(clips, dict) or not clips:
                raise DataError(
                    f"{str(data)!r} is no table of clips",
                    why="Events are looked up by clip.",
                    fix='Write {"clip.wav": ["dog", "rain"]}, or give a CSV file of reference captions.',
                )
        return [self._sample(clip, entry, str(data)) for clip, entry in clips.items()]

    def _sample(self, clip: str, entry: Any, origin: str) -> Sample:
        known = {"tags": entry} if isinstance(entry, list) else entry
        tags, captions = (_texts(known, key) for key in ("tags", "captions"))
        if tags is None or captions is None or not known:
            raise DataError(
                f"clip {clip!r} of {origin} has neither tags nor reference captions: {str(entry)[:80]}",
                why="Every event that its captions name would count as hallucinated.",
                fix="Write a list of tags, or tags and captions by name.",
            )
        events = {event for text in (*tags, *captions) for event in self.names.categories(text)}
        # A tag that no name of the table stands for is present all the same: a flag tells of it.
        events |= {tag for tag in tags if not self.names.categories(tag)}
        sample_id = self.sample_id(clip)
        file = file_name(self.audio_name, sample_id, clip)
        return Sample(sample_id, self.prompt, {"audios": [file]}, sorted(events), sample_id)

    def _references(self, path: Path) -> dict[str, dict[str, list[str]]]:
        clips: dict[str, dict[str, list[str]]] = {}
        for number, row in enumerate(read_any_rows(path), 1):
            clip = next((row[key] for key in _CLIP_KEYS if row.get(key)), None)
            captions = [text for key, text in row.items() if _CAPTION.fullmatch(key) and text.strip()]
            if clip is None or not captions:
                raise DataError(
                    f"row {number} of {str(path)!r} has no clip or no caption: {str(row)[:200]}",
                    why="What can be heard is known from reference captions.",
                    fix=f"Name the clip under one of {', '.join(_CLIP_KEYS)}, and captions caption, caption_1, ...",
                )
            clips.setdefault(clip, {"captions": []})["captions"] += captions
        return clips


def _texts(known: Any, key: str) -> list[str] | None:
    """A list of texts, which may be left out; None if it is something else."""
    texts = known.get(key, []) if isinstance(known, Mapping) else None
    return texts if isinstance(texts, list) and all(isinstance(text, str) for text in texts) else None


def _is_table(names: Any) -> bool:
    return (
        isinstance(names, dict)
        and bool(names)
        and all(isinstance(given, Sequence) and not isinstance(given, str) for given in names.values())
        and all(isinstance(name, str) for given in names.values() for name in given)
    )
