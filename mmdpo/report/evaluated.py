"""What a benchmark gave for one model, read from its folder: metrics, and the judged items with what was asked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError
from mmdpo.jsonfiles import read_json, read_json_lines

_ID_KEYS = ("question_id", "id", "image_id", "entry_id")


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval and the number of items behind it."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class Benchmark:
    """What one benchmark gave for one model.

    Args:
        media: Names of the lists of media that its items are of.
        items: The judged items, see `read_items`.
        unreadable: Lines of ``items.jsonl`` that could not be read.
    """

    name: str
    rule: str
    media: Sequence[str]
    n: int | None
    unparsed: int
    flags: Sequence[str]
    metrics: Mapping[str, Estimate]
    items: Sequence[Mapping[str, Any]]
    folder: Path
    unreadable: int


def number(value: Any) -> float | None:
    """A number from JSON; None for nothing, NaN and infinities (written as strings) and what is no number."""
    if value is None or isinstance(value, bool):
        return None
    try:
        read = float(value)
    except (TypeError, ValueError):
        return None
    return read if math.isfinite(read) else None


def read_stage(folder: Path) -> dict[str, Benchmark]:
    """The finished evaluations in a folder, by the name of the benchmark's folder; none where there is no folder."""
    if not folder.is_dir():
        return {}
    return {
        entry.name: _read_benchmark(entry) for entry in sorted(folder.iterdir()) if (entry / "metrics.json").is_file()
    }


def _read_benchmark(folder: Path) -> Benchmark:
    written = read_json(folder / "metrics.json")
    items, unreadable = read_items(folder)
    return Benchmark(
        name=str(written.get("benchmark", folder.name)),
        rule=str(written.get("rule", "")),
        media=sorted({plural for item in items for plural in item["media"]}),
        n=_count(written.get("n")),
        unparsed=_count(written.get("unparsed")) or 0,
        flags=[str(flag) for flag in written.get("flags") or ()],
        metrics={
            name: estimate_of(value, folder / "metrics.json")
            for name, value in mapping_of(written.get("metrics"), folder / "metrics.json").items()
        },
        items=items,
        folder=folder,
        unreadable=unreadable,
    )


def read_items(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """The judged items of a benchmark, each with its details, its prompt and its media on one level.

    What was asked and shown stands in ``answers.jsonl``, the folder of the media in ``generation.json``; both may be
    absent where existing answers were scored. Then ``image`` counts, where an item has it.

    Returns:
        Items with ``media`` (paths by the name of their list) and ``media_root`` beside what was written; and how many
        lines could not be read.
    """
    asked = {}
    for row in read_json_lines(folder / "answers.jsonl").rows:
        key = next((row[name] for name in _ID_KEYS if row.get(name) is not None), None)
        asked[str(key)] = row
    generation = read_json(folder / "generation.json") if (folder / "generation.json").is_file() else {}
    items, written = [], read_json_lines(folder / "items.jsonl")
    for item in written.rows:
        details = item.get("details")
        question = asked.get(str(item.get("id")), {})
        read = {"prompt": question.get("prompt"), **(details if isinstance(details, Mapping) else {}), **item}
        own = {"images": [read["image"]]} if read.get("image") else {}
        media = {plural: paths for plural, paths in (question.get("media") or own).items() if paths}
        items.append({**read, "media": media, "media_root": generation.get("media_root")})
    return items, written.unreadable


def estimate_of(value: Any, source: Path) -> Estimate:
    """A value with its interval, as JSON has it.

    Raises:
        DataError: It is no object.
    """
    entry = mapping_of(value, source)
    low, high = number(entry.get("low")), number(entry.get("high"))
    return Estimate(number(entry.get("value")), low, high, _count(entry.get("n")))


def _count(value: Any) -> int | None:
    read = number(value)
    return None if read is None else int(read)


def mapping_of(value: Any, source: Path) -> Mapping[str, Any]:
    """The value, which must be an object of named values.

    Raises:
        DataError: It is none; ``source`` is the file that it stands in.
    """
    if isinstance(value, Mapping):
        return value
    raise DataError(
        f"{str(source)!r} holds {value!r} where an object of named values belongs",
        why="Its numbers cannot be told apart.",
        fix="Make the file again with mmdpo eval or mmdpo compare.",
    )
