"""HallusionBench: yes/no questions about illusions, charts, maps and the like, also with edited and with no pictures.

Paper: Guan et al., "HallusionBench: An Advanced Diagnostic Suite for Entangled Language Hallucination and Visual
    Illusion in Large Vision-Language Models", CVPR 2024 (arXiv:2310.14566).
Official code: github.com/tianyi-lab/HallusionBench, BSD-3-Clause; its questions likewise.
Official rule: GPT-4 compares each answer with the reference; its reply means 0 (wrong) if "incorrect" occurs in it,
    else 1 (right) if "correct" does, else 2 (unclear). Right is 1, and also 2 where a question of the category VS is
    asked without its picture. a_acc = right answers / answers; q_acc = questions right with every picture / questions;
    f_acc = pictures with every question right / pictures, questions without picture left out; easy_acc and hard_acc =
    q_acc over original pictures and no picture, and over edited ones (``visual_input`` 2). Bias: yes_diff = share of
    yes among the answers - among the labels, where a wrong answer to a no counts as yes; fp_ratio = such answers /
    wrong answers.
Known quirks: the reply "not correct" means right; "unclear", an empty reply and any other word mean unclear (a flag
    counts replies that hold none of the three words, or two of them). Earlier scripts called everything but
    ``figure_id`` 0 hard. Without a wrong answer the script divides by zero in fp_ratio.
Other rules: `yes_no` compares the words yes and no with ``gt_answer`` (VLMEvalKit without its judge); VLMEvalKit leaves
    out the questions without picture and merges VS and VD questions of equal ids.
Intervals: the unit is the set of questions that share a topic, for q_acc couples its pictures and f_acc its questions.
Left out: the shares of language hallucination and visual illusion, which need a second judge.
Data: HallusionBench.json; the pictures lie beside it in VD/ and VS/.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmdpo.errors import DataError
from mmdpo.evals.base import Answer, Item, Metric, Result, Sample
from mmdpo.evals.judging.replies import JudgedAnswer, prompted
from mmdpo.evals.judging.verdicts import VerdictBenchmark
from mmdpo.evals.pope import SAID, vlmevalkit
from mmdpo.evals.shared.files import read_rows, required_texts
from mmdpo.evals.shared.options import check_choice
from mmdpo.evals.stats import Array, Sums, divide, ratio
from mmdpo.jsonfiles import write_json
from mmdpo.registry import benchmarks

CODE = "gpt4v_output_gpt_check"
"""Key of the judge's code in the official result file."""

KEY = ("category", "subcategory", "set_id", "figure_id", "question_id")
"""What tells a question of a picture from all others."""

PROMPT = """Compare an answer with the reference answer to the same question.

Question: {question}
Reference answer: {reference}
Answer to compare: {answer}

Reply with one word: correct if the two agree, incorrect if they contradict each other, unclear if the answer does not \
say."""
"""What a judge is asked; the wording is ours."""

_VALUES = {"gt_answer": ("0", "1"), "visual_input": ("0", "1", "2")}
_FIX = "Give HallusionBench.json of the official repository."
_FIELDS = {"question": "the question", "reference": "the reference answer", "answer": "the model's answer"}


def code_of_reply(reply: str) -> int:
    """0 (wrong), 1 (right) or 2 (unclear), as the official script reads a judge's reply."""
    lowered = reply.lower()
    return 0 if "incorrect" in lowered else 1 if "correct" in lowered else 2


@benchmarks.register("hallusionbench")
@dataclass(frozen=True)
class HallusionBench(VerdictBenchmark):
    """Yes/no questions whose pictures contradict what one expects.

    Args:
        parser: ``codes`` takes the judge's codes in the answer file, or asks the judge; ``yes_no`` reads the answers.
        judge: Asked by ``codes`` where an answer has no code yet.
        judge_prompt: File with what the judge is asked, with places {question}, {reference} and {answer}.
    """

    parser: str = "codes"
    name = "hallusionbench"
    yes_no = True
    max_new_tokens = 256
    id_keys = ("id",)
    text_keys = ("model_prediction", "answer", "text")
    verdict_key = CODE
    own_prompt = PROMPT
    prompt_fields = _FIELDS

    def __post_init__(self) -> None:
        super().__post_init__()
        fix = "codes is the official rule; yes_no needs no judge."
        check_choice(self.name, "parser", self.parser, ("codes", "yes_no"), fix)

    @property
    def rule(self) -> str:
        """The parser, and whose prompt a judge is asked where there is one."""
        return "; ".join([self.parser, *prompted(self.judge, self.judge_prompt)])

    def samples(self, data: Path) -> list[Sample]:
        """The questions in the official file."""
        samples = []
        for number, row in enumerate(read_rows(data), 1):
            place = f"question {number} of {str(data)!r}"
            texts = required_texts(row, {name: (name,) for name in ("question", "gt_answer_details")}, place, fix=_FIX)
            lacking = sorted({*KEY, *_VALUES} - set(row))
            wrong = [key for key, known in _VALUES.items() if str(row.get(key)) not in known]
            if lacking or wrong or not isinstance(row.get("filename"), str | None):
                raise DataError(
                    f"{place} lacks {', '.join(lacking or wrong or ['a text as filename'])}: {str(row)[:200]}",
                    why="It could not be put into its groups, or not be judged.",
                    fix=_FIX,
                )
            media = {"images": [row["filename"]]} if row.get("filename") else {}
            target = "yes" if str(row["gt_answer"]) == "1" else "no"
            samples.append(Sample(_id(row), texts["question"], media, target, _joined(row, KEY[:3]), {"row": row}))
        return samples

    def verdict_of(self, value: Any) -> str | None:
        """A code, which may be a number."""
        return str(value) if str(value) in ("0", "1", "2") else None

    def answers(self, rows: Iterable[Mapping[str, Any]], origin: str = "the answers") -> list[Answer]:
        """The answers in some rows, with the judge's codes where there are any.

        Raises:
            DataError: As for `Benchmark.answers`, or a code is none.
        """
        return super().answers([{**row, "id": _id(row)} if set(KEY) <= set(row) else row for row in rows], origin)

    def score(self, samples: Sequence[Sample], answers: Sequence[Answer]) -> Result:
        """As `Benchmark.score`; what is right only together is counted with the first question of its group.

        Raises:
            DataError: Answers have no code, and there is no judge.
        """
        if self.parser == "codes":
            pairs = self.with_verdicts(samples, answers, ", or score with --parser yes_no, which needs none")
        else:
            pairs, _ = self._match(samples, answers)
        judged = [(sample, self._is_right(sample, self._code(sample, answer)[0])) for sample, answer in pairs]
        groups = _groups(judged)
        told = [replace(sample, meta={**sample.meta, "groups": groups.get(sample.id, {})}) for sample in samples]
        return super().score(told, answers)

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Whether one answer is right."""
        (code, reply), label = self._code(sample, answer), sample.target == "yes"
        right = self._is_right(sample, code)
        counts = {
            "answers": 1.0,
            "right": float(right),
            "wrong": float(not right),
            "yes": float(right == label),
            "yes_label": float(label),
            "false_yes": float(not right and not label),
            **sample.meta.get("groups", {}),
        }
        images = sample.media.get("images")
        return Item(
            id=item_id,
            group=sample.group,
            raw=answer.text,
            parsed=_said(answer.text) if self.parser == "yes_no" else code,
            label=sample.target,
            correct=right,
            counts=counts,
            details={
                "prompt": sample.prompt,
                **({"image": images[0]} if images else {}),
                "code": code,
                **({} if reply is None else {"reply": reply}),
            },
        )

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """a_acc, q_acc, f_acc, easy_acc and hard_acc; yes_diff and fp_ratio, which tell a bias towards yes."""

        def more_yes(sums: Sums) -> Array:
            return divide(sums["yes"] - sums["yes_label"], sums["answers"])

        levels = [level for level in ("q", "f", "easy", "hard") if f"{level}_groups" in columns]
        return [
            ratio("a_acc", "right", "answers"),
            *(ratio(f"{level}_acc", f"{level}_right", f"{level}_groups") for level in levels),
            Metric(
                "yes_diff",
                more_yes,
                lambda sums: np.asarray(sums["answers"]),
                bounds=(-1.0, 1.0),
                better="neither",
                label="Bias towards yes",
                meaning="share of yes among the answers, less that among the labels",
            ),
            ratio(
                "fp_ratio", "false_yes", "wrong", better="neither", label="Wrong yes", meaning="of the wrong answers"
            ),
        ]

    def notes(self, items: Sequence[Item]) -> list[str]:
        """Counts replies of the judge that say nothing that was asked for, or two things at once."""
        replies = [str(item.details["reply"]).lower() for item in items if "reply" in item.details]
        silent = sum("correct" not in reply and "unclear" not in reply for reply in replies)
        both = sum("incorrect" in reply and "correct" in reply.replace("incorrect", "") for reply in replies)
        flags = (
            (
                silent,
                f"no_verdict: {silent} replies hold none of correct, incorrect and unclear; they count as unclear",
            ),
            (both, f"two_verdicts: {both} replies hold both correct and incorrect; they count as incorrect"),
        )
        return [flag for count, flag in flags if count]

    def _code(self, sample: Sample, answer: Answer) -> tuple[int, str | None]:
        """The code of an answer, and the judge's reply if it was asked for it."""
        if self.parser == "yes_no":
            said = _said(answer.text)
            return 2 if said is None else int(said == sample.target), None
        if isinstance(answer, JudgedAnswer) and answer.verdict is not None:
            return int(answer.verdict), None
        reference = sample.meta["row"]["gt_answer_details"]
        reply = self.ask({"question": sample.prompt, "reference": reference, "answer": answer.text})
        return code_of_reply(reply), reply

    def _is_right(self, sample: Sample, code: int) -> bool:
        """Without the picture of a VS question it is right to say that one does not know."""
        return code == 1 or (code == 2 and not _has_figure(sample.meta["row"]))


def write_results(samples: Iterable[Sample], answers: Iterable[Answer], path: Path) -> None:
    """Writes the official result file: the questions with ``model_prediction``, and the judge's code where known."""
    rows = {sample.id: sample.meta["row"] for sample in samples}
    results = []
    for answer in answers:
        verdict = getattr(answer, "verdict", None)
        code = {} if verdict is None else {CODE: verdict}
        results.append({**rows[str(answer.sample_id)], "model_prediction": answer.text, **code})
    write_json(path, results)


def _said(text: str) -> str | None:
    return SAID[vlmevalkit(text, True)]


def _has_figure(row: Mapping[str, Any]) -> bool:
    return row["category"] != "VS" or str(row["figure_id"]) != "0"


def _joined(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    return "_".join(str(row[key]) for key in keys)


def _id(row: Mapping[str, Any]) -> str:
    return _joined(row, KEY)


def _groups(judged: Iterable[tuple[Sample, bool]]) -> dict[str, dict[str, float]]:
    """Id of the first sample of each group -> how many groups it stands for at each level, and whether they are right.

    A question with all its pictures is a group of the level ``q``, and its original and edited pictures by themselves
    of ``easy`` and ``hard``; a picture with all its questions is one of ``f``.
    """
    members: dict[tuple[str, str], list[tuple[str, bool]]] = defaultdict(list)
    for sample, right in judged:
        row = sample.meta["row"]
        question = _joined(row, (*KEY[:3], "question_id"))
        levels = {"q": question, "hard" if str(row["visual_input"]) == "2" else "easy": question}
        if _has_figure(row):
            levels["f"] = _joined(row, KEY[:4])
        for key in levels.items():
            members[key].append((sample.id, right))
    counts: dict[str, dict[str, float]] = defaultdict(dict)
    for (level, _), group in members.items():
        first = counts[group[0][0]]
        first[f"{level}_groups"] = 1.0
        first[f"{level}_right"] = float(all(right for _, right in group))
    return counts
