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
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmdpo.errors import DataError
from mmdpo.evals.base import Answer, Benchmark, Item, Metric, Result, Sample
from mmdpo.evals.shared.files import read_rows, required_texts
from mmdpo.evals.shared.options import check_choice
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

SAID: Mapping[bool | None, str | None] = {True: "yes", False: "no", None: None}
"""What was read -> the word for it."""

FORM = 'A question looks like {"question_id": 1, "image": "a.jpg", "text": "...", "label": "yes"}.'
_NAMES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


@dataclass(frozen=True)
class KindAnswer(Answer):
    """An answer from a folder of the three kinds.

    Attributes:
        kind: That of its file.
    """

    kind: str = ""


def tally(parser: str, text: str, label: bool) -> tuple[bool | None, dict[str, float]]:
    """What an answer says, and what it adds to the sums that the five numbers are made of.

    Args:
        parser: A name in `PARSERS`.
        text: The raw answer.
        label: Whether yes is right.
    """
    said = PARSERS[parser](text, label)
    # VLMEvalKit's precision and recall take whatever is not yes as no; lmms-eval leaves it out of both.
    says_no = said is False or (said is None and parser == "vlmevalkit")
    amounts = {
        "questions": True,
        "correct": said is label,
        "yes": said is True,
        "true_yes": label and said is True,
        "false_yes": not label and said is True,
        "false_no": label and says_no,
    }
    return said, {column: float(amount) for column, amount in amounts.items()}


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
        fix = "The default, official, is the rule of the paper's own script."
        check_choice(self.name, "parser", self.parser, PARSERS, fix)

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
        """The answers in a file, or in a folder of the three kinds.

        Raises:
            DataError: As for `Benchmark.read_answers`, or only some files of a folder have ids.
        """
        if not path.is_dir():
            return super().read_answers(path)
        found: list[Answer] = []
        for kind, file in _files_by_kind(path).items():
            for answer in super().read_answers(file):
                sample_id = None if answer.sample_id is None else f"{kind}/{answer.sample_id}"
                found.append(KindAnswer(sample_id, answer.text, answer.question, kind))
        if len({answer.sample_id is None for answer in found}) > 1:
            raise DataError(
                f"some files of {str(path)!r} have ids and others none",
                why="Answers are matched either all by id or all by order.",
                fix="Give every entry of every file a 'question_id', or none.",
            )
        return found

    def score(self, samples: Sequence[Sample], answers: Sequence[Answer]) -> Result:
        """As `Benchmark.score`.

        Raises:
            DataError: As there, or answers without ids are not of as many questions of each kind.
        """
        given = Counter(answer.kind for answer in answers if isinstance(answer, KindAnswer))
        asked = Counter(str(sample.meta["kind"]) for sample in samples)
        if given and answers[0].sample_id is None and given != asked:
            raise DataError(
                f"answers without ids to questions of other kinds: {dict(given)} for {dict(asked)}",
                why="They can only be matched by order: those of one kind would be scored against another's questions.",
                fix="Give a folder of answers with the same kinds as the questions, or answers with ids.",
            )
        return super().score(samples, answers)

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Reads yes or no and compares it with the label."""
        label = sample.target == "yes"
        said, counts = tally(self.parser, answer.text, label)
        kind = sample.meta["kind"]
        return Item(
            id=item_id,
            group=sample.group,
            raw=answer.text,
            parsed=SAID[said],
            label=sample.target,
            correct=said is label,
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
        key = self.media.removesuffix("s")
        wanted = {"text": ("text", "query"), key: (key, "image_name"), "label": ("label",)}
        samples = []
        for number, row in enumerate(read_rows(path), 1):
            place = f"question {number} of {str(path)!r}"
            texts = required_texts(row, wanted, place, fix=FORM)
            label, file = texts["label"].strip().lower(), texts[key]
            if label not in {"yes", "no"}:
                raise DataError(
                    f"{place} has the label {texts['label']!r}",
                    why="Any other label than yes and no would count as yes in the official script.",
                    fix=FORM,
                )
            question_id = number if row.get("question_id") is None else row["question_id"]
            meta = {"kind": prefix.rstrip("/")}
            samples.append(Sample(f"{prefix}{question_id}", texts["text"], {self.media: [file]}, label, file, meta))
        return samples


def _files_by_kind(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for kind in KINDS:
        paths = [path for path in sorted(folder.iterdir()) if kind in path.name and path.name.endswith(_NAMES)]
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
