"""Questions with several human answers become pairs of a right and a wrong answer: `mmdpo build vqa`.

The right answer is the one that most people gave, if its accuracy by the official rule (Antol et al. 2015,
arXiv 1505.00468, section 5) is high enough. Where the wrong one comes from is in `data_builders.wrong_answers`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from data_builders.base import Builder, Work
from data_builders.splits import seeded_order
from data_builders.tables.config import (
    UnusableError,
    absence_note,
    bad_text,
    checked_media,
    read_media,
    read_text,
    table_rows,
)
from data_builders.tables.reading import Row
from data_builders.tables.spool import Spool
from data_builders.vqa_config import VqaConfig
from data_builders.wrong_answers import Kind, RightAnswer, WrongAnswers, kind_of, majority, opposite
from mmdpo.errors import DataError
from mmdpo.evals.shared import vqa_text
from mmdpo.evals.shared.consensus import consensus, human_answers, question_texts
from mmdpo.evals.shared.options import file_name
from mmdpo.media import Media
from mmdpo.records import Candidate, Record, media_field, user_message
from mmdpo.records.checks import is_unicode
from mmdpo.registry import builders

_EXACT = 1e-9  # accuracies are sums of tenths
_NO_ANSWER = frozenset({"unanswerable", "unsuitable", "answering does not require reading text in image"})
_ROWS = {"vqa": "annotations.*", "okvqa": "annotations.*", "textvqa": "data.*"}
_FORMS: Mapping[str, Callable[[str], str]] = {
    "vqa": vqa_text.official,
    "okvqa": vqa_text.eval_ai,
    "textvqa": vqa_text.eval_ai,
}


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its right answer, ready but for its picture and its wrong answer."""

    row: int
    key: str
    media: Media
    right: RightAnswer
    accuracy: float
    wrong_said: tuple[str, ...]


@builders.register("vqa")
class Vqa(Builder[VqaConfig]):
    """Pairs of right and wrong answers from questions with several human answers."""

    Config = VqaConfig
    sound_reasons = ("tie", "low_agreement", "disputed", "unanswerable", "no_wrong_answer", "yes_no_balance")

    def media_root(self, config: VqaConfig) -> Any:
        """Folder that the records' media paths are relative to."""
        return config.root

    def records(self, config: VqaConfig, work: Work) -> Iterator[Record]:
        """See `Builder.records`."""
        spool = Spool(work.scratch / "questions.jsonl", _to_json, _from_json)
        wrong_answers = WrongAnswers()
        for question in _questions(config, work):
            wrong_answers.add(question.right)
            spool.extend([question])
        checked = checked_media((question.media for question in spool), config, work)
        surplus = _surplus(spool, checked, config) if config.balance_yes_no else set()
        absent = dict[str, bool]()
        counts = {"answers": Counter[str](), "wrong_answers": Counter[str](), "yes_no": Counter[str]()}
        for question in spool:
            media = checked[question.media]
            if not isinstance(media, Media):
                work.ledger.set_aside(media.kind, question.row, question.media.name, message=media.what)
                continue
            if question.row in surplus:
                work.ledger.set_aside("yes_no_balance", question.row, question.right.form)
                continue
            drawn = wrong_answers.draw(
                question.right,
                Random(f"{config.seed} {question.key}"),
                minority=config.minority,
                is_wrong=set(question.wrong_said).__contains__,
            )
            if drawn is None:
                message = "every frequent answer to such questions is like one that somebody gave"
                work.ledger.set_aside("no_wrong_answer", question.row, question.right.form, message=message)
                continue
            work.ledger.use(question.row)
            counts["answers"][question.right.kind] += 1
            counts["wrong_answers"][drawn[1]] += 1
            if question.right.kind == "yes/no":
                counts["yes_no"][question.right.form] += 1
            absent[media.identity] = media.sha256 is None
            yield _record(question, media, drawn, config)
        work.notes += absence_note(absent)
        work.quality |= {"source": config.source, "vqa": {name: dict(found) for name, found in counts.items()}}


def _questions(config: VqaConfig, work: Work) -> Iterator[Question]:
    """The questions that have a right answer; the others are set aside."""
    columns, paths = config.columns, config.questions
    texts: dict[str, str] = {}
    for path in (paths,) if isinstance(paths, Path) else paths:
        texts |= question_texts(path)
    asked = ("image", "answers", *(["question_id"] if columns.question_id else []), *([] if texts else ["question"]))
    is_json = config.format == "json" or Path(config.tables[0].name.removesuffix(".gz")).suffix.lower() == ".json"
    rows = config.rows or (_ROWS[config.form] if is_json else None)
    wanted = [(f"columns.{name}", getattr(columns, name)) for name in asked]
    seen: dict[str, int] = {}
    for row in table_rows(config.model_copy(update={"rows": rows}), wanted, work):
        try:
            question = _read(row, config, texts)
            if question.key in seen:
                raise UnusableError("duplicate_question", question.key, f"as row {seen[question.key]}")
        except UnusableError as problem:
            work.ledger.set_aside(problem.reason, row.number, problem.value, message=problem.message)
            continue
        seen[question.key] = row.number
        yield question


def _read(row: Row, config: VqaConfig, texts: Mapping[str, str]) -> Question:
    columns, cells = config.columns, row.cells
    key = read_text(cells, columns.question_id)
    text = texts.get(key or "") or read_text(cells, columns.question)
    if text is None:
        raise UnusableError("no_question", key, "neither the row nor the file of questions has its text")
    image = cells.get(columns.image)
    named = image if image is None or isinstance(image, Mapping) else file_name(config.image_name, image, str(image))
    media = read_media(named, config)
    right, accuracy, wrong = _right_answer(cells, config, text)
    return Question(row.number, key or f"{media.identity} {text}", media, right, accuracy, wrong)


def _right_answer(
    cells: Mapping[str, Any], config: VqaConfig, question: str
) -> tuple[RightAnswer, float, tuple[str, ...]]:
    """The right answer, its accuracy, and which of the other answers are wrong.

    Raises:
        UnusableError: There is none, or people do not agree on it.
    """
    entries = cells.get(config.columns.answers)
    try:
        given = human_answers(entries, "the row")
    except DataError as error:
        raise UnusableError("no_answers", entries, error.what) from error
    bad = next((text for text in given if not is_unicode(text)), None)
    if bad is not None:
        raise bad_text(bad)
    forms = [_FORMS[config.form](text) for text in given]
    form, votes = majority(forms)
    if form is None:
        raise UnusableError("tie", votes.most_common(1)[0][0], f"as many gave {votes.most_common(2)[1][0]!r}")
    accuracy = consensus(form, forms)
    if not form or accuracy < config.min_accuracy - _EXACT or votes[form] < config.min_agreement * len(forms) - _EXACT:
        message = f"{votes[form]} of {len(forms)} gave it; its accuracy is {accuracy:.2g}"
        raise UnusableError("low_agreement", form, message)
    if form in _NO_ANSWER:
        raise UnusableError("unanswerable", form)
    kind = _kind(read_text(cells, config.columns.answer_type), form)
    limit = config.max_wrong_accuracy + _EXACT
    wrong = tuple(sorted(other for other in votes if other != form and consensus(other, forms) <= limit))
    if kind == "yes/no" and opposite(form) in votes and opposite(form) not in wrong:
        raise UnusableError("disputed", form, f"{votes[opposite(form)]} of {len(forms)} said {opposite(form)}")
    question_type = read_text(cells, config.columns.question_type) or " ".join(question.lower().split()[:2])
    text = _written(given, forms, entries, form)
    return RightAnswer(text, form, kind, question, question_type, dict(votes)), accuracy, wrong


def _written(given: tuple[str, ...], forms: list[str], entries: Any, form: str) -> str:
    """How most people wrote an answer; OK-VQA has what they wrote beside the stem of it."""
    raw = [entry.get("raw_answer") if isinstance(entry, dict) else None for entry in entries]
    texts = [str(own or text).strip() for own, text, said in zip(raw, given, forms, strict=True) if said == form]
    return Counter(texts).most_common(1)[0][0]


def _kind(named: str | None, form: str) -> Kind:
    own = kind_of(form)
    if named == "yes/no" and own != "yes/no":
        raise UnusableError("not_yes_no", form, "a question of yes and no that most answered otherwise")
    return "number" if named == "number" and own == "other" else own  # such as a time of day


def _surplus(spool: Spool[Question], checked: Mapping[Media, Any], config: VqaConfig) -> set[int]:
    """Rows to leave out so that yes is the answer as often as no."""
    rows: dict[str, list[tuple[str, int]]] = {"yes": [], "no": []}
    for question in spool:
        if question.right.kind == "yes/no" and isinstance(checked[question.media], Media):
            rows[question.right.form].append((seeded_order(config.seed, question.key), question.row))
    few = min(map(len, rows.values()))
    return {row for group in rows.values() for _, row in sorted(group)[few:]}


def _record(question: Question, media: Media, wrong: tuple[str, str], config: VqaConfig) -> Record:
    plural, right = media_field(config.modality), question.right
    prompt = config.prompt.replace("{question}", right.question)
    content = [media.identity, prompt, right.text, wrong[0], question.key]
    return Record(
        id=hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16],
        prompt=(user_message(prompt, **{plural: 1}),),
        candidates=(Candidate(right.text, source="humans"), Candidate(wrong[0], source=f"wrong answer: {wrong[1]}")),
        media={plural: (media,)},
        meta={
            "builder": "vqa",
            "question_id": question.key,
            "answer_type": right.kind,
            "question_type": right.question_type,
            "accuracy": round(question.accuracy, 4),
            "wrong_answer": wrong[1],
            "rows": [question.row],
        },
    )


def _to_json(question: Question) -> list[Any]:
    media = question.media
    return [
        question.row,
        question.key,
        media.path,
        media.sha256,
        asdict(question.right),
        question.accuracy,
        question.wrong_said,
    ]


def _from_json(values: list[Any]) -> Question:
    row, key, path, sha256, right, accuracy, wrong = values
    return Question(row, key, Media(path, sha256), RightAnswer(**right), accuracy, tuple(wrong))
