"""Text checks: can a model still do without a picture what it could? Short questions of our own, in seven kinds.

Source: our own questions; no published benchmark and no official rule.
Rule: answer and accepted answers are compared as words (`mmdpo.evals.text.words`). Right is an answer that names an
    accepted answer, whole words in a row, before any that is rejected; of yes and no the first decides. Kinds that ask
    for a form (``match: exact``) want it letter by letter, but for outer white space, quotation marks, stars and a last
    dot.
    yes_ratio = answers that say yes / questions whose right answer is yes or no.
Known quirks: an answer that names all choices is read by the first; a right answer in a language that is not listed is
    wrong. The questions are easy: near-perfect models differ only where something broke.
Data: ``own``, the questions that ship (``text_checks.yaml``, part of this project, Apache-2.0), or a YAML file of the
    same form.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, Field, StringConstraints, TypeAdapter, ValidationError

from mmdpo.errors import DataError
from mmdpo.evals.base import Answer, Benchmark, Item, Metric, Sample
from mmdpo.evals.shared.files import read_text
from mmdpo.evals.shared.habits import habit_counts, habit_metrics
from mmdpo.evals.stats import ratio
from mmdpo.evals.text import words
from mmdpo.registry import benchmarks

SHIPPED = Path(__file__).with_name("text_checks.yaml")
YES_NO = frozenset({"yes", "no"})

_OUTER = " \t\r\n\"'`*“”‘’„«»"


def _written(value: Any) -> Any:
    # YAML 1.1 reads an unquoted yes or no as true or false, and an unquoted 12 as a number.
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, int | float) else value


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Accepted = Annotated[Text, BeforeValidator(_written)]


class Check(BaseModel, extra="forbid"):
    """One question.

    Attributes:
        ask: The question.
        accept: The answers that are right.
        reject: Answers that make it wrong where they are named first.
    """

    ask: Text
    accept: Annotated[list[Accepted], Field(min_length=1)]
    reject: list[Accepted] = []


class Kind(BaseModel, extra="forbid"):
    """Questions that are judged alike; the file that ships describes the fields."""

    suffix: str = ""
    match: Literal["words", "exact"] = "words"
    questions: Annotated[list[Check], Field(min_length=1)]


_FORM = TypeAdapter(dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")], Kind])


@benchmarks.register("text_checks")
@dataclass(frozen=True)
class TextChecks(Benchmark):
    """Short questions without a picture: arithmetic, knowledge, words, form, translation, order, copying."""

    name = "text_checks"
    max_new_tokens = 32
    yes_no = True
    role = "capability"
    own_data = "own"

    @property
    def rule(self) -> str:
        """The one rule there is."""
        return "the first named answer; form letter by letter"

    def samples(self, data: Path) -> list[Sample]:
        """The questions that ship for ``own``, else those of a file; the kinds by turns, so that a limit keeps all.

        Raises:
            DataError: The file is not of the form that ``text_checks.yaml`` describes.
        """
        kinds = read_checks(SHIPPED if str(data) == self.own_data else data)
        numbered = [
            (number, _sample(f"{name}/{number:02d}", name, kind, check))
            for name, kind in kinds.items()
            for number, check in enumerate(kind.questions, 1)
        ]
        return [sample for _, sample in sorted(numbered, key=lambda one: one[0])]

    def asks_yes_no(self, sample: Sample) -> bool:
        """Whether the right answer is yes or no."""
        return bool(sample.meta["yes_no"])

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Reads what is named first, or the whole answer where a form is asked for."""
        kind, accepted = sample.meta["kind"], list(sample.target)
        if sample.meta["match"] == "exact":
            said = bare(answer.text) or None
            right = said in {bare(text) for text in accepted}
        else:
            said = first_named(answer.text, [*accepted, *sample.meta["reject"]])
            right = said in {named(text) for text in accepted}
        counts = {"questions": 1.0, "correct": float(right), f"questions/{kind}": 1.0, f"correct/{kind}": float(right)}
        if sample.meta["yes_no"]:
            counts |= {"yes_no": 1.0, "yes": float(said == "yes")}
        counts |= habit_counts(answer.text)
        details = {"prompt": sample.prompt, "kind": kind}
        return Item(item_id, sample.group, answer.text, said, accepted, right, counts, details)

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """Accuracy over all questions and of each kind, yes_ratio, words per answer, refusals, empty answers."""
        kinds = sorted(column.partition("/")[2] for column in columns if column.startswith("questions/"))
        yes = ratio("yes_ratio", "yes", "yes_no", better="neither", label="Yes ratio", meaning="answers that say yes")
        return [
            *(
                ratio(f"accuracy{kind}", f"correct{kind}", f"questions{kind}")
                for kind in ("", *(f"/{kind}" for kind in kinds))
            ),
            *([yes] if "yes_no" in columns else []),
            *habit_metrics(),
        ]


def read_checks(path: Path) -> Mapping[str, Kind]:
    """The questions of a file by kind.

    Raises:
        DataError: It is not of the form that ``text_checks.yaml`` describes; the first three faults are named.
    """
    try:
        kinds: Mapping[str, Kind] = _FORM.validate_python(yaml.safe_load(read_text(path)))
    except yaml.YAMLError as error:
        raise DataError(
            f"{str(path)!r} is not YAML: {error}",
            why="The questions stand in it.",
            fix="Quote texts that hold a colon or begin with a bracket.",
        ) from error
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:3]]
        raise DataError(
            f"{str(path)!r} is no file of text checks: {'; '.join(faults)}",
            why="A question that is read wrongly would be scored wrongly.",
            fix="Start from the file that ships, mmdpo/evals/text_checks.yaml; its head describes the form.",
        ) from error
    if not kinds:
        raise DataError(f"{str(path)!r} holds no kind", why="There is nothing to ask.", fix="Add some questions.")
    return kinds


def named(text: str) -> str:
    """An answer as `first_named` gives it back."""
    return " ".join(words(text))


def first_named(text: str, choices: Sequence[str]) -> str | None:
    """Which of some answers a text names first, as whole words in a row; of two at one place the longer.

    Args:
        text: The raw answer.
        choices: What can be named.

    Returns:
        The answer as `named` writes it; None if there is none.
    """
    said = words(text)
    runs = [words(choice) for choice in choices]
    found = [
        (start, -len(run), " ".join(run))
        for run in runs
        for start in range(len(said) - len(run) + 1)
        if run and said[start : start + len(run)] == run
    ]
    return min(found)[2] if found else None


def bare(text: str) -> str:
    """An answer of a wanted form without what does not count: outer white space and marks, and a last dot."""
    return unicodedata.normalize("NFKC", text).strip(_OUTER).removesuffix(".").strip(_OUTER)


def _sample(sample_id: str, name: str, kind: Kind, check: Check) -> Sample:
    yes_no = {named(text) for text in check.accept} <= YES_NO and kind.match == "words"
    reject = check.reject or (sorted(YES_NO - {named(text) for text in check.accept}) if yes_no else [])
    meta = {"kind": name, "match": kind.match, "reject": reject, "yes_no": yes_no}
    return Sample(sample_id, f"{check.ask} {kind.suffix}".strip(), {}, tuple(check.accept), sample_id, meta)
