"""Answers scored by how close CLIP finds them to their picture: `mmdpo build clip_score`.

The score is the cosine of picture and "A photo depicts " + answer (Hessel et al. 2021, CLIPScore, section 3, without
its factor 2.5 and its floor at 0, which would make ties). CLIP reads 77 tokens, likes lists of objects, and hardly sees
counts, relations and negations: `quality.json` tells how the scores go with length and how many answers were cut.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import Field

from data_builders.asking.prompt_sources import Asked, media_key
from data_builders.asking.scored import SOUND, Pairing, Scored, ScoredConfig, answers_of, groups_of
from data_builders.base import Builder, Work
from data_builders.running.journal import Journal
from data_builders.tables.spool import Spool
from mmdpo.answering.answer_file import model_fingerprint
from mmdpo.media import Media, open_image
from mmdpo.models.clip_score import ClipScore
from mmdpo.records import Record
from mmdpo.registry import builders
from mmdpo.shard import Shard

_ANSWERS_AT_A_TIME = 256
_DIGITS = 5  # texts that are scored beside a text change the digits behind
NOTABLE = 0.3
"""Correlation of score and length, to either side, from which on a note speaks of it."""


class ClipScoreConfig(ScoredConfig):
    """Configuration of `mmdpo build clip_score`; docs/data.md explains each key.

    Args:
        model: Architecture of the CLIP, as `open_clip.list_models()` names it.
        weights: Its weights, a safetensors file. Nothing is fetched.
    """

    model: str = "ViT-B-32"
    weights: Path
    min_margin: float = Field(0.0, ge=0.0, le=2.0)


@builders.register("clip_score")
class ClipRanked(Builder[ClipScoreConfig]):
    """Pairs or lists of answers, scored by the similarity that CLIP finds between picture and text."""

    Config = ClipScoreConfig
    sound_reasons = SOUND
    shares = True

    def media_root(self, config: ClipScoreConfig) -> Path | None:
        """Folder that the records' media paths are relative to."""
        return config.known_root

    def records(self, config: ClipScoreConfig, work: Work) -> Iterator[Record]:
        """See `Builder.records`."""
        shard = work.shard or Shard()
        clip = ClipScore.load(config.model, config.weights)
        answers = answers_of(config, work, f"answers-{shard.index}")
        journal = Journal(work.scratch, "clip_score", shard)
        journal.require_same(f"the CLIP {config.model}", model_fingerprint(clip.model))
        _score(answers, clip, journal, config, work)
        journal.gather()
        if not shard.is_main:
            return
        pairing = Pairing("clip_score", config.model, config, work)
        n = cut = 0
        for groups in groups_of(answers, work):
            scored = []
            for one in (one for group in groups for one in group):
                if _picture(one) is None:
                    told = "CLIP compares a text with one picture"
                    work.ledger.set_aside("not_one_image", one.row, _text(one), column=one.column, message=told)
                    continue
                row = journal[_key(one)]
                n, cut = n + 1, cut + row["cut"]
                scored.append(Scored(one, row["cosine"], {"cut": row["cut"]}))
            yield from pairing.records(scored)
        pairing.close()
        work.quality["clip_score"] = {"model": config.model, "answers": n, "cut": cut}
        work.notes += _notes(work.quality["scores"]["length_correlation"], n, cut)


def _score(answers: Spool[Asked], clip: ClipScore, journal: Journal, config: ClipScoreConfig, work: Work) -> None:
    """Scores everything that the journal lacks; of several processes each scores its share of the pictures."""
    shard = journal.shard
    mine = (one for one in answers if zlib.crc32(media_key(one.record).encode()) % shard.count == shard.index)
    todo = iter(work.progress(mine))
    while block := list(islice(todo, _ANSWERS_AT_A_TIME)):
        by_picture: dict[Media, dict[str, str]] = defaultdict(dict)
        for one in block:
            picture = _picture(one)
            if picture is not None and _key(one) not in journal:
                by_picture[picture][_key(one)] = _text(one)
        for picture, texts in by_picture.items():
            image = open_image(picture, config.known_root, max_pixels=config.max_pixels)
            said = list(texts.values())
            cosines, cut = clip.cosines(image, said), clip.fills_context(said)
            for key, cosine, is_cut in zip(texts, cosines, cut, strict=True):
                journal.add(key, {"cosine": round(cosine, _DIGITS), "cut": is_cut})


def _picture(one: Asked) -> Media | None:
    """The picture of an answer that is about one picture and nothing else."""
    media: Sequence[tuple[str, Media]] = list(one.record.media_items())
    is_there = len(media) == 1 and media[0][0] == "images" and (media[0][1].sha256 or media[0][1].data)
    return media[0][1] if is_there else None


def _text(one: Asked) -> str:
    assert one.answer is not None
    return one.answer.text


def _key(one: Asked) -> str:
    content = f"{media_key(one.record)}\n{_text(one)}"
    return hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()[:24]


def _notes(correlation: float | None, n: int, cut: int) -> list[str]:
    notes: list[Any] = []
    if correlation is not None and abs(correlation) >= NOTABLE:
        liked = "longer" if correlation > 0 else "shorter"
        notes.append(
            f"CLIP likes the {liked} of two answers (correlation of score and words {correlation:+.2f}): "
            "balance_length=true takes that out of the pairs"
        )
    if cut:
        notes.append(f"{cut} of {n} answers reach the end of CLIP's context; what is behind it was not seen")
    return notes
