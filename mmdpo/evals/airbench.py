"""AIR-Bench, foundation part: multiple-choice questions about speech, sounds and music, in nineteen tasks.

Paper: Yang et al., "AIR-Bench: Benchmarking Large Audio-Language Models via Generative Comprehension", ACL 2024
    (arXiv:2402.07729).
Official code: github.com/OFA-Sys/AIR-Bench (score_foundation.py), Apache-2.0; its questions likewise, on the Hugging
    Face hub; the clips have licences of their own.
Official rule: outer white space and line breaks are removed. The first character, if it is A, B, C or D, is the answer,
    else the second to last ("The answer is A."). Every task of every data set has its accuracy.
Known quirks: **an answer in which no letter is read leaves the denominator**, so a model that answers only what it
    knows gains; `failed` is their share, and `accuracy_of_all` counts them as wrong. "A dog", "NASA!" and "(A)" are
    read as A, "Both" as B; in "a", "(A)." and "**A**" no letter is read. Of equal choices the first is the right one.
    The script stops at a task in which every answer failed. Before it, the authors let GPT-3.5 turn free answers into
    letters; give its replies as answers to have their numbers.
Other rule: `lmms_eval` looks for a letter anywhere (`shared.letters`) and draws one at random where there is none;
    here such an answer is wrong. It stays in the denominator.
Data: Foundation_meta.json; answers are JSON lines with ``uniq_id`` and ``response``. The chat part, which two runs of
    GPT-4 rate, is not scored.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError
from mmdpo.evals.base import Answer, Item, Metric, Sample
from mmdpo.evals.shared.files import read_rows, write_text
from mmdpo.evals.shared.letters import MultipleChoice, lmms_eval_letter
from mmdpo.evals.stats import ratio
from mmdpo.registry import benchmarks

LETTERS = "ABCD"
_CHOICES = {letter: f"choice_{letter.lower()}" for letter in LETTERS}
_FIELDS = ("path", "question", *_CHOICES.values(), "answer_gt", "task_name", "dataset_name")


def official(text: str) -> str | None:
    """The letter that the official script reads; None where it counts a failure."""
    bare = text.strip().replace("\n", "")
    # "None" is a failure by name in the script; its second to last character is no letter of a choice either.
    places = [bare[:1], bare[-2:-1]]
    return next((character for character in places if character and character in LETTERS), None)


@benchmarks.register("airbench")
@dataclass(frozen=True)
class AirBench(MultipleChoice):
    """Multiple-choice questions about clips, in tasks.

    Args:
        parser: How an answer is read, ``official`` or ``lmms_eval``.
        instruction: What stands before every question.
    """

    instruction: str = "Answer the question with the letter of one choice, and nothing else."
    name = "airbench"
    id_keys = ("uniq_id", "id")
    text_keys = ("response", "text", "answer")

    def samples(self, data: Path) -> list[Sample]:
        """The questions of a file; those without a task are passed over, as officially."""
        rows = [row for row in enumerate(read_rows(data), 1) if row[1].get("task_name", "") is not None]
        return [self._sample(number, row, str(data)) for number, row in rows]

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Reads a letter and compares it with the right one."""
        if self.parser == "official":
            said = official(answer.text)
        else:
            said = lmms_eval_letter(answer.text.strip(), sample.meta["letters"])
        task, right = sample.meta["task"], said == sample.target
        read = float(said is not None or self.parser != "official")
        counts = {
            "questions": 1.0,
            "failed": float(said is None),
            "read": read,
            "correct": float(right),
            f"{task}/read": read,
            f"{task}/correct": float(right),
        }
        details = {"prompt": sample.prompt, "audio": sample.group, "task": task}
        return Item(item_id, sample.group, answer.text, said, sample.target, right, counts, details)

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """Accuracy among the answers that were read, by task too; accuracy_of_all; failed."""
        tasks = sorted(column.removesuffix("/read") for column in columns if column.endswith("/read"))
        return [
            ratio("accuracy", "correct", "read"),
            ratio("accuracy_of_all", "correct", "questions"),
            ratio("failed", "failed", "questions", better="lower"),
            *(ratio(f"accuracy/{task}", f"{task}/correct", f"{task}/read") for task in tasks),
        ]

    def notes(self, items: Sequence[Item]) -> list[str]:
        """Counts the answers in which no letter is read."""
        if self.parser == "lmms_eval":
            return self.no_letter(items)
        lost = sum(item.parsed is None for item in items)
        return [f"failed_answers: no letter is read in {lost} of {len(items)}; accuracy leaves them out"] * bool(lost)

    def _sample(self, number: int, row: Mapping[str, Any], origin: str) -> Sample:
        choices = {letter: row[key] for letter, key in _CHOICES.items() if row.get(key) is not None}
        needed = ("path", "question", "task_name", "dataset_name", "answer_gt")
        texts = [*(row.get(key) for key in needed), *choices.values()]
        right = next((letter for letter, choice in choices.items() if choice == row.get("answer_gt")), None)
        if right is None or row.get("uniq_id") is None or not all(isinstance(text, str) for text in texts):
            raise DataError(
                f"question {number} of {origin} has no right choice, a choice that is no text, or lacks uniq_id or one "
                f"of {', '.join(needed)}: {str(row)[:200]}",
                why="The official script stops where the right answer is none of the choices.",
                fix="Give Foundation_meta.json of the official data.",
            )
        task = f"{row['task_name']}_{row['dataset_name']}"
        # The clips of this task are packed as FLAC under the names that the data give them.
        file = row["path"][:-3] + "flac" if row["task_name"] == "Audio_Grounding" else row["path"]
        clip = f"{task}/{file}"
        shown = [f"{letter}. {choice}" for letter, choice in choices.items()]
        prompt = "\n".join([self.instruction, row["question"], *shown])
        meta = {"row": row, "task": task, "letters": [letter for letter, choice in choices.items() if choice]}
        return Sample(str(row["uniq_id"]), prompt, {"audios": [clip]}, right, clip, meta)


def write_answers(samples: Iterable[Sample], answers: Iterable[Answer], path: Path) -> None:
    """Writes answers as the official script reads them: JSON lines that repeat the question, with ``response``."""
    rows = {sample.id: sample.meta["row"] for sample in samples}
    told = (
        {
            **{field: rows[str(answer.sample_id)].get(field) for field in _FIELDS},
            "response": answer.text,
            "uniq_id": rows[str(answer.sample_id)]["uniq_id"],
        }
        for answer in answers
    )
    write_text(path, "".join(json.dumps(row) + "\n" for row in told))
