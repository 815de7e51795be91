"""Audio hallucination: yes/no questions about sounds, their order and their sources, and the objects in descriptions.

Papers: Kuan, Huang, Lee, "Understanding Sounds, Missing the Questions", Interspeech 2024 (arXiv:2406.08402); Kuan, Lee,
    "Can Large Audio-Language Models Truly Hear?", ICASSP 2025 (arXiv:2410.16130).
Official code: github.com/kuan2jiu99/audio-hallucination; no licence is stated. Data on the Hugging Face hub
    (kuanhuggingface), clips of AudioCaps, ESC-50, VocalSound and CompA.
Official rule, questions: the first of these that occurs in an answer decides: "Yes" or "yes"; "No"; "there is no";
    "does not contain" or "doesn't contain" (no); "contain" (yes); "not", "unable" or "can't" (no). **No is the positive
    class.** Version 2024 counts an answer without any of them as one that says no: wrong where the answer is yes, and
    wrong, but in the denominator of precision, where it is no. Version 2025 leaves it out of precision and recall, adds
    instruction_following_rate, and takes two questions after each other as a pair (a true statement and a false one):
    correct_incorrect is the share of pairs with the first right and the second wrong, and so on, of the pairs whose
    answers both say yes or no.
Official rule, descriptions: `mmdpo.evals.shared.audio_objects`.
Known quirks: "eyes" says yes, "Noise", "Now" and "Nothing" say no, "no." and "NO" say nothing, "no, not really" says no
    by its "not". The scripts divide by zero where nothing says no, or no no is right; 2024 computes f1 from rounded
    percents. `official_numbers` has what they print.
Data: CSV ``entry_id,audio_index,label``, or the rows of the hub's data sets (JSON lines, with ``prompt_text`` or
    ``query``); descriptions, JSON ``{clip: {prompt: {"label": [...]}}}``. Answers: the same with ``response``, and with
    ``prediction``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmdpo.errors import DataError
from mmdpo.evals.base import Answer, Benchmark, Item, Metric, Result, Sample
from mmdpo.evals.shared import audio_objects
from mmdpo.evals.shared.audio_files import nested_rows, read_any_rows
from mmdpo.evals.shared.options import check_choice, check_function
from mmdpo.evals.stats import Array, Better, Sums, Table, divide, interval, ratio
from mmdpo.registry import benchmarks

VERSIONS = ("2024", "2025")
OUTCOMES: Mapping[tuple[bool, bool], str] = {
    (True, True): "correct_correct",
    (False, False): "incorrect_incorrect",
    (True, False): "correct_incorrect",
    (False, True): "incorrect_correct",
}
"""Whether a pair's first and second answer are right -> name of the metric."""

_BETTER: Mapping[str, Better] = {"correct_correct": "higher", "incorrect_incorrect": "lower"}
_CUES = (
    (("Yes", "yes"), True),
    (("No", "there is no", "does not contain", "doesn't contain"), False),
    (("contain",), True),
    (("not", "unable", "can't"), False),
)


def says_yes(text: str) -> bool | None:
    """What an answer says by the rule of both official scripts; None where it says neither."""
    return next((yes for cues, yes in _CUES if any(cue in text for cue in cues)), None)


@benchmarks.register("audio_hallucination")
@dataclass(frozen=True)
class AudioHallucination(Benchmark):
    """Yes/no questions about clips, and descriptions of clips.

    Args:
        version: Of the official script for questions, ``2024`` or ``2025``.
        noun_extractor: From a description to the objects it names, compared with the labels letter by letter; None
            looks for the labels of the data (`mmdpo.evals.shared.audio_objects`).
    """

    version: str = "2024"
    noun_extractor: Callable[[str], Sequence[str]] | None = None
    name = "audio_hallucination"
    max_new_tokens = 128
    id_keys = ("entry_id", "id")
    text_keys = ("response", "text", "answer")

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", str(self.version))
        fix = "2024 is the script of the Interspeech paper, 2025 that of the ICASSP paper."
        check_choice(self.name, "version", self.version, VERSIONS, fix)
        check_function(self.name, "noun_extractor", self.noun_extractor)

    @property
    def rule(self) -> str:
        """The version, and whose objects are taken."""
        return self.version + ("; given noun extractor" if self.noun_extractor else "")

    def samples(self, data: Path) -> list[Sample]:
        """The questions, or the clips to describe, of a file."""
        nested = nested_rows(data)
        if nested is not None:
            return audio_objects.samples(nested, str(data))
        return [self._question(number, row, str(data)) for number, row in enumerate(read_any_rows(data), 1)]

    def read_answers(self, path: Path) -> list[Answer]:
        """The answers or descriptions in a file."""
        nested = nested_rows(path)
        if nested is not None:
            return audio_objects.answers(nested, str(path))
        return self.answers(read_any_rows(path), str(path))

    def answers(self, rows: Iterable[Mapping[str, Any]], origin: str = "the answers") -> list[Answer]:
        """The answers in some rows; rows of the data without an answer are passed over."""
        labelled = {"label", "ground_truth"}
        asked = [row for row in rows if not labelled & set(row) or any(key in row for key in self.text_keys)]
        return super().answers(asked, origin)

    def score(self, samples: Sequence[Sample], answers: Sequence[Answer]) -> Result:
        """Judges the answers and computes every metric, those of pairs last."""
        plain = super().score(samples, answers)
        items = list(plain.items)
        pairs: dict[int, dict[int, int]] = {}
        for place, item in enumerate(items):
            if "pair" in item.details:
                pairs.setdefault(item.details["pair"], {})[item.details["side"]] = place
        for sides in pairs.values():
            outcome = _outcome(*(items[sides[side]] if side in sides else None for side in (0, 1)))
            if outcome is not None:
                last = items[sides[1]]
                items[sides[1]] = replace(last, counts={**last.counts, "pairs": 1.0, outcome: 1.0})
        table = Table.of(items)
        added = [metric for metric in self.metrics(table.columns) if metric.name not in plain.metrics]
        metrics = {**plain.metrics, **{metric.name: interval(table, metric) for metric in added}}
        return replace(plain, metrics=metrics, items=items)

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Reads yes or no, or objects, and compares them with the label."""
        if isinstance(sample.target, list):
            return audio_objects.item(item_id, sample, answer, self.noun_extractor)
        said_yes, label = says_yes(answer.text), sample.target == "yes"
        told = {"prompt": sample.prompt, "audio": sample.media["audios"][0]}
        # In the version of 2024 whoever does not say yes says no, but is right only in saying no.
        counted = said_yes is not None or self.version == "2024"
        counts = {
            "questions": 1.0,
            "correct": float(said_yes is label),
            "yes": float(said_yes is True),
            "said_no": float(said_yes is not True and counted),
            "true_no": float(said_yes is False and not label),
            "no": float(not label and counted),
            "looked_at": float(counted and not (said_yes and label)),
        }
        if self.version == "2025":
            counts["followed"] = float(said_yes is not None)
            told |= {"pair": sample.meta["place"] // 2, "side": sample.meta["place"] % 2}
        parsed = {True: "yes", False: "no", None: None}[said_yes]
        return Item(item_id, sample.group, answer.text, parsed, sample.target, said_yes is label, counts, told)

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """Accuracy, precision, recall, f1 and yes_ratio; what 2025 adds; chair, cover and hal; as far as answered."""
        metrics = audio_objects.metrics(columns)
        if "questions" in columns:
            metrics += [
                ratio("accuracy", "correct", "questions"),
                ratio("precision", "true_no", "said_no"),
                ratio("recall", "true_no", "no"),
                Metric("f1", _f1, lambda sums: sums["looked_at"]),
                ratio("yes_ratio", "yes", "questions", better="neither"),
            ]
        if "followed" in columns:
            metrics.append(ratio("instruction_following_rate", "followed", "questions"))
        if "pairs" in columns:
            metrics += [_share_of_pairs(name, columns) for name in OUTCOMES.values()]
        return metrics

    def notes(self, items: Sequence[Item]) -> list[str]:
        """Counts answers that say neither, and names an f1 without a right no."""
        questions = [item for item in items if "questions" in item.counts]
        if not questions:
            return audio_objects.notes(items)
        lost = sum(item.parsed is None for item in questions)
        treated = "count as no, and never as right" if self.version == "2024" else "are in neither precision nor recall"
        sums = Table.of(questions).sums()
        notes = [f"neither_yes_nor_no: {lost} of {len(questions)} answers {treated}"] if lost else []
        if sums["true_no"] == 0 < sums["looked_at"]:
            notes.append("f1_degenerate: no no is right, so f1 is 0; the official script divides by zero here")
        return notes

    def _question(self, number: int, row: Mapping[str, Any], origin: str) -> Sample:
        clip = row.get("audio_index", row.get("audio"))
        label = str(row.get("label", row.get("ground_truth"))).strip().lower()
        if not isinstance(clip, str) or label not in {"yes", "no"} or row.get("entry_id") is None:
            raise DataError(
                f"question {number} of {origin} lacks entry_id, audio_index or a label of yes or no: {str(row)[:200]}",
                why="Any other label would count as no in the official script.",
                fix="A row looks like entry_id,audio_index,label: 0,Y7fmOlUlwoNg,Yes",
            )
        prompt = str(row.get("prompt_text", row.get("query", "")))
        file = clip if Path(clip).suffix else f"{clip}.wav"
        return Sample(str(row["entry_id"]), prompt, {"audios": [file]}, label, clip, {"place": number - 1})


def official_numbers(result: Result) -> dict[str, float] | None:
    """What the official scripts print for these answers: percent with two decimals, with their rounding on the way.

    Args:
        result: Of this benchmark, answers in the order of the data.

    Returns:
        Name of a metric -> number; None where the script stops with a division by zero.
    """
    sums = {column: float(value) for column, value in Table.of(result.items).sums().items()}
    if "questions" not in sums:
        return audio_objects.official_numbers(result.items)
    if not sums["said_no"] or not sums["no"] or not sums["true_no"]:
        return None
    values = {name: result.metrics[name].value for name in ("accuracy", "precision", "recall", "f1", "yes_ratio")}
    numbers = {name: round(100 * value, 2) for name, value in values.items()}
    if result.rule.startswith("2024"):
        precision, recall = numbers["precision"], numbers["recall"]
        if not precision + recall:
            return None
        numbers["f1"] = round(2 * precision * recall / (precision + recall), 2)
        return numbers
    if not sums.get("pairs"):
        return None
    added = ("instruction_following_rate", *OUTCOMES.values())
    return numbers | {name: round(100 * result.metrics[name].value, 2) for name in added}


def _outcome(first: Item | None, second: Item | None) -> str | None:
    """Which of the four a pair is; None unless it asks yes, then no, and both answers say either."""
    if first is None or second is None or None in (first.parsed, second.parsed):
        return None
    if (first.label, second.label) != ("yes", "no"):
        return None
    return OUTCOMES[bool(first.correct), bool(second.correct)]


def _share_of_pairs(name: str, columns: Collection[str]) -> Metric:
    def value(sums: Sums) -> Array:
        return divide(sums[name] if name in columns else 0 * sums["pairs"], sums["pairs"])

    return Metric(name, value, lambda sums: np.asarray(sums["pairs"]), better=_BETTER.get(name, "neither"))


def _f1(sums: Sums) -> Array:
    precision, recall = divide(sums["true_no"], sums["said_no"]), divide(sums["true_no"], sums["no"])
    p, r = np.nan_to_num(precision), np.nan_to_num(recall)
    return np.where(sums["looked_at"] > 0, np.nan_to_num(divide(2 * (p * r), p + r)), np.nan)
