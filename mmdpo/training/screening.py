"""Before training: every record is gone through once, and what does not fit is set aside, counted and listed.

Media are never truncated and answers are never cut: a record that is too long, whose media cannot be read or whose text
would become a control token is left out whole, with the reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mmdpo.encoding.companions import Companions
from mmdpo.encoding.example import Encoder
from mmdpo.encoding.lengths import PromptLengths, Sizes, UnreliableError, sizes_ahead
from mmdpo.encoding.planning import PlannedRow, plan
from mmdpo.errors import ConfigError, MMDPOError, ModelError
from mmdpo.objectives import Objective
from mmdpo.records import Candidate, Record, media_field
from mmdpo.records.checks import contradicting_labels, lacks_direction, ratings_of
from mmdpo.training.objective_checks import reads_partner, usage
from mmdpo.views import EVERY, View

Refusal = tuple[str, str]
"""Why a record is set aside: a short stable name, and the same for people."""


@dataclass(frozen=True)
class SetAsideRecord:
    """A record that is not trained on.

    Args:
        index: Its place in the data set.
        id: Its id.
        reason: Short stable name: ``too_long``, ``control_token``, ``placeholder_mismatch``, ``equal_answers``,
            ``empty_answer``, ``missing_candidates`` or ``no_term`` (no loss term can use it), ``wrong_order``,
            ``missing_direction``, ``bad_score`` (no finite number), ``not_ranked``, ``wrong_partner`` (``meta.partner``
            names none that it can have), ``refused`` (by the model's processor or template), the kind of a
            :class:`~mmdpo.media.MediaError`, or ``unreadable``.
        message: The same for people.
        split: ``train`` or ``validation``.
    """

    index: int
    id: str
    reason: str
    message: str
    split: str = "train"


def count_reasons(set_aside: Iterable[SetAsideRecord]) -> dict[str, int]:
    """Records set aside by reason, the most frequent first."""
    return dict(Counter(entry.reason for entry in set_aside).most_common())


@dataclass
class Screening:
    """What came of going through every record.

    Args:
        kept: Places of the records that are used.
        set_aside: The others.
        lengths: Tokens of the longest plain row of each kept record.
        packed: Tokens of its prompt and all its answers together, each kept record's.
        media: Media items of each kept record.
        ways: How many answers were tokenised which way.
        terms: How many of the kept records each loss term uses.
        measured: How many lengths of prompts were found how: by the processor's ``count`` or from the ``size`` of
            pictures, or ``encoded``.
    """

    kept: list[int] = field(default_factory=list)
    set_aside: list[SetAsideRecord] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    packed: list[int] = field(default_factory=list)
    media: list[int] = field(default_factory=list)
    ways: Counter[str] = field(default_factory=Counter)
    terms: Counter[str] = field(default_factory=Counter)
    measured: Counter[str] = field(default_factory=Counter)

    def reasons(self) -> dict[str, int]:
        """Records set aside by reason."""
        return count_reasons(self.set_aside)

    def probes(self) -> list[int]:
        """Places of the records that the start-up check tries: longest, most media, one without media."""
        order = range(len(self.kept))
        picks = [max(order, key=self.lengths.__getitem__), max(order, key=self.media.__getitem__)]
        picks += [next(n for n in order if self.media[n] == 0)] if 0 in self.media else []
        return sorted({self.kept[n] for n in picks})


def screen(
    records: Sequence[Record],
    encoder: Encoder,
    objective: Objective,
    max_length: int | None = None,
    progress: Callable[[Iterable[Record]], Iterable[Record]] = iter,
    split: str = "train",
) -> Screening:
    """Goes through every record once and decides which can be trained on.

    Every answer is tokenised and every picture decoded; prompts are encoded where their lengths do not follow from the
    sizes of their pictures (:mod:`mmdpo.encoding.lengths`).

    Args:
        records: The records.
        encoder: Encoder of the model.
        objective: The objective: which candidates a record must have, which media variants.
        max_length: Longest plain row in tokens; by default the model's position limit.
        progress: Wraps the records for a progress bar.
        split: Name of the records in the account.
    """
    limits = [limit for limit in (max_length, encoder.facts.max_positions) if limit is not None]
    limit = min(limits) if limits else None
    for lengths in (PromptLengths(encoder), PromptLengths(encoder, count=False), PromptLengths(encoder, sizes=False)):
        try:
            return _screened(records, _Examiner(encoder, objective, limit, lengths), progress, split)
        except UnreliableError:
            continue
    raise AssertionError("lengths of prompts that are all encoded are in no doubt")


def _screened(
    records: Sequence[Record], examiner: _Examiner, progress: Callable[[Iterable[Record]], Iterable[Record]], split: str
) -> Screening:
    encoder, objective = examiner.encoder, examiner.objective
    found: dict[int, _Passed | Refusal] = {}
    left, settled = list(range(len(records))), False
    shown: Iterable[tuple[Record, Sizes | None]] = sizes_ahead(progress(records), encoder)
    while not settled:
        # a record that is set aside is no companion: those that had it have another one in the next round
        among = [records[index] for index in left]
        companions = Companions(among, encoder.seed)
        uses = usage(objective, among, companions)
        settled = True
        for place, (index, (record, sizes)) in enumerate(zip(left, shown, strict=True)):
            before = found.get(index)
            found[index] = examiner.examine(record, sizes, companions, uses.used(place), before)
            settled = settled and found[index] is before
        passed = {index: one for index in left if isinstance(one := found[index], _Passed)}
        left = list(passed)
        shown = [(records[index], None) for index in left]
    refused = {index: one for index, one in sorted(found.items()) if not isinstance(one, _Passed)}
    return Screening(
        kept=left,
        set_aside=[SetAsideRecord(index, records[index].id, *one, split) for index, one in refused.items()],
        lengths=[one.length for one in passed.values()],
        packed=[one.packed for one in passed.values()],
        media=[sum(len(items) for items in records[index].media.values()) for index in left],
        ways=Counter(way for one in passed.values() for way in one.ways),
        terms=Counter({name: count for name, count in uses.counts.items() if count}),
        measured=examiner.lengths.how,
    )


@dataclass(frozen=True)
class _Passed:
    """A record that can be used.

    Args:
        prompt: Tokens of its prompt.
        length: Tokens of its longest plain row.
        packed: Tokens of its prompt and all its answers.
        ways: How each of its answers was tokenised.
        others: The answers of other records that were tried with its prompt.
    """

    prompt: int
    length: int
    packed: int
    ways: tuple[str, ...]
    others: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class _Examiner:
    """Decides on one record at a time: first on its own answers, then, among those that passed, on its companions'."""

    encoder: Encoder
    objective: Objective
    limit: int | None
    lengths: PromptLengths

    def examine(
        self,
        record: Record,
        sizes: Sizes | None,
        companions: Companions,
        used: bool,
        before: _Passed | Refusal | None,
    ) -> _Passed | Refusal:
        """What comes of a record, or ``before`` where nothing has changed; ``used`` says if any term can use it."""
        views = self.objective.views
        rows = {row.view.candidate: row for row in plan(record, views, companions).rows}
        own, others = ([row for k, row in rows.items() if (k >= 0) is mine] for mine in (True, False))
        if any(map(reads_partner, views)) and (wrong := companions.partner_problem(record)):
            return "wrong_partner", wrong
        if bad := _bad_score(record):
            return bad
        if not used:
            return _unused(record, self.objective)
        try:
            if not isinstance(before, _Passed):
                return _problem(record, views, own) or self._alone(record, sizes, own)
            answers = tuple(row.answer for row in others)
            return before if answers == before.others else self._with_others(record, before, answers)
        except ConfigError:
            raise  # of no record: a package that is missing, a modality that nobody registered
        except MMDPOError as error:
            return _reason_of(error), error.what

    def _alone(self, record: Record, sizes: Sizes | None, rows: Sequence[PlannedRow]) -> _Passed | Refusal:
        self.encoder.check_rendering(record)
        prompt = self.lengths.of(record, sizes)
        answers = [self.encoder.answer(record, row.answer) for row in rows]
        if len({tuple(answer.ids.tolist()) for answer in answers}) < len(answers):
            return "equal_answers", "two candidates are the same tokens"
        lengths = [len(answer.ids) for answer in answers]
        longest, ways = prompt + max(lengths, default=0), tuple(answer.way for answer in answers)
        return self._fitting(_Passed(prompt, longest, prompt + sum(lengths), ways))

    def _with_others(self, record: Record, before: _Passed, others: tuple[Candidate, ...]) -> _Passed | Refusal:
        lengths = [len(self.encoder.answer(record, answer).ids) for answer in others]
        longest = max(before.length, before.prompt + max(lengths, default=0))
        return self._fitting(replace(before, length=longest, packed=before.packed + sum(lengths), others=others))

    def _fitting(self, one: _Passed) -> _Passed | Refusal:
        if self.limit is None or one.length <= self.limit:
            return one
        return "too_long", f"{one.length} tokens, the limit is {self.limit}"


def _bad_score(record: Record) -> Refusal | None:
    for place, candidate in enumerate(record.candidates):
        if candidate.score is not None and not math.isfinite(candidate.score):
            return "bad_score", f"candidate {place} has the score {candidate.score}"
    return None


def _unused(record: Record, objective: Objective) -> Refusal:
    """Why no term takes a record."""
    needed = max((view.candidate + 1 for view in objective.views), default=1)
    if len(record.candidates) < needed:
        return "missing_candidates", f"{len(record.candidates)} candidates, the loss needs {needed}"
    needs = [
        f"{name} needs {term.needs or ', '.join(map(str, term.views()))}" for name, term in objective.terms.items()
    ]
    if lacks_direction(record):
        return "missing_direction", "it has scores or ranks, but higher_is_better is not said"
    return "no_term", "no loss term can use it: " + "; ".join(needs)


def _problem(record: Record, views: Sequence[View], rows: Sequence[PlannedRow]) -> Refusal | None:
    if any(not row.answer.text.strip() for row in rows):
        return "empty_answer", "an answer has no text"
    if len(rows) > 1 and record.meta.get("scored") is False:
        return "not_ranked", "its candidates stand in no order yet: build judge, self_check or clip_score makes one"
    by_place = [view.candidate for view in views if view.candidate >= 0]
    if any(view.candidate == EVERY for view in views) and lacks_direction(record):
        return "missing_direction", "it has scores or ranks, but higher_is_better is not said"
    if by_place and (problem := _order_problem(record)):
        return problem
    parts = [part["type"] for message in record.prompt for part in message["content"]]
    places = Counter(media_field(part) for part in parts if part != "text")
    items = Counter({name: len(media) for name, media in record.media.items()})
    if places != items:
        return "placeholder_mismatch", f"places for {_counted(places)}, media: {_counted(items)}"
    return None


def _order_problem(record: Record) -> Refusal | None:
    """Why the candidates do not stand best first, as terms that name them by their place read them."""
    if lacks_direction(record):
        return "missing_direction", "it has scores or ranks, but higher_is_better is not said"
    if contradicting_labels(record):
        return "wrong_order", "the chosen answer is labelled undesirable, the rejected one desirable"
    ratings = ratings_of(record)
    if len(ratings) > 1 and (ratings[0] <= ratings[1] or ratings != sorted(ratings, reverse=True)):
        what = "scores" if record.candidates[0].score is not None else "ranks"
        if ratings == sorted(ratings, reverse=True):
            return "wrong_order", f"by their {what} the first two candidates are equally good: no pair tells them apart"
        return "wrong_order", f"by their {what} the candidates do not stand best first"
    return None


def _counted(media: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(media.items()) if count) or "none"


def _reason_of(error: MMDPOError) -> str:
    if isinstance(error, ModelError):
        return "refused"
    return "control_token" if "control token" in error.what else getattr(error, "kind", "unreadable")
