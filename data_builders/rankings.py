"""Answers that people put in an order become lists or pairs: `mmdpo build rankings`.

A table has one row for a whole ranking (a column with the answers, best first), or one row for each answer with its
rank. Of several rankers an answer's score is its mean place, 0 for the worst and 1 for the best of those ranked with it
(Borda's count over its largest value), so that rankings of different lengths can be joined.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import model_validator
from scipy import stats

from data_builders.base import Builder, Ledger, Work
from data_builders.rating.agreement import RatingArrays, agreement, rater_means
from data_builders.rating.pairing import Caption, PairingConfig, PairTally, Ranking, Rating, make_records
from data_builders.tables.config import (
    ColumnsModel,
    TableConfig,
    UnusableError,
    absence_note,
    checked_media,
    identity_of,
    read_answer,
    read_media,
    read_number,
    read_text,
    table_rows,
    with_media,
)
from data_builders.tables.reading import Row
from data_builders.tables.spool import Spool, as_lists
from mmdpo.media import Media
from mmdpo.records import Candidate, Record, media_field, user_message
from mmdpo.registry import builders


class RankingColumns(ColumnsModel):
    """Which column holds what.

    Args:
        image: Path or name of the picture or clip, or an object with its bytes.
        answers: A list of answers, best first; an inner list holds answers that are equally good.
        answer: In place of `answers`, one answer a row.
        rank: Its rank; `best` says which end of the ranks is the good one.
        ranker: Who ranked; null where the table does not say (then one person did each row, or all rows of a prompt).
        prompt: What was asked; null where all answers are to `prompt`.
        source: Who wrote the answer, of tables with one answer a row.
    """

    image: str = "image"
    answers: str | None = None
    answer: str | None = None
    rank: str | None = None
    ranker: str | None = None
    prompt: str | None = None
    source: str | None = None


class RankingsConfig(PairingConfig, TableConfig):
    """Configuration of `mmdpo build rankings`; docs/data.md explains each key.

    Args:
        best: Which rank is the best, `lowest` or `highest`; required where `columns.rank` is read, never guessed.
    """

    higher_is_better: Literal[True] = True
    pairing: Literal["best_worst", "all", "adjacent", "list"] = "list"
    columns: RankingColumns
    best: Literal["lowest", "highest"] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> RankingsConfig:
        columns = self.columns
        single = columns.answer is not None and columns.rank is not None
        if single == (columns.answers is not None):
            raise ValueError("give either columns.answers (a list, best first), or columns.answer and columns.rank")
        if single and self.best is None:
            raise ValueError("best: lowest or highest says which rank is the good one")
        if not single and self.best is not None:
            raise ValueError("best is for columns.rank; a list has its best answer first")
        return self


@dataclass(frozen=True, slots=True)
class Placed:
    """One answer in one person's ranking.

    Args:
        row: Number of its row.
        media: The picture.
        prompt: What was asked.
        answer: The text.
        rank: 1 is the best; equal ones are equally good.
        ranker: Who ranked; empty where the table does not say.
        ranking: Which of the person's rankings it is in, where a row is a whole one.
        source: Who wrote it.
    """

    row: int
    media: Media
    prompt: str
    answer: str
    rank: float
    ranker: str
    ranking: str
    source: str | None


@builders.register("rankings")
class Rankings(Builder[RankingsConfig]):
    """Lists or pairs from a table of answers in an order."""

    Config = RankingsConfig
    sound_reasons = ("single_caption", "no_margin", "not_selected", "length_balance", "duplicate_row")

    def media_root(self, config: RankingsConfig) -> Any:
        """Folder that the records' media paths are relative to."""
        return config.root

    def records(self, config: RankingsConfig, work: Work) -> Iterator[Record]:
        """See `Builder.records`."""
        spool = Spool(work.scratch / "rankings.jsonl", *as_lists(Placed))
        for row in table_rows(config, config.columns.settings(), work):
            try:
                spool.extend(list(_read(row, config)))
            except UnusableError as problem:
                work.ledger.set_aside(problem.reason, row.number, problem.value, message=problem.message)
        checked = checked_media((placed.media for placed in spool), config, work)
        arrays, tally, absent = RatingArrays(), PairTally(), dict[str, bool]()
        for part in spool.parts(lambda placed: identity_of(placed.media, checked)):
            usable = with_media(part, checked, work.ledger)
            captions = _captions(_scored(usable, work.ledger))
            for caption in captions:
                arrays.add(caption.ratings)
            for ranking in make_records(captions, config, work.ledger, tally):
                media = ranking.captions[0].media
                absent[media.identity] = media.sha256 is None
                yield _record(ranking, config)
        work.notes += absence_note(absent, config.modality)
        work.quality |= {
            "source": config.source,
            "raters": rater_means(arrays),
            "agreement": agreement(arrays),
            "possible_pairs": vars(tally),
        }


def _read(row: Row, config: RankingsConfig) -> Iterator[Placed]:
    columns, cells = config.columns, row.cells
    media = read_media(cells.get(columns.image), config)
    prompt = read_text(cells, columns.prompt) or config.prompt
    ranker = read_text(cells, columns.ranker) or ""
    if columns.ranker is not None and not ranker:
        raise UnusableError("no_rater", None, "whose ranking it is cannot be known; see columns.ranker")
    if columns.answers is None:
        assert columns.answer is not None and columns.rank is not None  # the configuration says so
        rank = read_number(cells.get(columns.rank)) * (1 if config.best == "lowest" else -1)
        answer = read_answer(cells.get(columns.answer))
        yield Placed(row.number, media, prompt, answer, rank, ranker, "", read_text(cells, columns.source))
        return
    given = cells.get(columns.answers)
    if not isinstance(given, list) or not given:
        raise UnusableError("no_list", given, "the answers are no list, best first")
    levels = [(read_answer(one) for one in (level if isinstance(level, list) else [level])) for level in given]
    yield from [
        Placed(row.number, media, prompt, answer, float(place), ranker, f"row {row.number}", None)
        for place, level in enumerate(levels, 1)
        for answer in level
    ]


def _scored(placed: Iterable[Placed], ledger: Ledger) -> Iterator[Rating]:
    """Every place in a ranking as a rating from 0 (the worst of those ranked together) to 1 (the best).

    A named person ranks an answer once, also over several lists; a list has an answer once, whoever made it.
    """
    rankings: dict[tuple[str, ...], list[Placed]] = defaultdict(list)
    first: dict[tuple[str, ...], Placed] = {}
    for one in placed:
        about = (one.media.identity, one.prompt, one.ranker)
        earlier = first.setdefault((*about, "" if one.ranker else one.ranking, one.answer), one)
        if earlier is one:
            rankings[*about, one.ranking].append(one)
            continue
        reason = "duplicate_row" if earlier.rank == one.rank else "conflicting_rating"
        ledger.set_aside(reason, one.row, one.rank, message=f"the same answer was ranked before, in row {earlier.row}")
    for ranking in rankings.values():
        if len(ranking) == 1:  # a place among one says nothing
            ledger.set_aside("single_caption", ranking[0].row, ranking[0].answer)
            continue
        scores = 1 - (stats.rankdata([one.rank for one in ranking]) - 1) / (len(ranking) - 1)
        for one, score in zip(ranking, scores.tolist(), strict=True):
            name = one.ranker or one.ranking or "the ranking"
            yield Rating(one.row, None, one.media, one.prompt, one.answer, name, bool(one.ranker), score, one.source)


def _captions(ratings: Iterator[Rating]) -> list[Caption]:
    groups: dict[tuple[str, str, str], list[Rating]] = defaultdict(list)
    for rating in ratings:
        groups[rating.media.identity, rating.prompt, rating.caption].append(rating)
    return [Caption(tuple(given), float(np.mean([rating.value for rating in given]))) for given in groups.values()]


def _record(ranking: Ranking, config: RankingsConfig) -> Record:
    captions, plural = ranking.captions, media_field(config.modality)
    meta: Mapping[str, Any] = {
        "builder": "rankings",
        "margin": ranking.margin,
        "places": [[rating.value for rating in caption.ratings] for caption in captions],
        "rankers": [[rating.rater for rating in caption.ratings] for caption in captions],
        "rows": [[rating.row for rating in caption.ratings] for caption in captions],
    }
    return Record(
        id=ranking.id,
        prompt=(user_message(captions[0].prompt, **{plural: 1}),),
        candidates=tuple(Candidate(caption.text, score=caption.score, source=caption.source) for caption in captions),
        media={plural: (captions[0].media,)},
        higher_is_better=True,
        meta=meta,
    )
