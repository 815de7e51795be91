"""Votes of listeners on two captions of a clip become preference pairs: `mmdpo build audio_votes`.

    table --read--> judgements --check--> contests of two captions --decide--> records
                        |                           |                   |
                        `------- set aside, with the row and the reason

Every row ends in one of two places: in the records, or in the ledger.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from data_builders.audio_votes_config import AudioVotesConfig, VoteColumns
from data_builders.base import Builder, Ledger, Work
from data_builders.fense import read_fense
from data_builders.tables.config import UnusableError, absence_note, bad_text, text_of, with_media
from data_builders.tables.reading import Row, require_columns
from data_builders.tables.sources import in_one, open_source, source_folder
from data_builders.voting.measures import VoteMeasures
from data_builders.voting.rows import VoteReader
from data_builders.voting.tallies import SOUND_REASONS, Contest, Judgement, decide, different, pool
from mmdpo.media import Media
from mmdpo.media.audio import open_audio
from mmdpo.records import Candidate, Record, user_message
from mmdpo.records.checks import is_unicode
from mmdpo.registry import builders

FENSE_COLUMNS = VoteColumns(source_a="source_a", source_b="source_b", kind="kind")
"""What `read_fense` makes of a document."""


@builders.register("audio_votes")
class AudioVotes(Builder[AudioVotesConfig]):
    """Preference pairs from listeners' votes on two captions of a clip."""

    Config = AudioVotesConfig
    sound_reasons = SOUND_REASONS

    def media_root(self, config: AudioVotesConfig) -> Path:
        """Folder that the records' media paths are relative to."""
        return config.audio or source_folder(config.source)

    def records(self, config: AudioVotesConfig, work: Work) -> Iterator[Record]:
        """See `Builder.records`."""
        ledger, measures = work.ledger, VoteMeasures()
        judgements = _with_media(list(_read(config, ledger)), self.media_root(config), config, work)
        contests = pool(judgements, ledger)
        decided, tally = decide(contests, config, ledger)
        for judgement in judgements:
            measures.cast(judgement)
        for contest in contests:
            measures.add(contest)
        voters = measures.voters()
        clips = [contest.judgements[0].media for contest in decided]
        work.notes += absence_note({clip.identity: clip.sha256 is None for clip in clips}, "audio")
        work.notes += measures.notes(voters)
        work.quality |= {
            "source": str(config.source),
            "votes": measures.counts(),
            "first_wins": measures.first_wins(),
            "raters": voters,
            "agreement": measures.agreement(),
            "possible_pairs": vars(tally),
        }
        for contest in decided:
            yield _record(contest)


def _table(config: AudioVotesConfig) -> tuple[Iterable[Row], VoteColumns]:
    if config.form == "fense":
        return read_fense(config.source, rows=config.rows, file_names=config.file_names), FENSE_COLUMNS
    tables = open_source(config.source, kind=config.format, rows=config.rows)
    for table in tables:
        require_columns(table, config.columns.settings())
    return in_one(tables), config.columns


def _read(config: AudioVotesConfig, ledger: Ledger) -> Iterator[Judgement]:
    """Every usable judgement."""
    rows, columns = _table(config)

    def media(cells: Mapping[str, Any]) -> Media:
        return _clip(cells.get(columns.audio), config)

    reader = VoteReader(columns, config.values, media, lambda cells: config.prompt, ledger, config.references)
    for row in rows:
        ledger.read(row.number)
        judgement = reader.read(row, row.cells.get("item") if config.form == "fense" else None)
        if judgement is not None:
            yield judgement


def _clip(cell: Any, config: AudioVotesConfig) -> Media:
    """The clip of a cell: a name, or an object with bytes, as archives and `datasets` have it."""
    if isinstance(cell, Mapping):
        data = cell.get("bytes")
        return Media(cell.get("path"), data=bytes(data)) if data else _clip(cell.get("path"), config)
    return Media(path=_path(cell, config))


def _path(cell: Any, config: AudioVotesConfig) -> str:
    audio = text_of(cell)
    if audio is None:
        raise UnusableError("no_audio")
    if not is_unicode(audio):
        raise bad_text(audio)
    pure, path = PurePosixPath(audio), config.media_path
    for field, value in {"{audio}": audio, "{name}": pure.name, "{stem}": pure.stem}.items():
        path = path.replace(field, value)
    return path


def _with_media(judgements: Sequence[Judgement], root: Path, config: AudioVotesConfig, work: Work) -> list[Judgement]:
    """The judgements whose clip is there and whole, with its content hash; with `optional`, also where it is absent."""
    checked = work.checked_media(
        (judgement.media for judgement in judgements),
        root,
        decode=lambda media: open_audio(media, None, max_seconds=config.max_seconds),
        optional=config.media == "optional",
    )
    return list(with_media(judgements, checked, work.ledger))


def _record(contest: Contest) -> Record:
    """The record of a contest with the better caption first."""
    given = contest.judgements
    (chosen, rejected), shares = given[0].captions, contest.shares
    meta: dict[str, Any] = {
        "builder": "audio_votes",
        "kind": given[0].kind,
        "margin": shares[0] - shares[1],
        "votes": [[vote.value for vote in judgement.votes] for judgement in given],
        "sources": [list(judgement.sources) for judgement in given],
        "rows": [judgement.row for judgement in given],
    }
    candidates = [
        Candidate(text, score=share, source=source)
        for text, share, source in zip((chosen, rejected), shares, given[0].sources, strict=True)
    ]
    if any(vote.voter is not None for vote in contest.votes):
        meta["voters"] = [[vote.voter for vote in judgement.votes] for judgement in given]
    content = [given[0].media.identity, given[0].prompt, chosen, rejected]
    return Record(
        id=hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16],
        prompt=(user_message(given[0].prompt, audios=1),),
        candidates=(*candidates, *_further(given[0].references, (chosen, rejected))),
        media={"audios": (given[0].media,)},
        higher_is_better=True,
        meta=meta,
    )


def _further(references: Iterable[str], judged: Sequence[str]) -> list[Candidate]:
    """The references that differ from both captions and from each other, without a score: nobody voted on them."""
    texts = list(judged)
    for reference in references:
        if reference.strip() and all(different(reference, text) for text in texts):
            texts.append(reference.strip())
    return [Candidate(text, source="reference") for text in texts[len(judged) :]]
