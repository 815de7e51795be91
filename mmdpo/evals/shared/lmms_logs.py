"""Answers in the sample logs of lmms-eval (``--log_samples``), scored by our rules.

Form, as its ``loggers/evaluation_tracker.py`` writes it: JSON lines with ``doc_id``, ``target``, ``filtered_resps``,
which is the answer (until February 2026 in a list of one), ``resps`` where it differs, ``input``, which is the
prompt, and what the task's own scoring made of the sample by the names of its metrics, for POPE ``{"question_id":
"1", "score": 1.0, ...}``. The question itself (``doc``) is mostly left out. Logs in one JSON file, which its first
versions wrote, are not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError
from mmdpo.evals.base import Answer, Benchmark
from mmdpo.evals.shared.files import read_rows

_MARKS = frozenset(["doc_id", "filtered_resps"])
"""Keys that, with a whole number under the first, tell such a log from other answers."""


def read_answers(benchmark: Benchmark, path: Path) -> list[Answer]:
    """The answers in a file: in the benchmark's own form, or in a sample log of lmms-eval.

    Raises:
        DataError: It is of neither form.
    """
    if path.is_file() and path.name.endswith((".jsonl", ".jsonl.gz")):
        rows = read_rows(path)
        if all(row.keys() >= _MARKS and isinstance(row["doc_id"], int) for row in rows):
            return benchmark.answers(plain_rows(rows, benchmark, str(path)), str(path))
    return benchmark.read_answers(path)


def plain_rows(rows: Sequence[Mapping[str, Any]], benchmark: Benchmark, origin: str) -> list[dict[str, Any]]:
    """The rows of a log with the keys that the benchmark reads, in the order of the data set that was asked.

    Answers have an id where the task's own scoring notes it; where it does not, they are matched by order.

    Raises:
        DataError: A sample has several answers, or an id occurs more than once.
    """
    plain = []
    for row in sorted(rows, key=lambda row: row["doc_id"]):
        text = row["filtered_resps"]
        while isinstance(text, list) and len(text) == 1:
            text = text[0]
        if not isinstance(text, str):
            raise DataError(
                f"sample {row['doc_id']} of {origin} has not one written answer under filtered_resps: {text!r:.80}",
                why="Tasks that compare the likelihood of choices, or draw several answers, leave nothing to read.",
                fix="Log a task with output_type generate_until and one answer each.",
            )
        prompt = {"prompt": row["input"]} if isinstance(row.get("input"), str) else {}
        plain.append({**_id(row, benchmark.id_keys), **prompt, benchmark.text_keys[0]: text})
    ids = Counter(str(row[key]) for row in plain for key in benchmark.id_keys if key in row)
    again = next((f"{name!r} {count} times" for name, count in ids.items() if count > 1), None)
    if again is not None:
        raise DataError(
            f"{origin} has the id {again}",
            why="Tasks of several parts, such as pope, number the questions of each part anew.",
            fix="Log and score each part by itself: pope_random, pope_pop, pope_adv.",
        )
    return plain


def _id(row: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The sample's id, as the question or the first metric that has one notes it."""
    noted = [value for value in row.values() if isinstance(value, dict)]
    return next(({key: entry[key]} for entry in noted for key in keys if entry.get(key) is not None), {})
