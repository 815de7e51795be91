"""MME: fourteen tasks of yes/no questions, two about every image, one of each answer.

Paper: Fu et al., "MME: A Comprehensive Evaluation Benchmark for Multimodal Large Language Models" (arXiv:2306.13394).
Official code: eval_tool.zip in github.com/BradyFU/Awesome-Multimodal-Large-Language-Models, branch Evaluation; code
    and data for academic research only.
Official rule: the answer in lower case; yes or no, else "yes" in its first four characters, else "no" in them, else
    other, which is wrong. A task scores 100 * accuracy + 100 * accuracy+, where accuracy+ is the share of images with
    both answers right. Its scale is 0..200; the `hallucination` subset (existence, count, position, color) has 0..800,
    `perception` 0..2000 and `cognition` 0..800.
Other rule: `lmms_eval` also removes outer white space and dots and takes the single letters y and n.
Known quirks: "not sure", "now", "nope" and "know" are read as no, "I know" and "cannot" as other; three spaces before
    "yes" hide it. The script takes two consecutive lines for one image and the truth from the answer file, and stops
    where a task or line is missing; here answers are matched by task, image and question, in any order.
Data: a folder of TASK.txt with lines "image, question, Yes|No" between tabs, or one such file; answers have the
    response as fourth column, or are JSON lines with ``question_id`` and ``answer`` as `mmdpo eval` writes them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmdpo.errors import DataError
from mmdpo.evals.base import Answer, Item, Metric, Sample
from mmdpo.evals.shared.files import read_text, write_text
from mmdpo.evals.shared.joint import JointBenchmark
from mmdpo.evals.shared.options import check_choice
from mmdpo.evals.stats import Array, Sums, divide
from mmdpo.registry import benchmarks

HALLUCINATION = ("existence", "count", "position", "color")
PERCEPTION = (*HALLUCINATION, "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
TASKS = (*PERCEPTION, *COGNITION)
"""All tasks, in the order of the official script."""
TOTALS: Mapping[str, Sequence[str]] = {
    "hallucination": HALLUCINATION,
    "perception": PERCEPTION,
    "cognition": COGNITION,
}
PARSERS = ("official", "lmms_eval")

_IN_SUBFOLDER = {"artwork", "celebrity", "landmark", "posters", "scene"}
_COCO = re.compile(r"\d{12}\.jpg")
_REQUEST = "Please answer yes or no."


def official(text: str) -> str:
    """The rule of the official script: yes, no or other."""
    start = text.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def lmms_eval(text: str) -> str:
    """The rule of lmms-eval: yes, no or other."""
    bare = text.lower().strip().replace(".", "")
    return {"y": "yes", "n": "no"}.get(bare) or official(bare)


@benchmarks.register("mme")
@dataclass(frozen=True)
class Mme(JointBenchmark):
    """Pairs of yes/no questions in fourteen tasks.

    Args:
        parser: How an answer is read, ``official`` or ``lmms_eval``.
    """

    parser: str = "official"
    name = "mme"
    yes_no = True

    def __post_init__(self) -> None:
        fix = "The default, official, is the rule of the authors' own script."
        check_choice(self.name, "parser", self.parser, PARSERS, fix)

    @property
    def rule(self) -> str:
        """The parser's name."""
        return self.parser

    def samples(self, data: Path) -> list[Sample]:
        """The questions of a task's file, or of a folder of them."""
        return [sample for task, path in _files(data).items() for sample in _questions(task, path)]

    def read_answers(self, path: Path) -> list[Answer]:
        """The answers of a task's file or of a folder of them, or of JSON lines."""
        if not path.is_dir() and path.suffix != ".txt":
            return super().read_answers(path)
        return [
            # Matched by the question itself, so there is none to compare with the data's.
            Answer(_id(task, image, question), response)
            for task, file in _files(path).items()
            for image, question, _, response in _lines(file, 4)
        ]

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Reads yes or no and compares it with the truth."""
        said = official(answer.text) if self.parser == "official" else lmms_eval(answer.text)
        right, task = said == sample.target, sample.meta["place"]["task"]
        return Item(
            id=item_id,
            group=sample.group,
            raw=answer.text,
            parsed=None if said == "other" else said,
            label=sample.target,
            correct=right,
            counts={f"{task}/questions": 1.0, f"{task}/correct": float(right)},
            details={"prompt": sample.prompt, "image": sample.media["images"][0], **sample.meta["place"]},
        )

    def set_of(self, item: Item) -> Hashable:
        """The image within its task, or two questions after each other where the file has more of them."""
        return tuple(item.details[key] for key in ("task", "image", "pair"))

    def prefix(self, item: Item) -> str:
        """The task."""
        return f"{item.details['task']}/"

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """The score of every task, 0..200, and the totals of the groups of tasks that are complete."""
        tasks = [task for task in TASKS if f"{task}/sets" in columns]
        totals = {name: parts for name, parts in TOTALS.items() if set(parts) <= set(tasks)}
        return [_total(task, [task]) for task in tasks] + [_total(name, parts) for name, parts in totals.items()]


def write_official_answers(items: Sequence[Item], samples: Sequence[Sample], folder: Path) -> None:
    """Writes judged answers as the official script takes them: TASK.txt with the response as fourth column.

    Tabs and line breaks in a response become spaces, for they would end it.

    Args:
        items: Of a result; those of any rule.
        samples: The data; samples without an answer get an empty one, so that every image keeps two lines.
        folder: Is made if needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    said = {item.id: " ".join(re.split(r"[\t\r\n]+", item.raw)) for item in items}
    for task in dict.fromkeys(sample.meta["place"]["task"] for sample in samples):
        lines = [
            "\t".join([sample.meta["image"], sample.prompt, sample.target.capitalize(), said.get(sample.id, "")])
            for sample in samples
            if sample.meta["place"]["task"] == task
        ]
        write_text(folder / f"{task}.txt", "\n".join(lines) + "\n")


def _total(name: str, tasks: Sequence[str]) -> Metric:
    def value(sums: Sums) -> Array:
        score = np.zeros_like(sums[f"{tasks[0]}/questions"])
        for task in tasks:  # in the official order of operations
            accuracy = divide(sums[f"{task}/correct"], sums[f"{task}/questions"])
            score = score + (accuracy * 100 + divide(sums[f"{task}/right_sets"], sums[f"{task}/sets"]) * 100)
        return score

    def count(sums: Sums) -> Array:
        return np.asarray(sum(sums[f"{task}/questions"] for task in tasks))

    return Metric(name, value, count, bounds=(0.0, 200.0 * len(tasks)))


def _files(path: Path) -> dict[str, Path]:
    if not path.is_dir():
        found = {path.stem: path}
    else:
        found = {task: path / f"{task}.txt" for task in TASKS if (path / f"{task}.txt").is_file()}
    if not found or (path.exists() and not set(found) <= set(TASKS)):  # that a file is absent is said on reading it
        raise DataError(
            f"{str(path)!r} holds no file named after a task of MME",
            why="A score belongs to a task, and the file's name is the only sign of it.",
            fix=f"Name the files existence.txt and so on; the tasks are {', '.join(TASKS)}.",
        )
    return found


def _lines(path: Path, columns: int) -> list[list[str]]:
    rows = []
    # Not splitlines: responses may hold other line separators of Unicode.
    for number, line in enumerate(read_text(path).replace("\r\n", "\n").split("\n"), 1):
        if not line.strip():
            continue
        cells = line.split("\t", columns - 1)
        if len(cells) < columns or cells[2].split("\t")[0].strip().lower() not in {"yes", "no"}:
            raise DataError(
                f"line {number} of {str(path)!r} does not have {columns} columns between tabs: {line[:120]!r}",
                why="The third column must be Yes or No" + (", the fourth the response." if columns == 4 else "."),
                fix="Keep the official form; a response on several lines must be put on one.",
            )
        rows.append(cells)
    if not rows:
        raise DataError(f"{str(path)!r} is empty", why="There is nothing to score.", fix="Check the path.")
    return rows


def _id(task: str, image: str, question: str) -> str:
    return f"{task}/{image}/{question.replace(_REQUEST, '').strip()}"


def _questions(task: str, path: Path) -> list[Sample]:
    samples = []
    asked: Counter[str] = Counter()
    for image, question, truth in _lines(path, 3):
        folder = f"{task}/images" if task in _IN_SUBFOLDER else task
        # COCO's names mean the same image in every task; "0001.png" and the like do not.
        group = image if _COCO.fullmatch(image) else f"{task}/{image}"
        meta = {"image": image, "place": {"task": task, "pair": asked[image] // 2}}
        asked[image] += 1
        label = truth.split("\t")[0].strip().lower()
        media = {"images": [f"{folder}/{image}"]}
        samples.append(Sample(_id(task, image, question), question, media, label, group, meta))
    return samples
