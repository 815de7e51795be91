"""Benchmarks scored with a judge behind an endpoint: all questions first, several at a time, then the score.

A benchmark asks its judge while it judges an answer. Here every answer is judged with the replies that have come; where
one is missing, the question is noted, and all that were noted are asked together. That is repeated until none is left,
so a benchmark may ask any number of questions about an answer, each depending on the reply to the one before. An answer
to which the judge gave no reply, or none that can be read, is set aside and counted: it is neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.base import Benchmark
from mmdpo.evals.judging.claims import claim_functions
from mmdpo.evals.judging.endpoint import Endpoint
from mmdpo.evals.judging.judge import ChatJudge, JudgeError, Question
from mmdpo.evals.judging.replies import Unjudged
from mmdpo.evals.result import Answer, Result, Sample
from mmdpo.progress import Progress

REPLIES_FILE = "replies.jsonl"
"""Every reply of a judge, beside the result that was made of them."""
_CLAIMS = {"split", "verify"}


def takes_judge(kind: type[Benchmark]) -> bool:
    """Whether a benchmark can be scored with a judge behind an endpoint."""
    return bool({"judge"} & _options(kind)) or _options(kind) >= _CLAIMS


def with_judge(
    benchmark: Benchmark,
    endpoint: Endpoint,
    *,
    replies: Path,
    media_root: Path | None = None,
    progress: Progress = iter,
) -> Benchmark:
    """The same benchmark, but its answers are judged by a judge behind an endpoint.

    Args:
        benchmark: One that takes a judge.
        endpoint: Where the judge is.
        replies: File that keeps every reply; a question that it holds is not asked again.
        media_root: Folder of the pictures, for a benchmark whose judge is shown them.
        progress: Wraps the questions as they are answered.

    Returns:
        A benchmark whose ``score`` asks the judge. It raises `JudgeUnavailableError` where the judge cannot be asked,
        or no more: what it had replied is kept, and the same call goes on from there.

    Raises:
        ConfigError: The benchmark takes no judge, or the file of replies cannot be written.
    """
    kind = type(benchmark)
    if not takes_judge(kind):
        raise ConfigError(
            f"the benchmark {benchmark.name!r} takes no judge",
            why="Its rule reads the answers by itself.",
            fix="Leave --judge away; mmdpo ls benchmarks says which take one.",
        )
    judge = ChatJudge(endpoint, replies=replies, media_root=media_root)

    def score(self: Benchmark, samples: Sequence[Sample], answers: Sequence[Answer]) -> Result:
        del self
        return _Scoring(benchmark, judge, progress).result(samples, answers)

    judged = type(kind.__name__, (kind,), {"score": score})  # all else is as the benchmark has it
    values = {option: getattr(benchmark, option) for option in _options(kind)}
    made: Benchmark = judged(**values | _asking(kind, judge.name, judge.ask))
    return made


def _options(kind: type[Benchmark]) -> set[str]:
    return {option.name for option in fields(kind)}  # type: ignore[arg-type]  # every benchmark is a dataclass


def _asking(kind: type[Benchmark], name: str, ask: Callable[[Question], str]) -> dict[str, Any]:
    """The options by which a benchmark is given its judge."""
    return {"judge": _TextJudge(name, ask)} if "judge" in _options(kind) else claim_functions(name, ask)


@dataclass(frozen=True)
class _TextJudge:
    """A judge that is shown text alone, as the option ``judge`` takes it."""

    name: str
    ask: Callable[[Question], str]

    def __call__(self, prompt: str) -> str:
        return self.ask(Question(prompt))


class _Missing(Exception):
    """A question that has not been asked yet."""

    def __init__(self, question: Question) -> None:
        super().__init__(question.prompt)
        self.question = question


@dataclass
class _Scoring:
    """One call of ``score``.

    Args:
        benchmark: What is scored.
        judge: Who is asked.
        progress: Wraps the questions.
    """

    benchmark: Benchmark
    judge: ChatJudge
    progress: Progress
    replies: dict[Question, str | JudgeError] = field(default_factory=dict)

    def result(self, samples: Sequence[Sample], answers: Sequence[Answer]) -> Result:
        """Asks everything, then scores the answers that are judged."""
        kind = type(self.benchmark)
        asking = replace(self.benchmark, **_asking(kind, self.judge.name, self._reply))  # type: ignore[type-var]
        pairs, flags = asking._match(samples, answers)
        lost = self._ask_all(asking, pairs)
        if not self.replies:
            return _flagged(asking.score(samples, answers), [], _NOT_ASKED)
        if not lost:
            return asking.score(samples, answers)
        left = [pair for place, pair in enumerate(pairs) if place not in lost]
        told = _told(lost, pairs)
        if not left:
            raise DataError(
                f"none of {len(pairs)} answers is judged: {told}",
                why="There is nothing to score.",
                fix="Read the judge's replies; a judge that cannot follow the prompt needs another model or prompt.",
            )
        kept = list({sample.id: sample for sample, _ in left}.values())
        given = [replace(answer, sample_id=sample.id) for sample, answer in left]  # they may have been in order only
        _, again = asking._match(kept, given)
        return _flagged(asking.score(kept, given), again, *flags, told)

    def _ask_all(self, asking: Benchmark, pairs: Sequence[tuple[Sample, Answer]]) -> dict[int, bool]:
        """Asks until no answer has an open question.

        Returns:
            Place of each answer that is not judged -> whether there was a reply.
        """
        lost: dict[int, bool] = {}
        asked: set[int] = set()
        open_places: Sequence[int] = range(len(pairs))
        while open_places:
            waiting: dict[int, Question] = {}
            for place in open_places:
                sample, answer = pairs[place]
                try:
                    item = asking.item(sample.id, sample, answer)
                except _Missing as missing:
                    waiting[place] = missing.question
                except Unjudged as unjudged:
                    lost[place] = unjudged.replied
                else:
                    # Only of a benchmark with one question: of FaithScore's claims there may truly be none.
                    if place in asked and item.parsed is None and "judge" in _options(type(asking)):
                        lost[place] = True
            if waiting:
                self.replies |= self.judge.ask_all(waiting.values(), self.progress)
            asked |= set(waiting)
            open_places = list(waiting)
        return lost

    def _reply(self, question: Question) -> str:
        reply = self.replies.get(question)
        if reply is None:
            raise _Missing(question)
        if isinstance(reply, JudgeError):
            raise Unjudged(replied=False)
        if not reply.strip():
            raise Unjudged
        return reply


_NOT_ASKED = "judge_not_asked: every answer had its verdict already, or the rule asks no judge"


def _told(lost: Mapping[int, bool], pairs: Sequence[tuple[Sample, Answer]]) -> str:
    silent = sum(not replied for replied in lost.values())
    first = pairs[min(lost)][0].id
    return (
        f"unjudged: {len(lost)} of {len(pairs)} answers are set aside (first: {first!r}): {silent} got no reply of the "
        f"judge, {len(lost) - silent} one that holds no verdict"
    )


def _flagged(result: Result, without: Sequence[str], *flags: str) -> Result:
    """The result with flags in front, and without some of its own."""
    return replace(result, flags=[*flags, *(flag for flag in result.flags if flag not in without)])
