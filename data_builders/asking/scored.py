"""What builders share that give answers a score: reading the answers of each prompt, and pairs or lists from scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from data_builders.asking.prompt_sources import AnswersConfig, Asked, media_key, read_answers, spooled
from data_builders.base import Work
from data_builders.rating.pairing import Caption, PairingConfig, PairTally, Ranking, Rating, make_records
from data_builders.tables.config import absence_note
from data_builders.tables.spool import Spool
from mmdpo.media import Media
from mmdpo.records import Record

SOUND = ("single_caption", "no_margin", "not_selected", "length_balance", "duplicate_row")
_EACH = 64  # prompts whose answers are scored side by side


class ScoredConfig(PairingConfig, AnswersConfig):
    """What a builder that scores answers is told."""

    higher_is_better: Literal[True] = True


@dataclass(frozen=True)
class Scored:
    """One answer with its score.

    Args:
        asked: The answer.
        score: More is better.
        told: What the record keeps of how it was found.
    """

    asked: Asked
    score: float
    told: Mapping[str, Any] = field(default_factory=dict)


Group = list[Asked]
"""The different answers to one prompt."""


def answers_of(config: ScoredConfig, work: Work, name: str) -> Spool[Asked]:
    """All answers of the source, on disk where they are many."""
    spool = spooled(work, name)
    spool.extend(read_answers(config, work))
    return spool


def groups_of(answers: Spool[Asked], work: Work) -> Iterator[list[Group]]:
    """The answers to each prompt, several prompts at a time; those about the same media stand together.

    A prompt with a single answer is set aside, and so is the second of two answers that are alike.
    """
    for part in answers.parts(lambda one: media_key(one.record)):
        by_media: dict[str, dict[str, dict[str, Asked]]] = defaultdict(lambda: defaultdict(dict))
        for one in part:
            assert one.answer is not None
            prompts = by_media[media_key(one.record)]
            first = prompts[one.record.id].setdefault(one.answer.text.strip(), one)
            if first is not one:
                told = f"the same answer is in row {first.row}"
                work.ledger.set_aside("duplicate_row", one.row, one.answer.text, column=one.column, message=told)
        block: list[Group] = []
        for prompts in by_media.values():
            for group in prompts.values():
                if len(group) > 1:
                    whole = work.store.whole_record(next(iter(group.values())).record)
                    block.append([replace(one, record=whole) for one in group.values()])
                    continue
                (one,) = group.values()
                work.ledger.set_aside("single_caption", one.row, one.answer and one.answer.text, column=one.column)
            if len(block) >= _EACH:
                yield block
                block = []
        if block:
            yield block


class Pairing:
    """Makes records of scored answers, and tells how scores go with length.

    Args:
        builder: Name of the builder.
        rater: Who scored.
        config: What becomes a record.
        work: What the builder works with.
    """

    def __init__(self, builder: str, rater: str, config: ScoredConfig, work: Work) -> None:
        self._builder, self._rater, self._config, self._work = builder, rater, config, work
        self._tally = PairTally()
        self._absent: dict[str, bool] = {}
        self._scores: list[float] = []
        self._lengths: list[float] = []

    def records(self, scored: Sequence[Scored]) -> Iterator[Record]:
        """The records of some prompts; all prompts about the same media come together."""
        by_answer = {(one.asked.record.id, one.asked.answer and one.asked.answer.text): one for one in scored}
        self._compare_lengths(scored)
        captions = [Caption((self._rating(one),), one.score) for one in scored]
        for ranking in make_records(captions, self._config, self._work.ledger, self._tally):
            chosen = [by_answer[caption.prompt, caption.text] for caption in ranking.captions]
            yield self._record(ranking, chosen)

    def close(self) -> None:
        """Puts the numbers into the work's."""
        work = self._work
        work.notes += absence_note(self._absent)
        work.quality |= {
            "source": self._config.source,
            "possible_pairs": vars(self._tally),
            "scores": {"n": len(self._scores), "length_correlation": self._correlation()},
        }

    def _rating(self, one: Scored) -> Rating:
        asked = one.asked
        assert asked.answer is not None
        # all media of a prompt as one: what is compared and capped are answers about the same media
        media = Media(sha256=media_key(asked.record))
        text, source = asked.answer.text, asked.answer.source
        return Rating(asked.row, asked.column, media, asked.record.id, text, self._rater, True, one.score, source)

    def _record(self, ranking: Ranking, chosen: Sequence[Scored]) -> Record:
        first = chosen[0].asked.record
        for _, item in first.media_items():
            self._absent[item.identity] = item.sha256 is None and item.data is None
        meta = {
            "builder": self._builder,
            "margin": ranking.margin,
            "rows": [one.asked.row for one in chosen],
            "scored_by": self._rater,
            "told": [dict(one.told) for one in chosen],
        }
        answers = [replace(one.asked.answer, score=one.score, rank=None) for one in chosen if one.asked.answer]
        return replace(first, id=ranking.id, candidates=tuple(answers), higher_is_better=True, meta=meta)

    def _compare_lengths(self, scored: Sequence[Scored]) -> None:
        """Scores and lengths in words, each as the distance from the mean of its prompt."""
        groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for one in scored:
            assert one.asked.answer is not None
            groups[one.asked.record.id].append((one.score, float(len(one.asked.answer.text.split()))))
        for group in groups.values():
            values = np.array(group) - np.mean(group, 0)
            self._scores += values[:, 0].tolist()
            self._lengths += values[:, 1].tolist()

    def _correlation(self) -> float | None:
        """Pearson's, over answers to the same prompt; None where scores or lengths are all alike."""
        if not np.any(self._scores) or not np.any(self._lengths):
            return None
        return float(np.corrcoef(self._scores, self._lengths)[0, 1])
