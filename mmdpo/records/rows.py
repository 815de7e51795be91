"""One record as one Parquet row, and back.

Columns by form (docs/records.md shows them):

    pair       id, prompt, chosen, rejected, [images, ...], meta, details
    list       id, prompt, completions, scores, [images, ...], meta, details
    unpaired   id, prompt, completion, label, [images, ...], meta, details

`meta` and `details` are JSON strings: Arrow would otherwise give every row the keys of all rows, filled with None.
`details` holds what the shared columns have no place for: content hashes, ranks, sources, spans, weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

from mmdpo.errors import DataError
from mmdpo.media import Media, read_bytes
from mmdpo.records.record import Candidate, Form, Message, Part, Record

ROWS_PER_GROUP = 500
_ANSWER_COLUMNS = ("chosen", "rejected", "completion", "label", "completions", "scores")
RESERVED_COLUMNS = frozenset({"id", "prompt", *_ANSWER_COLUMNS, "meta", "details"})
_DETAIL_DEFAULTS = {item.name: item.default for item in fields(Candidate) if item.name != "text"}
_TEXT = datasets.Value("string")
_MESSAGES = datasets.List({"role": _TEXT, "content": datasets.List({"type": _TEXT, "text": _TEXT})})
_ANSWER_FEATURES: dict[Form, dict[str, Any]] = {
    "pair": {"chosen": _MESSAGES, "rejected": _MESSAGES},
    "list": {"completions": datasets.List(_MESSAGES), "scores": datasets.List(datasets.Value("float64"))},
    "unpaired": {"completion": _MESSAGES, "label": datasets.Value("bool")},
}


def features(form: Form, media_fields: list[str], embed: bool) -> datasets.Features:
    """The columns of a data set: embedded images decode by themselves in `datasets`, other bytes stay bytes."""
    columns: dict[str, Any] = {"id": _TEXT, "prompt": _MESSAGES, **_ANSWER_FEATURES[form]}
    for name in media_fields:
        raw = {"bytes": datasets.Value("binary"), "path": _TEXT}
        embedded = datasets.Image() if name == "images" else raw
        columns[name] = datasets.List(embedded if embed else _TEXT)
    return datasets.Features({**columns, "meta": _TEXT, "details": _TEXT})


def to_row(record: Record, form: Form, media_fields: list[str], media_root: Path | None, embed: bool) -> dict[str, Any]:
    """The row of a record.

    Raises:
        DataError: A part holds more than type and text, something is not JSON, or media to embed cannot be read.
    """
    row: dict[str, Any] = {"id": record.id, "prompt": [_message_row(message, record.id) for message in record.prompt]}
    details: dict[str, Any] = {"candidates": [_candidate_details(candidate) for candidate in record.candidates]}
    answers = [[_answer(candidate.text)] for candidate in record.candidates]
    if form == "pair":
        row["chosen"], row["rejected"] = answers
    elif form == "unpaired":
        row["completion"], row["label"] = answers[0], record.candidates[0].label
    else:
        row["completions"], row["scores"] = answers, [candidate.score for candidate in record.candidates]
    hashes: dict[str, list[str | None]] = {}
    for name in media_fields:
        items = record.media.get(name, ())
        if embed:
            row[name] = [{"bytes": read_bytes(item, media_root), "path": item.path} for item in items]
        else:
            row[name] = [item.path for item in items]
        hashes[name] = [item.sha256 for item in items]
    details |= {"sha256": hashes, "higher_is_better": record.higher_is_better}
    row["meta"], row["details"] = _to_json(record.meta, record.id), _to_json(details, record.id)
    return row


def _answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def _message_row(message: Message, record_id: str) -> dict[str, Any]:
    for part in message["content"]:
        if extra := set(part) - {"type", "text"}:
            raise DataError(
                f"record {record_id!r} has a part with the key {min(extra)!r}",
                why="Parts only mark the place of media; what is shown there is listed in Record.media.",
                fix='Write {"type": "image"} and put the item into media["images"].',
            )
    return {"role": message["role"], "content": [{"text": None, **part} for part in message["content"]]}


def _candidate_details(candidate: Candidate) -> dict[str, Any]:
    values = ((name, getattr(candidate, name), default) for name, default in _DETAIL_DEFAULTS.items())
    return {name: value for name, value, default in values if value != default}


def _to_json(value: Any, record_id: str) -> str:
    try:
        return json.dumps(dict(value), ensure_ascii=False, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"record {record_id!r} holds something that JSON cannot: {error}",
            why="meta, spans and scores are stored as JSON.",
            fix="Keep to strings, finite numbers, booleans, lists and dictionaries.",
        ) from error


def row_groups(path: Path) -> Iterator[pyarrow.RecordBatch]:
    """The rows of a Parquet file, of one row group after the other: together they may hold many pictures."""
    file = pyarrow.parquet.ParquetFile(path)
    for number in range(file.num_row_groups):
        yield from file.iter_batches(batch_size=ROWS_PER_GROUP, row_groups=[number])


def from_row(row: dict[str, Any], index: int) -> Record:
    """The record of a row; `index` names it when the row has no id."""
    details = json.loads(row.get("details") or "{}")
    texts, known = _read_answers(row)
    extra = details.get("candidates") or [{} for _ in texts]
    candidates = tuple(
        _candidate({**more, **column, "text": text}) for text, more, column in zip(texts, extra, known, strict=True)
    )
    media_columns = [name for name, value in row.items() if name not in RESERVED_COLUMNS and isinstance(value, list)]
    hashes = details.get("sha256", {})
    media = {name: tuple(_read_media(row[name], hashes.get(name))) for name in media_columns if row[name]}
    return Record(
        id=row.get("id") or str(index),
        prompt=tuple(_read_message(message) for message in row["prompt"]),
        candidates=candidates,
        media=media,
        higher_is_better=details.get("higher_is_better"),
        meta=json.loads(row.get("meta") or "{}"),
    )


def _read_answers(row: dict[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """The answers' texts, and what the columns say of each."""
    if "chosen" in row:
        return [_answer_text(row["chosen"]), _answer_text(row["rejected"])], [{}, {}]
    if "completions" in row:
        scores = row.get("scores") or [None] * len(row["completions"])
        return [_answer_text(answer) for answer in row["completions"]], [{"score": score} for score in scores]
    return [_answer_text(row["completion"])], [{"label": row.get("label")}]


def _answer_text(messages: list[Message]) -> str:
    (message,) = messages
    (part,) = message["content"]
    return part["text"]


def _read_message(message: dict[str, Any]) -> Message:
    content: list[Part] = [
        {"type": part["type"]} if part["text"] is None else {"type": part["type"], "text": part["text"]}
        for part in message["content"]
    ]
    return {"role": message["role"], "content": content}


def _candidate(values: dict[str, Any]) -> Candidate:
    values["spans"] = tuple((start, end) for start, end in values.get("spans", ()))
    values["weights"] = tuple(values.get("weights", ()))
    if values.get("token_ids") is not None:
        values["token_ids"] = tuple(values["token_ids"])
    return Candidate(**values)


def _read_media(items: list[Any], hashes: list[str | None] | None) -> Iterator[Media]:
    for item, sha256 in zip(items, hashes or [None] * len(items), strict=True):
        if isinstance(item, str):
            yield Media(path=item, sha256=sha256)
        else:
            yield Media(path=item["path"], sha256=sha256, data=item["bytes"])
