"""MMAU: multiple-choice questions about sounds, music and speech.

Paper: Sakshi et al., "MMAU: A Massive Multi-Task Audio Understanding and Reasoning Benchmark", ICLR 2025
    (arXiv:2410.19168).
Official code: github.com/Sakshi113/MMAU (evaluation.py), Apache-2.0; its questions likewise, the clips have licences of
    their own.
Official rule: texts become sets of words (runs of letters, digits and underscores, in lower case). An answer is right
    if it has every word of the right choice and no word that only wrong choices have.
Known quirks: a letter alone is wrong, and so is a sentence that happens to hold a word of a wrong choice ("a", "the",
    "not"); "no man" is right for "Man"; word order does not matter, so "3 4" is right for "4 3"; a choice whose words
    are all in the right one can be named beside it. Entries without model_output are passed over; the official README
    calls the key model_prediction, which is read here too, the code does not.
Other rule: `lmms_eval` looks for a letter (`shared.letters`) from A to D, also where there are five choices. Where
    it finds none it draws one at random; here such an answer is wrong, and a flag counts them.
Data: the official JSON list; answers are the same list with ``model_output``, or JSON lines with ``id`` and it.
"""

from __future__ import annotations

import json
import re
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
"""The letters that lmms-eval looks for."""
_WORD = re.compile(r"\b\w+\b")


def words(text: str) -> set[str]:
    """The words of a text as the official script takes them."""
    return set(_WORD.findall(text.lower()))


def official(text: str, answer: str, choices: Sequence[str]) -> bool:
    """Whether an answer is right by the official rule.

    Args:
        text: The raw answer.
        answer: The right choice.
        choices: All choices.
    """
    said, right = words(text), words(answer)
    wrong = {word for choice in choices for word in words(choice)} - right
    return bool(said) and right <= said and not said & wrong


@benchmarks.register("mmau")
@dataclass(frozen=True)
class Mmau(MultipleChoice):
    """Multiple-choice questions about clips.

    Args:
        parser: How an answer is read, ``official`` or ``lmms_eval``. The model is shown letters only for the second:
            by the first they would count as words.
    """

    name = "mmau"
    max_new_tokens = 64
    id_keys = ("id",)
    text_keys = ("model_output", "model_prediction", "text", "response")

    def samples(self, data: Path) -> list[Sample]:
        """The questions of a file."""
        return [self._sample(number, row, str(data)) for number, row in enumerate(read_rows(data), 1)]

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Compares an answer with the choices."""
        choices, task, difficulty = (sample.meta[key] for key in ("choices", "task", "difficulty"))
        parsed: Any
        if self.parser == "official":
            parsed = [choice for choice in choices if words(choice) <= words(answer.text)] or None
            right = official(answer.text, sample.target, choices)
        else:
            letter = lmms_eval_letter(answer.text, LETTERS)
            place = len(choices) if letter is None else LETTERS.index(letter)
            parsed = choices[place] if place < len(choices) else None
            right = parsed is not None and _bare(parsed) == _bare(sample.target)
        counts = {"questions": 1.0, "correct": float(right)}
        for kind in filter(None, (task, difficulty)):
            counts |= {f"{kind}/questions": 1.0, f"{kind}/correct": float(right)}
        details = {
            "prompt": sample.prompt,
            "audio": sample.group,
            "task": task,
            "difficulty": difficulty,
            "sub_category": sample.meta["row"].get("sub-category"),
        }
        return Item(item_id, sample.group, answer.text, parsed, sample.target, right, counts, details)

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """Accuracy, also by task and by difficulty."""
        kinds = sorted(column.removesuffix("/questions") for column in columns if column.endswith("/questions"))
        return [
            ratio("accuracy", "correct", "questions"),
            *(ratio(f"accuracy/{kind}", f"{kind}/correct", f"{kind}/questions") for kind in kinds),
        ]

    def notes(self, items: Sequence[Item]) -> list[str]:
        """Counts the answers that name no choice, or no letter."""
        if self.parser == "lmms_eval":
            return self.no_letter(items)
        lost = sum(item.parsed is None for item in items)
        return [f"no_choice: {lost} answers name no choice with all its words; each is wrong"] if lost else []

    def _sample(self, number: int, row: Mapping[str, Any], origin: str) -> Sample:
        texts = ("id", "audio_id", "question", "answer")
        choices = row.get("choices")
        if (
            not all(isinstance(row.get(key), str) for key in texts)
            or not isinstance(choices, list)
            or not all(isinstance(choice, str) for choice in choices)
            or row["answer"] not in choices
        ):
            raise DataError(
                f"question {number} of {origin} lacks choices, a right one among them, or one of {', '.join(texts)}",
                why="Without its right choice every answer to it would be wrong.",
                fix="Give the official file; answers to the test set's 9,000 questions are not public.",
            )
        lettered = self.parser == "lmms_eval"
        shown = [f"{chr(ord('A') + place)}. {choice}" if lettered else choice for place, choice in enumerate(choices)]
        request = "Answer with the letter of one choice." if lettered else "Answer with one of these choices only."
        prompt = "\n".join([row["question"], *shown, request])
        meta = {"row": row, "choices": choices, "task": row.get("task"), "difficulty": row.get("difficulty")}
        return Sample(row["id"], prompt, {"audios": [row["audio_id"]]}, row["answer"], row["audio_id"], meta)


def write_answers(samples: Iterable[Sample], answers: Iterable[Answer], path: Path) -> None:
    """Writes the official file with ``model_output`` filled in, as the official script reads it."""
    said = {answer.sample_id: answer.text for answer in answers}
    rows = [{**sample.meta["row"], "model_output": said[sample.id]} for sample in samples if sample.id in said]
    write_text(path, json.dumps(rows))


def _bare(text: str) -> str:
    return text.strip().lower()
