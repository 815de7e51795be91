"""What the records are about: kinds of questions, and the objects of COCO's 80 categories that answers name."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from data_builders.quality.findings import finding, listed, short
from data_builders.quality.sample import Sample
from mmdpo.evals.chair import Chair
from mmdpo.records import prompt_text

MOST = 5_000
"""Records whose answers are read for objects."""
_TYPES = (
    ("how many", re.compile(r"\bhow (?:many|much)\b|\bnumber of\b|\bcount\b")),
    ("how", re.compile(r"^how\b")),
    ("where", re.compile(r"^where\b|\bwhere (?:is|are|does|do|was|can)\b")),
    ("who", re.compile(r"^whos?e?\b|\bwho (?:is|are)\b")),
    ("when", re.compile(r"^when\b|\bwhat time\b")),
    ("why", re.compile(r"^why\b|\bwhy (?:is|are|does|do)\b|^explain\b")),
    ("which", re.compile(r"^which\b|\bwhich of\b")),
    ("yes or no", re.compile(r"^(?:is|are|was|were|does|do|did|can|could|has|have|will|would|should|isn't|aren't)\b")),
    ("describe", re.compile(r"\b(?:describe|description|caption|summari[sz]e|tell me about|write a)\b")),
    ("what", re.compile(r"^what\b|\bwhat (?:is|are|color|colour|kind|type|does|do)\b")),
)
OTHER = "other"
_TOLD = 6


def question_type(prompt: str) -> str:
    """The kind of a question, by its first words in English; ``other`` where none fits."""
    lines = [line.strip() for line in prompt.lower().splitlines() if line.strip()]
    for line in lines:
        for name, pattern in _TYPES:
            if pattern.search(line):
                return name
    return OTHER


def questions(sample: Sample) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """How the prompts are spread over kinds of questions, and over words."""
    if not sample.drawn:
        return None, []
    prompts = Counter(prompt_text(record) for record in sample.records)
    kinds: Counter[str] = Counter()
    for prompt, count in prompts.items():
        kinds[question_type(prompt)] += count
    missing = [name for name, _ in _TYPES if name not in kinds]
    (most, count), total = prompts.most_common(1)[0], prompts.total()
    told = [f"{name} {100 * number / total:.0f}%" for name, number in kinds.most_common(4)]
    if len(prompts) == 1:
        message = f"All {total:,} records ask the same: {short(most)}."
    else:
        message = (
            f"{total:,} records ask {len(prompts):,} different questions; the most frequent stands in "
            f"{100 * count / total:.0f}% of them. Kinds: {listed(told)}"
        )
        message += f"; none asks {listed(missing)}." if missing else "."
    numbers = {"prompts": len(prompts), "most_frequent": most, "kinds": dict(kinds.most_common()), "missing": missing}
    return numbers, [finding("question_variety", count / total, message, n=total)]


def objects(sample: Sample) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Which of COCO's categories the answers name, by the names and rules of the benchmark `chair`.

    Of a caption this is what it claims to see. Categories that are never named were never praised or rebuked, so
    training says nothing about them.
    """
    if not any(plural == "images" for record in sample.records[:MOST] for plural in record.media):
        return None, []
    chair = Chair()
    categories = sorted(set(chair.names.category_of.values()))
    read: dict[str, frozenset[str]] = {}

    def named(text: str) -> frozenset[str]:
        if text not in read:
            mentions = chair.names.mentions(chair.base_words(text))
            read[text] = frozenset(mention.category for mention in mentions)
        return read[text]

    answers: Counter[str] = Counter()
    prompts: Counter[str] = Counter()
    records = sample.records[:MOST]
    for record in records:
        answers.update(frozenset().union(*(named(candidate.text) for candidate in record.candidates)))
        prompts.update(named(prompt_text(record)))
    chosen_alone: Counter[str] = Counter()
    rejected_alone: Counter[str] = Counter()
    ids = {record.id for record in records}
    for one in sample.comparisons:
        if one.record.id in ids:
            better, worse = named(one.better.text), named(one.worse.text)
            chosen_alone.update(better - worse)
            rejected_alone.update(worse - better)
    seen = answers.keys() | prompts.keys()
    missing = [name for name in categories if name not in seen]
    top = answers.most_common(_TOLD)
    value = 1 - len(missing) / len(categories)
    message = (
        f"{len(categories) - len(missing)} of COCO's {len(categories)} kinds of objects are named in prompts or answers"
    )
    if top:
        message += "; most often " + listed(
            [f"{name} ({100 * n / len(records):.0f}% of the records)" for name, n in top[:3]]
        )
    message += f". Never: {listed(missing[:8])}{' …' if len(missing) > 8 else ''}." if missing else "."
    numbers = {
        "records": len(records),
        "named": len(categories) - len(missing),
        "categories": len(categories),
        "most": [
            {
                "object": name,
                "records": n,
                "prompts": prompts[name],
                "chosen_alone": chosen_alone[name],
                "rejected_alone": rejected_alone[name],
            }
            for name, n in answers.most_common(2 * _TOLD)
        ],
        "missing": missing,
    }
    return numbers, [finding("object_coverage", value, message, n=len(categories))]
