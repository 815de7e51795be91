"""Votes on pairs of answers become pairs or lists by Bradley-Terry strengths: `mmdpo build votes`.

rows --> judgements --pool--> contests of two answers --fit--> strengths of a question's answers --> records
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from data_builders.base import Builder, Ledger, Work
from data_builders.rating.pairing import Caption, PairingConfig, PairTally, Ranking, make_records
from data_builders.tables.config import (
    TableConfig,
    absence_note,
    checked_media,
    identity_of,
    read_media,
    read_text,
    table_rows,
    with_media,
)
from data_builders.tables.spool import Spool
from data_builders.voting.columns import JudgedColumns, VoteValues, require_direction, require_one_voter_a_row
from data_builders.voting.measures import VoteMeasures
from data_builders.voting.rows import VoteReader, from_json, to_json
from data_builders.voting.strengths import StrengthTally, by_question, rated, with_votes
from data_builders.voting.tallies import pool
from mmdpo.media import Media
from mmdpo.records import Candidate, Record, media_field, user_message
from mmdpo.registry import builders


class PairwiseColumns(JudgedColumns):
    """Which column holds what; `JudgedColumns` has the others.

    Args:
        image: Path or name of the picture or clip, or an object with its bytes.
        a: The first answer.
        b: The second answer.
        prompt: What was asked; null where all answers are to `prompt`.
    """

    image: str = "image"
    a: str = "a"
    b: str = "b"
    votes: str | tuple[str, ...] = "vote"
    prompt: str | None = None

    @property
    def answers(self) -> tuple[str, str]:
        """The columns of the first and of the second answer."""
        return self.a, self.b


class VotesConfig(PairingConfig, TableConfig):
    """Configuration of `mmdpo build votes`; docs/data.md explains each key.

    Args:
        values: What a vote means; never guessed.
        min_votes: Votes that an answer needs, over all its comparisons, ties included.
    """

    higher_is_better: Literal[True] = True
    columns: PairwiseColumns = PairwiseColumns()
    values: VoteValues | None = Field(None, validate_default=True)
    min_votes: int = Field(1, ge=1)

    @field_validator("columns")
    @classmethod
    def _one_voter_a_row(cls, columns: PairwiseColumns) -> PairwiseColumns:
        require_one_voter_a_row(columns)
        return columns

    @field_validator("values")
    @classmethod
    def _direction_is_said(cls, values: VoteValues | None, info: ValidationInfo) -> VoteValues | None:
        require_direction(info.data.get("columns"), values)
        return values


@builders.register("votes")
class Votes(Builder[VotesConfig]):
    """Pairs or lists from people's votes on two answers at a time, by Bradley-Terry strengths."""

    Config = VotesConfig
    sound_reasons = ("equal_captions", "too_few_votes", "no_margin", "not_selected", "length_balance")

    def media_root(self, config: VotesConfig) -> Path:
        """Folder that the records' media paths are relative to."""
        return config.root

    def records(self, config: VotesConfig, work: Work) -> Iterator[Record]:
        """See `Builder.records`."""
        spool = Spool(work.scratch / "votes.jsonl", to_json, from_json)
        reader = _reader(config, work.ledger)
        for row in table_rows(config, config.columns.settings(), work):
            judgement = reader.read(row)
            spool.extend([] if judgement is None else [judgement])
        checked = checked_media((judgement.media for judgement in spool), config, work)
        measures, compared, tally, absent = VoteMeasures(), StrengthTally(), PairTally(), dict[str, bool]()
        for part in spool.parts(lambda judgement: identity_of(judgement.media, checked)):
            usable = list(with_media(part, checked, work.ledger))
            contests = pool(usable, work.ledger)
            for judgement in usable:
                measures.cast(judgement)
            for contest in contests:
                measures.add(contest)
            answers: list[Caption] = []
            for question in by_question(contests):
                if kept := with_votes(question, config.min_votes, work.ledger):
                    answers += rated(kept, config.columns.answers, compared)
            for ranking in make_records(answers, config, work.ledger, tally):
                media = ranking.captions[0].media
                absent[media.identity] = media.sha256 is None
                yield _record(ranking, config)
        voters = measures.voters()
        work.notes += absence_note(absent, config.modality) + measures.notes(voters)
        work.quality |= {
            "source": config.source,
            "votes": measures.counts(),
            "compared": vars(compared),
            "first_wins": measures.first_wins(),
            "raters": voters,
            "agreement": measures.agreement(),
            "possible_pairs": vars(tally),
        }


def _reader(config: VotesConfig, ledger: Ledger) -> VoteReader:
    columns = config.columns

    def media(cells: Mapping[str, Any]) -> Media:
        return read_media(cells.get(columns.image), config)

    def prompt(cells: Mapping[str, Any]) -> str:
        return read_text(cells, columns.prompt) or config.prompt

    return VoteReader(columns, config.values, media, prompt, ledger)


def _record(ranking: Ranking, config: VotesConfig) -> Record:
    captions, plural = ranking.captions, media_field(config.modality)
    return Record(
        id=ranking.id,
        prompt=(user_message(captions[0].prompt, **{plural: 1}),),
        candidates=tuple(Candidate(answer.text, score=answer.score, source=answer.source) for answer in captions),
        media={plural: (captions[0].media,)},
        higher_is_better=True,
        meta={
            "builder": "votes",
            "margin": ranking.margin,
            "points": [sum(rating.value * rating.weight for rating in answer.ratings) for answer in captions],
            "votes": [int(sum(rating.weight for rating in answer.ratings)) for answer in captions],
            "rows": [[rating.row for rating in answer.ratings] for answer in captions],
        },
    )
