"""POPE: is a named object in the image, yes or no?

Paper: Li et al., "Evaluating Object Hallucination in Large Vision-Language Models", EMNLP 2023 (arXiv:2305.10355).
Official code: github.com/AoiDragon/POPE, MIT; its question files on COCO val2014 likewise.
Official rule: text before the first dot, commas removed, split at single spaces; "no" if a word is exactly No, not or
    no, else "yes". Yes is the positive class.
Known quirks: "NO", "Nope", "isn't", "no!" and an empty answer are read as yes, "Yes, not one but two" as no. The script
    pairs answers by order and stops with a division by zero where no answer, or no right one, is yes. It reads the
    label "No" as yes; here capitals of a label do not matter.
Other rules: `PARSERS`. lmms-eval prints the share of yes among the labels as yes ratio; here yes_ratio is always that
    of the answers.
Data: a file of questions ({question_id, image, text, label}), or a folder with one file each for random, popular and
    adversarial; the old files (with "imange"), RePOPE, POPEv2 and SEEM files are read too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmdpo.errors import ConfigError, DataError, did_you_mean
from mmdpo.evals.base import Answer, Benchmark, Item, Metric, Sample
from mmdpo.evals.files import read_rows
from mmdpo.evals.stats import Array, Sums, Table, divide, ratio
from mmdpo.evals.text import strip_punctuation
from mmdpo.registry import benchmarks

KINDS = ("random", "popular", "adversarial")
"""The three ways to choose absent objects, in the order of the paper."""


def official(text: str, label: bool) -> bool:
    """The rule of the official script; it always reads yes or no."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return not {"No", "not", "no"} & set(words)


def opera(text: str, label: bool) -> bool:
    """The rule of OPERA's pope_eval.py: the whole text, also "NO" and words that end in n't."""
    words = text.replace(".", "").replace(",", "").split(" ")
    return not any(word in {"No", "not", "no", "NO"} or word.endswith("n't") for word in words)


def vcd(text: str, label: bool) -> bool:
    """The rule of VCD's eval_pope.py: right if the label is a substring, so "I know" is right where "no" is."""
    found = ("yes" if label else "no") in text.lower().strip()
    return label if found else not label


def lmms_eval(text: str, label: bool) -> bool | None:
    """The rule of lmms-eval: the whole answer must be yes or no, capitals and outer white space aside."""
    return {"yes": True, "no": False}.get(text.lower().strip())


def vlmevalkit(text: str, label: bool) -> bool | None:
    """The rule of VLMEvalKit without its judge: one of the words yes and no, and not the other."""
    words = strip_punctuation(text.lower()).split()
    return None if ("yes" in words) == ("no" in words) else "yes" in words


Parser = Callable[[str, bool], bool | None]
PARSERS: Mapping[str, Parser] = {
    "official": official,
    "opera": opera,
    "vcd": vcd,
    "lmms_eval": lmms_eval,
    "vlmevalkit": vlmevalkit,
}
"""Name -> rule, from the raw answer and whether the label is yes, to whether the answer says yes (None: neither)."""


@benchmarks.register("pope")
@dataclass(frozen=True)
class Pope(Benchmark):
    """Yes/no questions about single objects.

    Args:
        parser: How an answer is read, a name in `PARSERS`.
        media: What the questions are about, as the list of a record is called; ``audios`` for sounds, whose file then
            stands under ``audio``.
    """

    parser: str = "official"
    media: str = "images"
    name = "pope"
    yes_no = True

    def __post_init__(self) -> None:
        if self.parser not in PARSERS:
            raise ConfigError(
                f"unknown parser {self.parser!r} for pope",
                why=did_you_mean(self.parser, PARSERS),
                fix="The default, official, is the rule of the paper's own script.",
            )

    @property
    def rule(self) -> str:
        """The parser's name."""
        return self.parser

    def samples(self, data: Path) -> list[Sample]:
        """The questions in a file, or in a folder of the three kinds (ids become ``random/1`` and so on)."""
        if not data.is_dir():
            return self._questions(data, "")
        return [sample for kind, path in _files_by_kind(data).items() for sample in self._questions(path, f"{kind}/")]

    def read_answers(self, path: Path) -> list[Answer]:
        """The answers in a file, or in a folder of the three kinds."""
        if not path.is_dir():
            return super().read_answers(path)
        return [
            Answer(None if answer.sample_id is None else f"{kind}/{answer.sample_id}", answer.text, answer.question)
            for kind, file in _files_by_kind(path).items()
            for answer in super(Pope, self).read_answers(file)
        ]

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Reads yes or no and compares it with the label."""
        label = sample.target == "yes"
        said_yes = PARSERS[self.parser](answer.text, label)
        # VLMEvalKit's precision and recall take whatever is not yes as no; lmms-eval leaves it out of both.
        says_no = said_yes is False or (said_yes is None and self.parser == "vlmevalkit")
        counts = {
            "questions": 1.0,
            "correct": float(said_yes is label),
            "yes": float(said_yes is True),
            "true_yes": float(label and said_yes is True),
            "false_yes": float(not label and said_yes is True),
            "false_no": float(label and says_no),
        }
        kind = sample.meta["kind"]
        return Item(
            id=item_id,
            group=sample.group,
            raw=answer.text,
            parsed={True: "yes", False: "no", None: None}[said_yes],
            label=sample.target,
            correct=said_yes is label,
            counts={f"{kind}_{column}" if kind else column: amount for column, amount in counts.items()},
            details={"prompt": sample.prompt, self.media.removesuffix("s"): sample.media[self.media][0]},
        )

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """Accuracy, precision, recall, f1 and yes_ratio, by kind where there are kinds."""
        prefixes = [prefix for prefix in ("", *(f"{kind}_" for kind in KINDS)) if f"{prefix}questions" in columns]
        metrics = [metric for prefix in prefixes for metric in _metrics(prefix)]
        if len(prefixes) == len(KINDS):
            metrics += [_mean("accuracy"), _mean("f1")]
        return metrics

    def notes(self, items: Sequence[Item]) -> list[str]:
        """Counts answers read as yes only for want of a negative word, and names every f1 without a right yes."""
        notes = []
        silent = sum(item.parsed == "yes" and "yes" not in item.raw.lower() for item in items)
        if silent and self.parser in {"official", "opera"}:
            notes.append(f"yes_by_default: {silent} answers without the word yes are read as yes by this rule")
        sums = Table.of(items).sums()
        for name in ("f1", *(f"{kind}_f1" for kind in KINDS)):
            prefix = name.removesuffix("f1")
            if f"{prefix}questions" in sums and sums[f"{prefix}true_yes"] == 0 < _asked(prefix, sums):
                notes.append(
                    f"{name}_degenerate: no yes is right, so f1 is 0; the official script divides by zero here"
                )
        return notes

    def _questions(self, path: Path, prefix: str) -> list[Sample]:
        samples = []
        for number, row in enumerate(read_rows(path), 1):
            text = row.get("text", row.get("query"))
            key = self.media.removesuffix("s")
            file = row.get(key, row.get("image_name"))
            label = str(row.get("label")).strip().lower()
            if not isinstance(text, str) or not isinstance(file, str) or label not in {"yes", "no"}:
                raise DataError(
                    f"question {number} of {str(path)!r} lacks text, {key} or a label of yes or no: {str(row)[:200]}",
                    why="Any other label would count as yes in the official script.",
                    fix='A question looks like {"question_id": 1, "image": "a.jpg", "text": "...", "label": "yes"}.',
                )
            sample_id = f"{prefix}{row.get('question_id', number)}"
            samples.append(Sample(sample_id, text, {self.media: [file]}, label, file, {"kind": prefix.rstrip("/")}))
        return samples


def _files_by_kind(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for kind in KINDS:
        paths = [path for path in sorted(folder.iterdir()) if kind in path.name and path.suffix in {".json", ".jsonl"}]
        if len(paths) > 1:
            raise DataError(
                f"{str(folder)!r} has several files of the kind {kind!r}: {[path.name for path in paths]}",
                why="It is not known which one is meant.",
                fix="Keep one JSON file each with random, popular and adversarial in its name.",
            )
        if paths:
            found[kind] = paths[0]
    if not found:
        raise DataError(
            f"{str(folder)!r} has no JSON file with random, popular or adversarial in its name",
            why="A folder of questions or answers holds one file of each kind.",
            fix="Name the files so, or give one file instead of a folder.",
        )
    return found


def _metrics(prefix: str) -> list[Metric]:
    right = f"{prefix}true_yes"
    precision = ratio(f"{prefix}precision", right, right, f"{prefix}false_yes")
    recall = ratio(f"{prefix}recall", right, right, f"{prefix}false_no")

    asked = functools.partial(_asked, prefix)

    def f1(sums: Sums) -> Array:
        # The official formula, in its order of operations. Without a right yes it is 0/0 there; 0 is its limit.
        p, r = np.nan_to_num(precision.value(sums)), np.nan_to_num(recall.value(sums))
        harmonic = np.nan_to_num(divide(2 * p * r, p + r))
        return np.where(asked(sums) > 0, harmonic, np.nan)

    return [
        ratio(f"{prefix}accuracy", f"{prefix}correct", f"{prefix}questions"),
        precision,
        recall,
        Metric(f"{prefix}f1", f1, asked),
        ratio(f"{prefix}yes_ratio", f"{prefix}yes", f"{prefix}questions", better="neither"),
    ]


def _asked(prefix: str, sums: Sums) -> Array:
    """Questions that f1 looks at: all but the rightly denied."""
    return sums[f"{prefix}true_yes"] + sums[f"{prefix}false_yes"] + sums[f"{prefix}false_no"]


def _mean(name: str) -> Metric:
    """The mean over the three kinds, as most papers print it."""
    parts = [metric for kind in KINDS for metric in _metrics(f"{kind}_") if metric.name == f"{kind}_{name}"]

    def value(sums: Sums) -> Array:
        return np.asarray(sum(part.value(sums) for part in parts) / len(parts))

    return Metric(f"mean_{name}", value, lambda sums: np.asarray(sum(part.count(sums) for part in parts)))
