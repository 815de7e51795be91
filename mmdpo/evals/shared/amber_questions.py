"""AMBER's yes/no questions: how an answer is read, what it is counted as, and the four metrics of any kinds of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mmdpo.evals.base import Metric
from mmdpo.evals.pope import vlmevalkit
from mmdpo.evals.stats import Array, Sums, divide

ATTRIBUTES = ("state", "number", "action")
QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "": ("existence", *ATTRIBUTES, "relation"),
    "existence": ("existence",),
    "attribute": ATTRIBUTES,
    **{kind: (kind,) for kind in ATTRIBUTES},
    "relation": ("relation",),
}
"""What the official script prints numbers for -> the kinds of questions in it; all of them have no name."""

MEASURES = ("accuracy", "precision", "recall", "f1")


def official(text: str) -> bool | None:
    """The rule of the official script: exactly Yes or No."""
    return {"Yes": True, "No": False}.get(text)


def lmms_eval(text: str) -> bool | None:
    """The rule of lmms-eval: "yes" anywhere, else "no" anywhere, so "I do not know" is a no and "eyes" a yes."""
    lowered = text.lower()
    return True if "yes" in lowered else False if "no" in lowered else None


PARSERS: Mapping[str, Callable[[str], bool | None]] = {
    "official": official,
    "lmms_eval": lmms_eval,
    "vlmevalkit": lambda text: vlmevalkit(text, True),
}
"""Name -> rule, from the raw answer to whether it says yes (None: neither)."""


def counts(kind: str, said_yes: bool | None, label: bool) -> dict[str, float]:
    """What one answer adds to the sums of its kind."""
    amounts = {
        "questions": True,
        "correct": said_yes is label,
        "said_no": said_yes is False,
        "no": not label,
        "true_no": said_yes is False and not label,
    }
    return {f"{kind}_{name}": float(amount) for name, amount in amounts.items()}


def metric_name(measure: str, group: str) -> str:
    """``accuracy`` for all questions, ``accuracy/existence`` for a group of them."""
    return f"{measure}/{group}" if group else measure


def epsilon(group: str) -> float:
    """What the official script adds below the fraction line of f1."""
    return 0.001 if group == "existence" else 0.0001


def question_metrics(group: str, kinds: Sequence[str]) -> list[Metric]:
    """The four metrics of a group of questions.

    Args:
        group: A name in `QUESTIONS`.
        kinds: Those of its kinds that were answered.
    """

    def total(column: str) -> Callable[[Sums], Array]:
        return lambda sums: np.asarray(sum(sums[f"{kind}_{column}"] for kind in kinds), dtype=np.float64)

    def share(measure: str, part: str, whole: str, meaning: str) -> Metric:
        def value(sums: Sums) -> Array:
            return divide(total(part)(sums), total(whole)(sums))

        # Recall of yes/no questions is no coverage of a free answer.
        return Metric(metric_name(measure, group), value, total(whole), meaning=meaning, role="other")

    precision = share("precision", "true_no", "said_no", "right among the answers that say no")
    recall = share("recall", "true_no", "no", "of the questions to be answered no, those answered so")

    def concerned(sums: Sums) -> Array:
        return np.asarray(total("said_no")(sums) + total("no")(sums) - total("true_no")(sums))

    def f1(sums: Sums) -> Array:
        # Without a No that is right it is 0 in the official script, whose denominators never are.
        p, r = np.nan_to_num(precision.value(sums)), np.nan_to_num(recall.value(sums))
        return np.where(concerned(sums) > 0, 2 * p * r / (p + r + epsilon(group)), np.nan)

    return [
        share("accuracy", "correct", "questions", "right answers"),
        precision,
        recall,
        Metric(metric_name("f1", group), f1, concerned),
    ]
