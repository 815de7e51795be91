"""How far voters agree, who votes against the others, and whether what stands first wins more often."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from data_builders.intervals import Sums, estimate
from data_builders.rating.agreement import MAX_RATERS, RatingArrays, agreement, rater_means
from data_builders.rating.pairing import Rating
from data_builders.tables.config import unnamed_note
from data_builders.voting.tallies import FIRST, SECOND, TIE, Contest, Judgement
from mmdpo.evals.stats import ratio

_UNANIMOUS = ratio("unanimous", "unanimous", "pairs")
_WITH_OTHERS = ratio("with_others", "with", "compared")
_FIRST_WINS = ratio("first_wins", "first", "decided")
_NAMED_IN_NOTE = 10


class VoteMeasures:
    """The numbers of all votes, taken contest by contest; memory grows by some bytes a vote and by clips times voters.

    Krippendorff's alpha compares the disagreement on one pair with that of any two votes. Which answer stands first
    means nothing, so every pair counts in both orders: a table that always puts the better one first would otherwise
    look as if agreement came by chance. In both orders alpha for interval and for ordinal data are the same.
    """

    def __init__(self) -> None:
        self._cast = RatingArrays()
        self._cast_kinds: dict[str, RatingArrays] = defaultdict(RatingArrays)
        self._kinds: dict[str, RatingArrays] = defaultdict(RatingArrays)
        self._all = RatingArrays()
        self._several: dict[str | None, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
        self._pairs: dict[str | None, int] = defaultdict(int)
        self._with_others: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))

    def cast(self, judgement: Judgement) -> None:
        """Takes the votes of a row as they were cast, repeated ones too."""
        given = list(as_ratings(judgement))
        self._cast.add(given)
        if judgement.kind is not None:
            self._cast_kinds[judgement.kind].add(given)

    def add(self, contest: Contest) -> None:
        """Takes all votes on two answers."""
        kind, values = contest.judgements[0].kind, [vote.value for vote in contest.votes]
        image = contest.judgements[0].media.identity
        for about in {kind, None}:
            self._pairs[about] += 1
            if len(values) > 1:
                counts = self._several[about][image]
                counts[0] += 1
                counts[1] += len(set(values)) == 1
        for turned in (False, True):
            given = [
                rating
                for judgement in contest.judgements
                for rating in as_ratings(judgement.turned if turned else judgement)
            ]
            self._all.add(given)
            if kind is not None:
                self._kinds[kind].add(given)
        for vote in contest.votes:
            others = sum(values) - vote.value
            if vote.voter is not None and vote.value != TIE and others:
                compared = self._with_others[vote.voter][image]
                compared[0] += 1
                compared[1] += (vote.value > 0) == (others > 0)

    def counts(self) -> dict[str, int]:
        """Votes as they were cast, distinct pairs of answers, and what they are about."""
        values = np.array(self._cast.values)
        cast = {name: int((values == value).sum()) for name, value in (("a", FIRST), ("b", SECOND), ("tie", TIE))}
        return {"n": len(values), **cast, "pairs": self._pairs[None], "clips": len(self._cast.image_names)}

    def agreement(self) -> dict[str, Any]:
        """How far the voters agree, over all pairs and by their kind.

        Returns:
            What `rating.agreement.agreement` gives, with votes for ratings; `unanimous`, the share of pairs with
            two votes or more that are all equal; and `by_kind`, the same two by kind of pair.
        """
        by_kind = {
            kind: {
                "pairs": self._pairs[kind],
                "alpha": _in_both_orders(arrays)["alpha_interval"],
                "unanimous": self._unanimous(kind),
            }
            for kind, arrays in sorted(self._kinds.items())
        }
        return {**_in_both_orders(self._all), "unanimous": self._unanimous(None), "by_kind": by_kind}

    def first_wins(self) -> dict[str, Any]:
        """Share of the votes other than ties that are for the answer that stands first, with its 95% interval.

        Where pairs have a kind, `by_kind` has the share of each.
        """
        found = _first_wins(self._cast)
        kinds = {kind: _first_wins(arrays) for kind, arrays in sorted(self._cast_kinds.items())}
        return {**found, "by_kind": kinds} if kinds else found

    def voters(self) -> list[dict[str, Any]]:
        """How every named voter voted, most active first: count, mean and spread as in `rater_means`, and
        `with_the_others`, the share of votes that are for the answer that the others' votes on it are for.

        Ties say nothing here, neither the voter's nor the others'; the first 1000 voters get the share.
        """
        means = rater_means(self._cast)
        return [row | {"with_the_others": self._share_of(row["rater"])} for row in means[:MAX_RATERS]] + means[
            MAX_RATERS:
        ]

    def notes(self, voters: Iterable[dict[str, Any]]) -> list[str]:
        """What a person should know: votes that name nobody, and who votes against the others.

        Args:
            voters: What `voters` gave.
        """
        cast = np.array(self._cast.raters)
        notes = unnamed_note(int((cast < 0).sum()), len(cast), "votes")
        shares = [(row["rater"], row.get("with_the_others") or {}) for row in voters]
        against = [name for name, share in shares if share.get("high") is not None and share["high"] < 0.5]
        if not against:
            return notes
        shown = ", ".join(against[:_NAMED_IN_NOTE]) + (", ..." if len(against) > _NAMED_IN_NOTE else "")
        return [
            *notes,
            f"{len(against)} of {len(shares)} voters vote against the others more often than with them ({shown}): "
            "they may have mixed up the sides; see with_the_others",
        ]

    def _share_of(self, voter: str) -> dict[str, Any]:
        found = self._with_others.get(voter, {})
        return estimate([Sums(image, {"compared": n, "with": k}) for image, (n, k) in found.items()], _WITH_OTHERS)

    def _unanimous(self, kind: str | None) -> dict[str, Any]:
        found = self._several[kind].items()
        return estimate([Sums(image, {"pairs": n, "unanimous": k}) for image, (n, k) in found], _UNANIMOUS)


def _first_wins(arrays: RatingArrays) -> dict[str, Any]:
    images = np.repeat(np.array(arrays.images, np.int64), np.array(arrays.sizes, np.int64))
    values, count = np.array(arrays.values), len(arrays.image_names)
    first = np.bincount(images[values == FIRST], minlength=count)
    decided = np.bincount(images[values != TIE], minlength=count)
    found = zip(arrays.image_names, first.tolist(), decided.tolist(), strict=True)
    return estimate([Sums(image, {"first": a, "decided": n}) for image, a, n in found if n], _FIRST_WINS)


def as_ratings(judgement: Judgement) -> Iterator[Rating]:
    """The votes as ratings of an ordered pair of captions: 1, 0 or -1."""
    for place, vote in enumerate(judgement.votes):
        yield Rating(
            row=judgement.row,
            column=vote.column,
            media=judgement.media,
            prompt=judgement.prompt,
            caption=json.dumps(judgement.captions),
            rater=vote.voter or f"vote {place} of row {judgement.row}",
            rater_is_named=vote.voter is not None,
            value=float(vote.value),
            source=None,
        )


def _in_both_orders(arrays: RatingArrays) -> dict[str, Any]:
    """The agreement with every pair in both orders; counts are of pairs and votes as they were given."""
    found = agreement(arrays)
    counted = (found["alpha_interval"], found["alpha_ordinal"], found["kappa"], *found["rater_pairs"])
    for estimated in counted:
        if estimated is not None:
            estimated["n"] //= 2
    return {**found, "captions_with_several_ratings": found["captions_with_several_ratings"] // 2}
