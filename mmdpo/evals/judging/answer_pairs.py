"""Several models' answers to the same questions, in pairs: what people or a judge are shown."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError
from mmdpo.evals.shared.files import read_rows

ID_KEYS = ("question_id", "questionId", "uniq_id", "entry_id", "id", "image_id", "image", "audio", "file_name")
"""Keys of an answer that can hold its question's id, first match wins."""
TEXT_KEYS = (
    *("model_answer", "model_output", "model_prediction", "prediction"),  # beside these, "answer" is the right one
    *("answer", "text", "caption", "response", "output"),
)
"""Keys of an answer that can hold its text, first match wins."""


@dataclass(frozen=True)
class AnswerPair:
    """Two models' answers to one question.

    Attributes:
        item: The question's id.
        group: The resampling unit: the first picture or clip, or the question where there is none.
        prompt: What was asked.
        images: Pictures that the question is about.
        reference: What is known to be true, if the file says so.
        models: Names of the two models.
        answers: What they said.
    """

    item: str
    group: str
    prompt: str
    images: tuple[str, ...]
    reference: str | None
    models: tuple[str, str]
    answers: tuple[str, str]


@dataclass(frozen=True)
class _Said:
    """One answer with what its row says about the question."""

    text: str
    prompt: str
    media: tuple[str, ...]
    images: tuple[str, ...]
    reference: str | None


def answer_pairs(models: Mapping[str, Path], *, limit: int | None = None) -> tuple[list[AnswerPair], list[str]]:
    """All pairs of answers to the same question.

    Args:
        models: Name -> file of answers, or a folder that ``mmdpo eval`` wrote with one benchmark in it.
        limit: Only the first so many questions of the first model.

    Returns:
        The pairs, and flags for answers that have no counterpart.

    Raises:
        DataError: A file has no ids or texts, or two models share no question or were asked different ones.
    """
    said = {name: _read(answers_file(path)) for name, path in models.items()}
    kept = None if limit is None else set(list(next(iter(said.values())))[:limit])
    pairs, flags = [], []
    for first, second in itertools.combinations(said, 2):
        shared = [item for item in said[first] if item in said[second]]
        if not shared:
            raise DataError(
                f"{first} and {second} answered no question in common",
                why="Only answers to the same question can be compared; questions are told apart by their ids.",
                fix="Let both models answer the same benchmark with mmdpo eval.",
            )
        alone = len(said[first]) + len(said[second]) - 2 * len(shared)
        if alone:
            flags.append(f"unpaired_answers: {alone} answers of {first} or {second} have no counterpart; set aside")
        pairs += [
            _pair(item, (first, second), (said[first][item], said[second][item]))
            for item in shared
            if kept is None or item in kept
        ]
    return pairs, flags


def answers_file(path: Path) -> Path:
    """The file of answers that a path means: itself, or the only one in an evaluation or run folder.

    Raises:
        DataError: The folder holds none, or several.
    """
    if not path.is_dir():
        return path
    found = [file for pattern in ("", "*/", "eval/*/") for file in sorted(path.glob(f"{pattern}answers.jsonl"))]
    if len(found) != 1:
        raise DataError(
            f"{str(path)!r} holds {len(found)} files answers.jsonl",
            why="It is not known which answers are to be compared.",
            fix=f"Name one file, such as {str(found[0])!r}." if found else "Give a file of answers.",
        )
    return found[0]


def _read(path: Path) -> dict[str, _Said]:
    said: dict[str, _Said] = {}
    for number, row in enumerate(read_rows(path), 1):
        item = next((row[key] for key in ID_KEYS if row.get(key) is not None), None)
        text = next((row[key] for key in TEXT_KEYS if isinstance(row.get(key), str)), None)
        if item is None or text is None:
            lacking, keys = ("id", ID_KEYS) if item is None else ("text", TEXT_KEYS)
            raise DataError(
                f"entry {number} of {str(path)!r} has no {lacking}; its keys are {sorted(row)}",
                why="Answers of two models are matched by id.",
                fix=f"Write it under one of {', '.join(keys)}.",
            )
        if str(item) in said:
            raise DataError(
                f"{str(path)!r} answers {item!r} more than once",
                why="Either answer could be the one to compare.",
                fix="Keep one answer to each question; give several questions about an image ids of their own.",
            )
        said[str(item)] = _said(row, text)
    return said


def _said(row: Mapping[str, Any], text: str) -> _Said:
    media = row.get("media")
    if not isinstance(media, dict):
        media = {"images": [row["image"]]} if isinstance(row.get("image"), str) else {}
    reference = row.get("reference")
    if isinstance(reference, list):
        reference = "\n".join(map(str, reference))
    prompt = next((row[key] for key in ("prompt", "question") if isinstance(row.get(key), str)), "")
    paths = tuple(str(path) for listed in media.values() for path in listed)
    images = tuple(str(path) for path in media.get("images", []))
    return _Said(text, prompt, paths, images, None if reference is None else str(reference))


def _pair(item: str, models: tuple[str, str], said: Sequence[_Said]) -> AnswerPair:
    first, second = said
    for what, mine, other in (("questions", first.prompt, second.prompt), ("media", first.media, second.media)):
        if mine and other and mine != other:
            raise DataError(
                f"{models[0]} and {models[1]} have different {what} under the id {item!r}: {mine!r} and {other!r}",
                why="Answers to two questions cannot be compared.",
                fix="Let both models answer the same version of the benchmark.",
            )
    media = first.media or second.media
    return AnswerPair(
        item=item,
        group=media[0] if media else item,
        prompt=first.prompt or second.prompt,
        images=first.images or second.images,
        reference=first.reference or second.reference,
        models=models,
        answers=(first.text, second.text),
    )
