"""What benchmarks share whose answers a judge reads: its options, what it is asked, and verdicts that files hold."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.base import Answer, Benchmark, Sample
from mmdpo.evals.judging.replies import Judge, JudgedAnswer, asked_once, filled, template


@dataclass(frozen=True)
class AskingBenchmark(Benchmark):
    """A benchmark that can ask a judge about an answer.

    Class attributes:
        own_prompt: What the judge is asked, with a place ``{name}`` for each field; the wording is ours.
        prompt_fields: Name -> what it stands for.

    Args:
        judge: From a prompt to a reply.
        judge_prompt: File with what the judge is asked, in the place of our own wording.
    """

    judge: Judge | None = None
    judge_prompt: str | Path | None = None
    own_prompt: ClassVar[str]
    prompt_fields: ClassVar[Mapping[str, str]]

    def __post_init__(self) -> None:
        asked_once(self.judge, self.name)

    def ask(self, values: Mapping[str, str]) -> str:
        """The judge's reply; it is asked once for each prompt.

        Args:
            values: Field -> text.

        Raises:
            ConfigError: There is no judge, its prompt lacks a place, or it returned no text.
        """
        if self._judge is None:
            raise ConfigError(f"{self.name} has no judge to ask", why="It rates the answers.", fix="Give a judge.")
        reply = self._judge(filled(self._prompt, values))
        if not isinstance(reply, str):
            raise ConfigError(
                f"the judge of {self.name} returned {reply!r:.80}, no text",
                why="What it says of an answer is read from its reply.",
                fix="Return the reply as a string, an empty one where there is none.",
            )
        return reply

    @cached_property
    def _judge(self) -> Judge | None:
        return asked_once(self.judge, self.name)

    @cached_property
    def _prompt(self) -> str:
        return template(self.judge_prompt, self.own_prompt, self.prompt_fields)


@dataclass(frozen=True)
class VerdictBenchmark(AskingBenchmark):
    """A benchmark whose answer files can hold what a judge said of each answer.

    Class attributes:
        verdict_key: Under which key a row holds it. An answer that has one need not hold its text.
    """

    verdict_key: ClassVar[str]

    @abstractmethod
    def verdict_of(self, value: Any) -> str | None:
        """The verdict that a file holds; None if it is none."""

    def answers(self, rows: Iterable[Mapping[str, Any]], origin: str = "the answers") -> list[Answer]:
        """The answers in some rows, with their verdicts where there are any.

        Raises:
            DataError: As for `Benchmark.answers`, or a verdict is none.
        """
        rows = list(rows)
        verdicts = [
            None if row.get(self.verdict_key) is None else self.verdict_of(row[self.verdict_key]) for row in rows
        ]
        for number, (row, verdict) in enumerate(zip(rows, verdicts, strict=True), 1):
            if verdict is None and row.get(self.verdict_key) is not None:
                raise DataError(
                    f"entry {number} of {origin}: {str(row[self.verdict_key])[:80]!r} under {self.verdict_key!r} is no "
                    "code or reply of a judge",
                    why="It does not say how good the answer is.",
                    fix="Leave the key out where no judge was asked, and give a judge.",
                )
        filled_rows = [{self.text_keys[0]: "", **row} if self.verdict_key in row else row for row in rows]
        return [
            JudgedAnswer(answer.sample_id, answer.text, answer.question, verdict)
            for answer, verdict in zip(super().answers(filled_rows, origin), verdicts, strict=True)
        ]

    def with_verdicts(
        self, samples: Sequence[Sample], answers: Sequence[Answer], otherwise: str = ""
    ) -> list[tuple[Sample, Answer]]:
        """Pairs of sample and answer, each with a verdict or a judge to ask for it.

        Raises:
            DataError: Answers have no verdict, and there is no judge; ``otherwise`` says what else could be done.
        """
        pairs, _ = self._match(samples, answers)
        unjudged = sum(_verdict(answer) is None for _, answer in pairs)
        if self.judge is None and unjudged:
            raise DataError(
                f"{unjudged} of {len(pairs)} answers have no verdict under {self.verdict_key!r}, and there is no judge",
                why="The official rule takes what a judge says of each answer.",
                fix=f"Give a judge, or its verdicts in the answer file{otherwise}.",
            )
        return pairs

    def verdict(self, answer: Answer, values: Mapping[str, str]) -> str:
        """The verdict that stands beside an answer, or else the judge's reply."""
        held = _verdict(answer)
        return self.ask(values) if held is None else held


def _verdict(answer: Answer) -> str | None:
    return answer.verdict if isinstance(answer, JudgedAnswer) else None
