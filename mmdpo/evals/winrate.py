"""Win rates: which of two models' answers is better, judged in pairs by people or by a judge, in both orders.

* **Both orders** (Zheng et al. 2023, arXiv:2306.05685, section 3.4): a judge is asked twice, with the answers in either
  order, because judges favour a place. It counts as a win only if both verdicts say so; verdicts that differ are a tie.
  Opposite winners are counted as contradictions. Where one order got no verdict, the pair is set aside and counted.
* **People**: the mean of the votes on a pair counts, a tie as half.
* Equal answers are a tie that nobody is asked about.
* **Win rate**: (wins + ties / 2) / judged pairs, with an interval over images; at equal length, and strengths of
  several models: `mmdpo.evals.judging.ranking`.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmdpo.evals.judging.answer_pairs import AnswerPair
from mmdpo.evals.judging.judge import JudgeError, Question
from mmdpo.evals.judging.ranking import connected, length_controlled, strength_intervals
from mmdpo.evals.judging.rubric import Rubric, Verdict
from mmdpo.evals.stats import Interval, Metric, Table, interval, ratio
from mmdpo.progress import Progress

AskAll = Callable[[Iterable[Question], Progress], Mapping[Question, str | JudgeError]]
"""From questions to replies, or the errors of those that got none; `ChatJudge.ask_all`."""

PEOPLE = "people"
JUDGE = "judge"


@dataclass(frozen=True)
class Judgement:
    """What people or a judge said of one pair.

    Attributes:
        pair: The answers.
        outcome: 1 where the first model's is better, 0 where the second's is, between for ties; None if not judged.
        status: ``identical``, ``votes``, or of a judge: ``consistent``, ``contradiction``, ``order_dependent`` or
            ``unusable``.
        votes: Each person's vote, in the same sense.
        orders: What the judge said with the first model's answer first, and second; in the same sense.
        problems: Why an order got no verdict.
        replies: The judge's replies.
    """

    pair: AnswerPair
    outcome: float | None
    status: str
    votes: Sequence[float] = ()
    orders: tuple[float | None, float | None] = (None, None)
    problems: Sequence[str] = ()
    replies: Sequence[str] = field(default=(), repr=False)

    @property
    def group(self) -> str:
        """The image."""
        return self.pair.group

    @property
    def counts(self) -> dict[str, float]:
        """What it adds to each sum."""
        judged, outcome = self.outcome is not None, 0.0 if self.outcome is None else self.outcome
        shown_first = [
            order if place == 0 else 1 - order for place, order in enumerate(self.orders) if order is not None
        ]
        decisive = [verdict for verdict in shown_first if verdict != 0.5]
        return {
            "pairs": 1.0,
            "judged": float(judged),
            "won": outcome,
            "wins": float(judged and outcome > 0.5),
            "ties": float(judged and outcome == 0.5),
            "asked": float(self.status not in ("identical", "votes")),
            "both_orders": float(None not in self.orders),
            "contradictions": float(self.status == "contradiction"),
            "unusable": float(self.status == "unusable"),
            "decisive": float(len(decisive)),
            "first_place": float(sum(decisive)),
        }

    def to_json(self) -> dict[str, Any]:
        """One row of the audit file."""
        told = {name: value for name, value in vars(self).items() if name != "pair" and value not in ((), (None, None))}
        return {"item": self.pair.item, "group": self.group, "models": self.pair.models, **told}


def judge_pairs(
    pairs: Sequence[AnswerPair], rubric: Rubric, ask_all: AskAll, *, images: bool = False, progress: Progress = iter
) -> list[Judgement]:
    """A judge's word on each pair, in both orders.

    Args:
        pairs: The answers.
        rubric: What they are judged by.
        ask_all: Asks the judge.
        images: Whether the judge is shown the pictures.
        progress: Wraps the questions as they are answered.

    Raises:
        JudgeUnavailableError: The judge cannot be asked, or no more.
    """
    questions = {
        index: (_question(pair, rubric, images, 0), _question(pair, rubric, images, 1))
        for index, pair in enumerate(pairs)
        if not identical(pair)
    }
    replies = ask_all([question for both in questions.values() for question in both], progress)
    return [
        _judged(pair, rubric, [replies[question] for question in questions[index]])
        if index in questions
        else Judgement(pair, 0.5, "identical")
        for index, pair in enumerate(pairs)
    ]


def identical(pair: AnswerPair) -> bool:
    """Whether the two answers say the same, white space aside."""
    return pair.answers[0].split() == pair.answers[1].split()


def _question(pair: AnswerPair, rubric: Rubric, images: bool, first: int) -> Question:
    prompt = rubric.prompt(pair.prompt, pair.answers[first], pair.answers[1 - first], reference=pair.reference)
    return Question(prompt, pair.images if images else ())


def _judged(pair: AnswerPair, rubric: Rubric, replies: Sequence[str | JudgeError]) -> Judgement:
    verdicts = [Verdict(None, "no_reply") if isinstance(reply, JudgeError) else rubric.read(reply) for reply in replies]
    ahead, behind = verdicts[0].outcome, verdicts[1].outcome
    behind = None if behind is None else 1.0 - behind
    if ahead is None or behind is None:
        outcome, status = None, "unusable"
    elif ahead == behind:
        outcome, status = ahead, "consistent"
    else:
        outcome, status = 0.5, "contradiction" if abs(ahead - behind) == 1 else "order_dependent"
    return Judgement(
        pair,
        outcome,
        status,
        orders=(ahead, behind),
        problems=[verdict.problem for verdict in verdicts if verdict.problem],
        replies=[reply.what if isinstance(reply, JudgeError) else reply for reply in replies],
    )


def metrics(by: str) -> list[Metric]:
    """The numbers of one pair of models, the first model's side; ``by`` is `PEOPLE` or `JUDGE`."""
    rates = [
        ratio("win_rate", "won", "judged", meaning="wins and half the ties"),
        ratio("wins", "wins", "judged"),
        ratio("ties", "ties", "judged", better="neither"),
    ]
    of_judge = [
        ratio("contradictions", "contradictions", "both_orders", better="lower", meaning="another winner if swapped"),
        ratio(
            "first_place", "first_place", "decisive", better="neither", meaning="verdicts for the answer shown first"
        ),
        ratio("unusable", "unusable", "asked", better="lower", meaning="pairs without a verdict in both orders"),
    ]
    return rates + (of_judge if by == JUDGE else [])


def standing(judgements: Sequence[Judgement], by: str) -> dict[str, Any]:
    """Win rates of every two models, and the ranking of three or more.

    Args:
        judgements: One of each pair.
        by: `PEOPLE` or `JUDGE`.

    Returns:
        ``pairs``: a list of ``first``, ``second``, ``n`` and ``metrics`` (value, low, high, n by name; of the first
        model); ``ranking``: a list of ``model``, ``strength`` (value, low, high, n), best first; ``flags``.
    """
    by_models: dict[tuple[str, str], list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        by_models[judgement.pair.models].append(judgement)
    flags = _flags(judgements)
    pairs = []
    for (first, second), those in by_models.items():
        table = Table.of(those)
        numbers = {metric.name: interval(table, metric) for metric in metrics(by)}
        judged = [judgement for judgement in those if judgement.outcome is not None]
        if judged:
            numbers["win_rate_equal_length"] = _length_controlled(judged)
        else:
            flags.append(f"nothing_judged: {first} and {second} have no judged pair; their numbers stand for no value")
        told = {name: value.to_json() for name, value in numbers.items()}
        pairs.append({"first": first, "second": second, "n": len(judged), "metrics": told})
    models = list(dict.fromkeys(itertools.chain.from_iterable(by_models)))
    ranking = []
    if len(models) > 2:
        wins = _wins(judgements, models)
        if not connected(wins.sum(0)):
            flags.append("unconnected_models: some models are compared by no chain of pairs; their order means nothing")
        found = zip(models, strength_intervals(wins), strict=True)
        ranked = sorted(found, key=lambda entry: -entry[1].value)
        ranking = [{"model": model, "strength": value.to_json()} for model, value in ranked]
    return {"pairs": pairs, "ranking": ranking, "flags": flags}


def _length_controlled(judged: Sequence[Judgement]) -> Interval:
    numbers = {group: index for index, group in enumerate(dict.fromkeys(judgement.group for judgement in judged))}
    return length_controlled(
        np.array([judgement.outcome for judgement in judged], dtype=np.float64),
        np.array([[len(text) for text in judgement.pair.answers] for judgement in judged], dtype=np.float64),
        np.array([numbers[judgement.group] for judgement in judged], dtype=np.intp),
    )


def _wins(judgements: Sequence[Judgement], models: Sequence[str]) -> Any:
    """Wins in the pairs about each image [images, models, models]."""
    images = {group: index for index, group in enumerate(dict.fromkeys(judgement.group for judgement in judgements))}
    place = {model: index for index, model in enumerate(models)}
    wins = np.zeros((len(images), len(models), len(models)))
    for judgement in judgements:
        if judgement.outcome is not None:
            first, second = (place[model] for model in judgement.pair.models)
            wins[images[judgement.group], first, second] += judgement.outcome
            wins[images[judgement.group], second, first] += 1 - judgement.outcome
    return wins


def _flags(judgements: Sequence[Judgement]) -> list[str]:
    statuses = Counter(judgement.status for judgement in judgements)
    problems = Counter(problem for judgement in judgements for problem in judgement.problems)
    told = {
        "identical": "{} pairs of equal answers are ties that nobody was asked about",
        "unusable": "{} pairs lack a verdict in one order or both; set aside",
        "contradiction": "{} pairs have another winner when the answers change places; they count as ties",
        "order_dependent": "{} pairs are a tie in one order only; they count as ties",
    }
    flags = [f"{status}: {sentence.format(statuses[status])}" for status, sentence in told.items() if statuses[status]]
    return flags + [f"{problem}: {count} replies" for problem, count in sorted(problems.items())]
