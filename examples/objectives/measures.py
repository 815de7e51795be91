"""What is measured of a model: one row of sums for each held-out scene, from which every number is made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import mmdpo
from mmdpo.answering.evaluation import answer_and_score
from mmdpo.config import EvalSection
from mmdpo.evals.base import Benchmark, Result
from mmdpo.evals.runner import make_benchmark
from mmdpo.evals.stats import Metric, ratio
from mmdpo.jsonfiles import read_json
from mmdpo.playground.worlds import PICTURES
from mmdpo.records import load_records
from mmdpo.training.validation import BLIND

Counts = dict[str, float]
Rows = dict[str, Counts]
"""Sums by scene."""


@dataclass(frozen=True)
class Scene:
    """One scene of one seed, as the intervals resample it."""

    group: str
    counts: Mapping[str, float]


def measure(path: str, heldout: Path, out: Path) -> Rows:
    """Lets a model describe the held-out scenes and answer questions about them, and scores the held-out pairs.

    Args:
        path: A run folder, or the name of a model.
        heldout: What `rated.make_heldout` wrote.
        out: Folder for the answers.
    """
    model, processor = mmdpo.load(path)
    media = str(heldout / PICTURES.plural)

    def answered(benchmark: Benchmark, data: Path, longest: int) -> Result:
        section = EvalSection(data=str(data), images=media, max_new_tokens=longest)
        return answer_and_score(model, processor, benchmark, section, out / benchmark.name, batch_size=128)

    rows: Rows = {}
    usual = read_json(heldout / "usual.json")
    words = {"synonyms": str(heldout / "synonyms.txt"), "prompt": PICTURES.language.caption_prompt}
    for item in answered(make_benchmark("chair", **words), heldout / "objects.json", 40).items:
        made_up = usual[item.group] is not None and usual[item.group] in (item.parsed or ())
        rows[item.group] = {**item.counts, "made_up": float(made_up), "words": float(len(item.raw.split()))}
    for item in answered(make_benchmark("pope"), heldout / "questions.json", 4).items:
        _add(rows[Path(item.group).stem], item.counts)
    records = load_records(heldout / "pairs")
    seen, blind = (mmdpo.score(model, processor, records, media=media, batch_size=32) for media in ("clean", BLIND))
    for record, (chosen, rejected), (blind_chosen, blind_rejected) in zip(records, seen, blind, strict=True):
        tokens = len(processor.tokenizer(record.chosen.text, add_special_tokens=False).input_ids) + 1  # and the end
        rows[Path(record.media[PICTURES.plural][0].name).stem] |= {
            "pairs": 1.0,
            "tokens": float(tokens),
            "chosen": chosen,
            "rejected": rejected,
            "blind_chosen": blind_chosen,
            "blind_rejected": blind_rejected,
        }
    return rows


def _add(counts: Counts, more: Mapping[str, float]) -> None:
    for name, value in more.items():
        counts[name] = counts.get(name, 0.0) + value


def against(base: Rows, rows: Rows, seed: int) -> list[Scene]:
    """The rows of a model with what comes of its held-out pairs beside the base model's, whose change is reward."""
    return [Scene(f"{seed}/{scene}", counts | _pair(base[scene], counts)) for scene, counts in rows.items()]


def _pair(base: Counts, counts: Counts) -> Counts:
    if "pairs" not in counts:
        return {}
    change = {name: counts[name] - base[name] for name in ("chosen", "rejected", "blind_chosen", "blind_rejected")}
    return {
        "both_fell": float(change["chosen"] < 0 and change["rejected"] < 0),
        "right": _right(change["chosen"] - change["rejected"]),
        "blind_right": _right(change["blind_chosen"] - change["blind_rejected"]),
        "media": counts["chosen"] - counts["blind_chosen"],
    }


def _right(margin: float) -> float:
    """A tie, as before training, counts one half."""
    return 0.5 if margin == 0 else float(margin > 0)


_POPE = {metric.name: metric for metric in make_benchmark("pope").metrics(["questions"])}
UNBOUNDED = (-math.inf, math.inf)
METRICS: Mapping[str, Metric] = {
    "usual": ratio("usual", "made_up", "captions", better="lower", label="usual object"),
    "chair_i": ratio("chair_i", "wrong_mentions", "mentions", better="lower", label="CHAIR_i"),
    "recall": ratio("recall", "found", "present", label="recall"),
    "pope_f1": Metric("pope_f1", _POPE["f1"].value, _POPE["f1"].count, label="POPE F1"),
    "pope_accuracy": ratio("pope_accuracy", "correct", "questions", label="POPE acc."),
    "displacement": ratio("displacement", "both_fell", "pairs", better="lower", label="both fell"),
    "accuracy": ratio("accuracy", "right", "pairs", label="pairs right"),
    "blind": ratio("blind", "blind_right", "pairs", better="neither", label="blind"),
    "chosen": ratio("chosen", "chosen", "tokens", bounds=UNBOUNDED, label="chosen, nats a token"),
    "media": ratio("media", "media", "pairs", bounds=UNBOUNDED, label="media margin, nats"),
    "words": ratio("words", "words", "captions", bounds=(0.0, math.inf), better="neither", label="words"),
}
"""Every number of the tables, as a function of sums over scenes."""


def selection_score(rows: Iterable[Counts]) -> float:
    """The mean of POPE accuracy and the F1 of captions (of 1 - CHAIR_i and recall): learning rates are chosen by it."""
    total: Counts = {}
    for counts in rows:
        _add(total, counts)
    precision = 1 - total["wrong_mentions"] / total["mentions"] if total["mentions"] else 0.0
    recall = total["found"] / total["present"]
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return (f1 + total["correct"] / total["questions"]) / 2
