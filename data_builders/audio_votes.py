"""Votes of listeners on two captions of a clip become preference pairs: `mmdpo build audio_votes`.

    table --read--> judgements --check--> contests of two captions --decide--> records
                        |                           |                   |
                        `------- set aside, with the row and the reason

Every row ends in one of two places: in the records, or in the ledger.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_builders.agreement import rater_means
from data_builders.audio_vote_rows import VoteReader
from data_builders.audio_votes_config import AudioVotesConfig, VoteColumns
from data_builders.base import Builder, Work
from data_builders.fense import read_fense
from data_builders.tables import Row, read_table, require_columns
from data_builders.votes import (
    FIRST,
    SECOND,
    SOUND_REASONS,
    TIE,
    Contest,
    Judgement,
    as_ratings,
    decide,
    different,
    pool,
    vote_agreement,
)
from mmdpo.media import Media
from mmdpo.media_audio import open_audio
from mmdpo.records import Candidate, Record, user_message
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
        return config.audio or config.source.parent

    def records(self, config: AudioVotesConfig, work: Work) -> Iterator[Record]:
        """See `Builder.records`."""
        ledger = work.ledger
        rows, columns = _table(config)
        judgements = VoteReader(columns, config, ledger).read(rows)
        judgements = _with_media(judgements, self.media_root(config), config, work)
        contests = pool(judgements, ledger)
        decided, tally = decide(contests, config, ledger)
        votes = Counter(vote.value for judgement in judgements for vote in judgement.votes)
        work.notes += _absent(contest.judgements[0].media for contest in decided)
        work.quality |= {
            "source": str(config.source),
            "votes": {
                "n": votes.total(),
                "a": votes[FIRST],
                "b": votes[SECOND],
                "tie": votes[TIE],
                "pairs": len(contests),
                "clips": len({judgement.media.identity for judgement in judgements}),
            },
            "raters": rater_means([rating for judgement in judgements for rating in as_ratings(judgement)]),
            "agreement": vote_agreement(contests),
            "possible_pairs": vars(tally),
        }
        for contest in decided:
            yield _record(contest)


def _table(config: AudioVotesConfig) -> tuple[Iterable[Row], VoteColumns]:
    if config.form == "fense":
        return read_fense(config.source, rows=config.rows, file_names=config.file_names), FENSE_COLUMNS
    rows = read_table(config.source, kind=config.format, rows=config.rows)
    require_columns(rows, config.columns.settings())
    return rows, config.columns


def _with_media(judgements: Sequence[Judgement], root: Path, config: AudioVotesConfig, work: Work) -> list[Judgement]:
    """The judgements whose clip is there and whole, with its content hash; with `optional`, also where it is absent."""
    checked = work.checked_media(
        (judgement.media for judgement in judgements),
        root,
        decode=lambda media: open_audio(media, None, max_seconds=config.max_seconds),
        optional=config.media == "optional",
    )
    kept = []
    for judgement in judgements:
        result = checked[judgement.media]
        if isinstance(result, Media):
            kept.append(replace(judgement, media=result))
        else:
            work.ledger.set_aside(result.kind, judgement.row, judgement.media.name, message=result.what)
    return kept


def _absent(clips: Iterable[Media]) -> list[str]:
    """What a person should know beside the counts."""
    found = {item.identity: item.sha256 is None for item in clips}
    absent = sum(found.values())
    if not absent:
        return []
    return [
        f"{absent} of {len(found)} clips are absent (media: optional): their pairs are text and path alone, "
        "and training sets them aside until the clips are there"
    ]


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
