"""GQA: compositional questions about scenes, each with one answer.

Paper: Hudson and Manning, "GQA: A New Dataset for Real-World Visual Reasoning and Compositional Question Answering",
    CVPR 2019 (arXiv:1902.09506).
Official code: the eval.py of the data set's page; the copy in github.com/dorarad/gqa (evaluation/eval.py) does not
    run. The data are CC BY 4.0, on images of Visual Genome.
Official rule: the answer must equal the one in the data, character by character; only balanced questions count.
Other rules: `lmms_eval` leaves out outer white space, capitals and all ASCII punctuation on both sides; `vlmevalkit`
    outer white space and capitals. Articles and plurals count in all of them, so a model must be asked for a single
    word.
Known quirks: by the official rule "Yes" and "yes." are wrong. The script wants an answer to every question of its
    file.
Left out: consistency, validity, plausibility, grounding and distribution, which need the full questions, the lists of
    choices and attention maps.
Data: JSON ``{question_id: {imageId, question, answer, isBalanced, types}}``.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError
from mmdpo.evals.base import Answer, Benchmark, Item, Metric, Sample
from mmdpo.evals.shared.consensus import SHORT_ANSWER
from mmdpo.evals.shared.files import read_json, write_text
from mmdpo.evals.shared.options import check_choice
from mmdpo.evals.stats import ratio
from mmdpo.registry import benchmarks

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
RULES: Mapping[str, Callable[[str], str]] = {
    "official": lambda text: text,
    "lmms_eval": lambda text: text.strip().lower().translate(_NO_PUNCTUATION),
    "vlmevalkit": lambda text: text.lower().strip(),
}
"""Name -> what is done to both sides before they are compared."""


@benchmarks.register("gqa")
@dataclass(frozen=True)
class Gqa(Benchmark):
    """Open and yes/no questions with one right answer.

    Args:
        rule: How answers are compared, a name in `RULES`.
        suffix: What is put behind every question when a model is asked.
    """

    rule: str = "official"
    suffix: str = SHORT_ANSWER
    name = "gqa"
    role = "capability"
    id_keys = ("questionId", "question_id", "id")
    text_keys = ("prediction", "answer", "text")

    def __post_init__(self) -> None:
        fix = "The default, official, wants the very characters of the data's answer."
        check_choice(self.name, "rule", self.rule, RULES, fix)

    def samples(self, data: Path) -> list[Sample]:
        """The questions of an official file."""
        table = read_json(data)
        if not isinstance(table, dict) or not table:
            raise DataError(
                f"{str(data)!r} is no table of questions",
                why="Answers are matched by the questions' ids.",
                fix='The official file looks like {"201307251": {"imageId": "n1", "question": "...", "answer": "no"}}.',
            )
        return [self._sample(str(key), row, str(data)) for key, row in table.items()]

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Compares an answer with the one in the data; unbalanced questions enter no metric."""
        write = RULES[self.rule]
        said = write(answer.text)
        right = said == write(sample.target)
        counts: dict[str, float] = {}
        if sample.meta["balanced"]:
            for kind in ("", *(f"/{kind}" for kind in sample.meta["kinds"])):
                counts |= {f"questions{kind}": 1.0, f"correct{kind}": float(right)}
        return Item(
            id=item_id,
            group=sample.group,
            raw=answer.text,
            parsed=said or None,
            label=sample.target,
            correct=right,
            counts=counts,
            details={"prompt": sample.prompt, "image": sample.media["images"][0]},
        )

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """Accuracy over all questions, over yes/no and open ones, and by structure."""
        kinds = sorted(column.partition("/")[2] for column in columns if column.startswith("questions/"))
        return [
            ratio(f"accuracy{kind}", f"correct{kind}", f"questions{kind}")
            for kind in ("", *(f"/{kind}" for kind in kinds))
            if f"questions{kind}" in columns
        ]

    def notes(self, items: Sequence[Item]) -> list[str]:
        """Counts answers to unbalanced questions."""
        left_out = sum(not item.counts for item in items)
        return [f"unbalanced: {left_out} answers are to unbalanced questions; they enter no metric"] if left_out else []

    def _sample(self, key: str, row: Any, origin: str) -> Sample:
        texts = [row.get(name) for name in ("imageId", "question", "answer")] if isinstance(row, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise DataError(
                f"question {key!r} of {origin} lacks imageId, question or answer: {str(row)[:120]}",
                why="It can be neither asked nor scored; files of the test and challenge splits have no answers.",
                fix="Give the questions of a split with answers, such as testdev_balanced_questions.json.",
            )
        image, question, target = (str(text) for text in texts)
        # The official file calls it types; the copy of the script in the repository, type.
        types = row.get("types", row.get("type"))
        structure = types.get("structural") if isinstance(types, dict) else None
        kinds = [] if structure is None else ["open" if structure == "query" else "binary", str(structure)]
        meta = {"kinds": kinds, "balanced": bool(row.get("isBalanced", True))}
        return Sample(key, question + self.suffix, {"images": [f"{image}.jpg"]}, target, image, meta)


def write_official_answers(answers: Sequence[Answer], path: Path) -> None:
    """Writes answers as the official script takes them: ``[{"questionId", "prediction"}]``."""
    rows = [{"questionId": answer.sample_id, "prediction": answer.text} for answer in answers]
    write_text(path, json.dumps(rows))
