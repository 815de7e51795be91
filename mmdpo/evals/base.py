"""What every benchmark shares: matching answers to samples, per-item records, intervals, the form of the result.

A benchmark is one file with one dataclass: its fields are its options, `samples` reads the questions, `item` judges one
answer, `metrics` names the numbers; the rest is done here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmdpo.errors import DataError
from mmdpo.evals.result import Answer, Item, Result, Sample
from mmdpo.evals.shared.files import read_rows
from mmdpo.evals.stats import Interval, Metric, Role, Table, interval

__all__ = ["Answer", "Benchmark", "Interval", "Item", "Metric", "Result", "Sample"]


class Benchmark(ABC):
    """Base of all benchmarks. A subclass is a dataclass; its fields, all with defaults, are its options.

    Class attributes:
        name: Registered name.
        max_new_tokens: Longest answer that is generated, if the user sets no other.
        id_keys: Keys of an answer that can hold the sample's id, first match wins.
        text_keys: Keys of an answer that can hold its text, first match wins.
        one_answer_each: Whether every sample must have exactly one answer; otherwise the samples are a whole data set
            of which any part is answered, any number of times.
        yes_no: Whether there are questions whose answer is yes or no, and could be read from a model's logits.
        role: What its metrics are evidence of, as far as they do not say it themselves.
        refusals_wanted: Whether some questions should be declined, so that fewer refusals are not better.
        own_data: The word that stands for data that ship with the benchmark, where ``--data`` takes a path; None where
            none ship.
        samples_each: Answers that are drawn to each question.
        temperature: Of the drawing; 0 is greedy.
    """

    name: ClassVar[str]
    max_new_tokens: ClassVar[int] = 16
    id_keys: ClassVar[Sequence[str]] = ("question_id", "id")
    text_keys: ClassVar[Sequence[str]] = ("answer", "text")
    one_answer_each: ClassVar[bool] = True
    yes_no: ClassVar[bool] = False
    role: ClassVar[Role | None] = None
    refusals_wanted: ClassVar[bool] = False
    own_data: ClassVar[str | None] = None
    samples_each: int = 1
    temperature: float = 0.0

    @property
    @abstractmethod
    def rule(self) -> str:
        """Exactly which rule this object scores by."""

    @abstractmethod
    def samples(self, data: Path) -> list[Sample]:
        """The questions in a file or folder of the official form.

        Raises:
            DataError: It is not of that form.
        """

    @abstractmethod
    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Judges one answer."""

    @abstractmethod
    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """The numbers that can be computed from items with these sums."""

    def asks_yes_no(self, sample: Sample) -> bool:
        """Whether the answer to this sample is yes or no."""
        del sample
        return self.yes_no

    def media_root(self, data: Path) -> Path:
        """The folder of the media, where the user names none."""
        return data if data.is_dir() else data.parent

    def sample_id(self, raw: Any) -> str:
        """An id from a file, in the form that `Sample.id` has."""
        return str(raw)

    def notes(self, items: Sequence[Item]) -> list[str]:
        """Flags that only this benchmark can raise."""
        return []

    def read_answers(self, path: Path) -> list[Answer]:
        """The answers in a JSON-lines or JSON file of the official form.

        Raises:
            DataError: An entry has no text, or only some entries have an id.
        """
        return self.answers(read_rows(path), str(path))

    def answers(self, rows: Iterable[Mapping[str, Any]], origin: str = "the answers") -> list[Answer]:
        """The answers in some rows; ``origin`` is named in errors.

        Raises:
            DataError: As for `read_answers`.
        """
        answers = []
        for number, row in enumerate(rows, 1):
            text_key = next((key for key in self.text_keys if key in row), None)
            if text_key is None or not isinstance(row[text_key], str | None):
                keys = " or ".join(repr(key) for key in self.text_keys)
                told = f"; its keys are {sorted(map(str, row))}"
                if text_key is not None:
                    told = f", but a {type(row[text_key]).__name__}: {str(row[text_key])[:60]!r}"
                raise DataError(
                    f"entry {number} of {origin} has no text under {keys}{told}",
                    why="Taking another field could score the question instead of the answer.",
                    fix=f"Write the model's answer as a string under {keys}.",
                )
            raw_id = next((row[key] for key in self.id_keys if row.get(key) is not None), None)
            question = next((row[key] for key in ("question", "prompt") if isinstance(row.get(key), str)), None)
            answers.append(Answer(None if raw_id is None else self.sample_id(raw_id), row[text_key] or "", question))
        without = sum(answer.sample_id is None for answer in answers)
        if 0 < without < len(answers):
            raise DataError(
                f"{without} of {len(answers)} entries of {origin} have no id",
                why="Answers are matched either all by id or all by order.",
                fix=f"Give every entry a {self.id_keys[0]!r}, or none.",
            )
        return answers

    def score(self, samples: Sequence[Sample], answers: Sequence[Answer]) -> Result:
        """Judges the answers and computes every metric with its interval.

        Raises:
            DataError: The answers cannot be matched to the samples.
        """
        pairs, flags = self._match(samples, answers)
        seen: Counter[str] = Counter()
        items = []
        for sample, answer in pairs:
            seen[sample.id] += 1
            again = seen[sample.id]
            items.append(self.item(sample.id if again == 1 else f"{sample.id}#{again}", sample, answer))
        table = Table.of(items)
        metrics = {metric.name: interval(table, metric) for metric in self.metrics(table.columns)}
        flags += [
            f"{name}_undefined: its denominator is 0, so {value.value:g} stands for no value; "
            "official scripts without a guard divide by zero here"
            for name, value in metrics.items()
            if value.n == 0
        ]
        unparsed = sum(item.parsed is None for item in items)
        return Result(self.name, self.rule, len(items), unparsed, flags + self.notes(items), metrics, items)

    def _match(
        self, samples: Sequence[Sample], answers: Sequence[Answer]
    ) -> tuple[list[tuple[Sample, Answer]], list[str]]:
        """Pairs of sample and answer, in the answers' order, and flags for what was set aside."""
        if not answers:
            raise DataError("there are no answers", why="There is nothing to score.", fix="Check the answer file.")
        if answers[0].sample_id is None:
            return _match_by_order(samples, answers)
        known = {sample.id: sample for sample in samples}
        if len(known) < len(samples):
            repeated = Counter(sample.id for sample in samples).most_common(1)[0][0]
            raise DataError(
                f"the data has the id {repeated!r} more than once",
                why="An answer could belong to either sample.",
                fix="Give every sample an id of its own, or score the files one by one.",
            )
        pairs: list[tuple[Sample, Answer]] = []
        answered: set[str] = set()
        unknown = duplicate = 0
        for answer in answers:
            sample = known.get(str(answer.sample_id))
            if sample is None:
                unknown += 1
            elif self.one_answer_each and sample.id in answered:
                duplicate += 1
            else:
                pairs.append((sample, answer))
                answered.add(sample.id)
        if not pairs:
            raise DataError(
                f"none of the {len(answers)} answers has an id that is in the data (first: {answers[0].sample_id!r})",
                why="The answers belong to other questions or media.",
                fix=f"The data's ids look like {next(iter(known), None)!r}.",
            )
        missing = len(known) - len(answered) if self.one_answer_each else 0
        flags = _counted(
            (unknown, "unknown_ids: {} answers have an id that is not in the data; set aside"),
            (duplicate, "duplicate_answers: {} further answers to an id that has one; the first counts"),
            (missing, "missing_answers: {} " + f"of {len(known)} samples have no answer; set aside"),
        )
        return pairs, flags + (_answer_flags(pairs) if self.one_answer_each else [])


def _match_by_order(
    samples: Sequence[Sample], answers: Sequence[Answer]
) -> tuple[list[tuple[Sample, Answer]], list[str]]:
    if len(samples) != len(answers):
        raise DataError(
            f"{len(answers)} answers without ids for {len(samples)} samples",
            why="They can only be matched by order, and it is not known which are missing: every answer after the "
            "first gap would be scored against another question.",
            fix="Give every answer an id, or use the version of the question file that was answered.",
        )
    pairs = list(zip(samples, answers, strict=True))
    return pairs, _answer_flags(pairs)


def _answer_flags(pairs: Sequence[tuple[Sample, Answer]]) -> list[str]:
    empty = sum(not answer.text.strip() for _, answer in pairs)
    other = sum(answer.question is not None and sample.prompt not in answer.question for sample, answer in pairs)
    return _counted(
        (empty, "empty_answers: {} answers are empty; the rule is applied to them as they are"),
        (other, "other_question_text: {} answers repeat another question than that of the data"),
    )


def _counted(*flags: tuple[int, str]) -> list[str]:
    return [sentence.format(count) for count, sentence in flags if count]
