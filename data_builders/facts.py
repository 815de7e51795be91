"""Answers whose claims people judged one by one become pairs or lists: `mmdpo build facts`.

An answer's score is the share of its claims that are right, or minus the number that are wrong. Which label means right
is said, never guessed: what data sets say of themselves and what their labels say are not always the same.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from data_builders.base import Builder, Ledger, Work
from data_builders.rating.pairing import Caption, PairingConfig, PairTally, Ranking, Rating, make_records
from data_builders.tables.config import (
    ColumnsModel,
    TableConfig,
    UnusableError,
    absence_note,
    checked_media,
    identity_of,
    is_blank,
    read_answer,
    read_media,
    read_text,
    table_rows,
    with_media,
)
from data_builders.tables.reading import Row
from data_builders.tables.spool import Spool, as_lists
from data_builders.voting.columns import Labels, plain, require_apart
from mmdpo.media import Media
from mmdpo.records import Candidate, Record, media_field, user_message
from mmdpo.records.marks import Span
from mmdpo.registry import builders

_FORM = 'claims are {"There is a dog.": 1} or [{"fact": "There is a dog.", "label": 1}]'


class FactColumns(ColumnsModel):
    """Which column holds what.

    Args:
        image: Path, name or id of the picture or clip, or an object with its bytes.
        answer: The answer that was taken apart.
        facts: Its claims with their labels, as an object, a list of objects with `fact` and `label`, or JSON of these.
        prompt: What was asked; null where all answers are to `prompt`.
        source: Who wrote the answer; null where that is not known.
    """

    image: str = "image"
    answer: str = "answer"
    facts: str = "facts"
    prompt: str | None = None
    source: str | None = None


class FactsConfig(PairingConfig, TableConfig):
    """Configuration of `mmdpo build facts`; docs/data.md explains each key.

    Args:
        right: Labels that mean that a claim is right; numbers are compared as such, words without case.
        wrong: Labels that mean that it is wrong.
        score: `share` of the claims that are right, or `fewest_wrong`: minus the number that are wrong.
        min_claims: Judged claims that an answer needs.
    """

    higher_is_better: Literal[True] = True
    columns: FactColumns = FactColumns()
    right: Labels
    wrong: Labels
    score: Literal["share", "fewest_wrong"] = "share"
    min_claims: int = Field(1, ge=1)

    @field_validator("right", "wrong", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else (value,)

    @model_validator(mode="after")
    def _different(self) -> FactsConfig:
        require_apart(self.right, self.wrong, "right and wrong")
        return self


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer with its judged claims: claim -> whether it is right."""

    row: int
    media: Media
    prompt: str
    answer: str
    claims: Mapping[str, bool]
    source: str | None


@builders.register("facts")
class Facts(Builder[FactsConfig]):
    """Pairs or lists of answers whose claims people judged right or wrong, one by one."""

    Config = FactsConfig
    sound_reasons = (*("no_claims", "too_few_claims", "single_caption", "no_margin", "not_selected", "length_balance"),)

    def media_root(self, config: FactsConfig) -> Path:
        """Folder that the records' media paths are relative to."""
        return config.root

    def records(self, config: FactsConfig, work: Work) -> Iterator[Record]:
        """See `Builder.records`."""
        spool = Spool(work.scratch / "facts.jsonl", *as_lists(Judged))
        labels, tally, absent, marked = Counter[str](), PairTally(), dict[str, bool](), 0
        for row in table_rows(config, config.columns.settings(), work):
            try:
                spool.extend([_read(row, config, work.ledger, labels)])
            except UnusableError as problem:
                work.ledger.set_aside(problem.reason, row.number, problem.value, message=problem.message)
        checked = checked_media((judged.media for judged in spool), config, work)
        for part in spool.parts(lambda judged: identity_of(judged.media, checked)):
            usable = list(with_media(part, checked, work.ledger))
            claims = {judged.row: judged.claims for judged in usable}
            for ranking in make_records(_captions(usable, config), config, work.ledger, tally):
                media = ranking.captions[0].media
                absent[media.identity] = media.sha256 is None
                record = _record(ranking, claims, config)
                marked += any(candidate.spans for candidate in record.candidates)
                yield record
        work.notes += absence_note(absent, config.modality)
        work.quality |= {
            "source": config.source,
            "claims": {name: labels[name] for name in ("right", "wrong", "unlabelled")},
            "records_with_marks": marked,
            "possible_pairs": vars(tally),
        }


def _read(row: Row, config: FactsConfig, ledger: Ledger, labels: Counter[str]) -> Judged:
    columns, cells = config.columns, row.cells
    judged = Judged(
        row=row.number,
        media=read_media(cells.get(columns.image), config),
        prompt=read_text(cells, columns.prompt) or config.prompt,
        answer=read_answer(cells.get(columns.answer)),
        claims=_claims(row, config, ledger, labels),
        source=read_text(cells, columns.source),
    )
    if not judged.claims:
        raise UnusableError("no_claims", None, "nothing that the answer says was judged")
    if len(judged.claims) < config.min_claims:
        raise UnusableError("too_few_claims", len(judged.claims), f"min_claims is {config.min_claims}")
    return judged


def _claims(row: Row, config: FactsConfig, ledger: Ledger, labels: Counter[str]) -> dict[str, bool]:
    """Claim -> whether it is right; labels that mean neither go to the ledger."""
    senses = {
        plain(value): sense for sense, values in ((True, config.right), (False, config.wrong)) for value in values
    }
    found, column = dict[str, bool](), config.columns.facts
    for text, label in _listed(row.cells.get(column)):
        claim, sense = " ".join(text.split()), senses.get(plain(label))
        if is_blank(label):  # Arrow gives every row the keys of all rows, with null for those that it has not
            labels["unlabelled"] += 1
        elif sense is None:
            known = f"right is {', '.join(map(str, config.right))}; wrong is {', '.join(map(str, config.wrong))}"
            ledger.set_aside("unknown_label", row.number, label, column=column, message=f"of {claim!r}: {known}")
        elif claim in found:
            message = f"{claim!r} has a label before; the first counts"
            ledger.set_aside("repeated_claim", row.number, label, column=column, message=message)
        else:
            found[claim] = sense
            labels["right" if sense else "wrong"] += 1
    return found


def _listed(cell: Any) -> list[tuple[str, Any]]:
    """Claims and labels of a cell.

    Raises:
        UnusableError: It holds something else.
    """
    given = cell
    if isinstance(cell, str) and cell.strip():
        try:
            given = json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise UnusableError("bad_claims", cell, f"{_FORM}; this is text, and no JSON: {error}") from error
    if is_blank(given):
        return []
    pairs: list[tuple[Any, Any]] = []
    if isinstance(given, Mapping):
        pairs = list(given.items())
    elif isinstance(given, list | tuple) and all(isinstance(one, Mapping) and "label" in one for one in given):
        pairs = [(one.get("fact"), one["label"]) for one in given]
    else:
        raise UnusableError("bad_claims", given, _FORM)
    if not all(isinstance(text, str) and text.strip() for text, _ in pairs):
        raise UnusableError("bad_claims", given, f"{_FORM}; a claim of this row is blank or no text")
    return pairs


def _captions(judged: Iterable[Judged], config: FactsConfig) -> list[Caption]:
    """Each answer with its score; of an answer that was judged several times it is the mean."""
    groups: dict[tuple[str, str, str], list[Rating]] = defaultdict(list)
    for one in judged:
        wrong = sum(not right for right in one.claims.values())
        value = float(-wrong) if config.score == "fewest_wrong" else 1 - wrong / len(one.claims)
        rating = Rating(one.row, None, one.media, one.prompt, one.answer, "", False, value, one.source)
        groups[one.media.identity, one.prompt, one.answer].append(rating)
    return [Caption(tuple(given), fmean(rating.value for rating in given)) for given in groups.values()]


def _record(ranking: Ranking, claims: Mapping[int, Mapping[str, bool]], config: FactsConfig) -> Record:
    captions, plural = ranking.captions, media_field(config.modality)
    judged = [[claims[rating.row] for rating in caption.ratings] for caption in captions]
    spans = [(), *(_wrong_words(caption.text, some) for caption, some in zip(captions[1:], judged[1:], strict=True))]
    return Record(
        id=ranking.id,
        prompt=(user_message(captions[0].prompt, **{plural: 1}),),
        candidates=tuple(
            Candidate(caption.text, score=round(caption.score, 6), source=caption.source, spans=own)
            for caption, own in zip(captions, spans, strict=True)
        ),
        media={plural: (captions[0].media,)},
        higher_is_better=True,
        meta={
            "builder": "facts",
            "margin": ranking.margin,
            "claims": [[[[claim, right] for claim, right in one.items()] for one in some] for some in judged],
            "rows": [[rating.row for rating in caption.ratings] for caption in captions],
        },
    )


def _wrong_words(answer: str, judged: Sequence[Mapping[str, bool]]) -> tuple[Span, ...]:
    """Where wrong claims stand in an answer word for word, whatever their case; what is put otherwise has no place."""
    wrong = dict.fromkeys(claim.rstrip(" .!;,") for one in judged for claim, right in one.items() if not right)
    found: list[Span] = []
    for claim in sorted(filter(None, wrong), key=len, reverse=True):  # the longest of those that hold each other
        words = r"\s+".join(re.escape(word) for word in claim.split())
        for match in re.finditer(rf"(?<!\w){words}(?!\w)", answer, re.IGNORECASE):
            if all(match.end() <= start or end <= match.start() for start, end in found):
                found.append(match.span())
    return tuple(sorted(found))
