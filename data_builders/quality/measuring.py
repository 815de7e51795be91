"""All checks of a set of records: one pass that counts and draws, then the checks on what was drawn."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data_builders.quality import bag_of_words, coverage, languages, lengths, order, pictures, raters, style, texts
from data_builders.quality.sample import LIMIT, Draw, Sample
from data_builders.splits import seeded_order
from mmdpo.jsonfiles import read_json
from mmdpo.records import Record, Records, prompt_text
from mmdpo.records.checks import RecordCheck
from mmdpo.records.files import list_splits, open_split, read_rows

EXAMPLES = 12
Family = Callable[[Sample], tuple[dict[str, Any] | None, list[dict[str, Any]]]]
FAMILIES: Mapping[str, Family] = {
    "length": lengths.length_bias,
    "text_only": bag_of_words.text_only,
    "style": style.style,
    "ambiguous": order.ambiguous,
    "raters_compared": raters.disagreeing_raters,
    "position": order.position_bias,
    "identical": texts.identical_answers,
    "repeated": texts.repeated_answers,
    "near_duplicates": texts.near_duplicates,
    "media_duplicates": pictures.duplicate_media,
    "languages": languages.language_mix,
    "questions": coverage.questions,
    "objects": coverage.objects,
}
"""The checks that read the drawn records, in the order in which they are told."""


class Totals:
    """What is counted over all records, however many there are."""

    def __init__(self, *, check_media: bool = False) -> None:
        self.forms: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()
        self.graph = order.PreferenceGraph()
        self._media: dict[str, set[int]] = defaultdict(set)
        self._check_media = check_media
        self._checks: dict[str, RecordCheck] = {}

    def add(self, record: Record, split: str, media_root: Path | None) -> None:
        """Takes the next record."""
        self.forms[record.form] += 1
        self.splits[split] += 1
        if record.form == "unpaired" and record.candidates[0].label is not None:
            self.labels["desirable" if record.candidates[0].label else "undesirable"] += 1
        for name, item in record.media_items():
            self._media[name].add(hash(item.identity))
        check = self._checks.setdefault(split, RecordCheck())  # ids are unique within a split
        problems = check.problems_of(record, media_root, check_media=self._check_media)
        self.problems.update(problem.kind for problem in problems)
        self.graph.add(record)

    def numbers(self) -> dict[str, Any]:
        """`n`, `form`, `forms`, `media`, `labels` and `problems`."""
        return {
            "n": self.forms.total(),
            "form": next(iter(self.forms)) if len(self.forms) == 1 else "list",
            "forms": dict(self.forms),
            "splits": dict(self.splits),
            "media": {name: len(items) for name, items in sorted(self._media.items())},
            "labels": dict(self.labels),
            "problems": dict(self.problems.most_common()),
        }


def measure(
    records: Records,
    *,
    check_media: bool = False,
    seed: int = 0,
    examples: int = EXAMPLES,
    scale: tuple[float, float] | None = None,
    limit: int = LIMIT,
) -> dict[str, Any]:
    """Counts, problems, biases, shortcuts, duplicates, coverage and examples of records.

    Args:
        records: The records.
        check_media: Also decode images, sounds and videos, and compare every content hash.
        seed: Seed of the examples, and of which records are looked at closely.
        examples: How many examples to draw.
        scale: Lowest and highest rating that could be given, where it is known.
        limit: Records that are looked at closely.

    Returns:
        `n`, `form`, `media` (distinct items by field), `problems` (by kind), `measured_on` (records looked at
        closely), the numbers of each of `FAMILIES`, `margin`, `examples`, and `findings` for `with_checks`. Estimates
        are `{"value", "low", "high", "n"}` with a 95% interval over media groups.
    """
    stream = (("train", record) for record in records)
    how: dict[str, Any] = {"check_media": check_media, "seed": seed, "examples": examples, "limit": limit}
    return measure_stream(stream, records.media_root, scale=scale, **how)


def measure_folder(
    folder: Path,
    *,
    split: str | None = None,
    check_media: bool = False,
    seed: int = 0,
    media_root: Path | None = None,
    scale: tuple[float, float] | None = None,
    limit: int = LIMIT,
) -> dict[str, Any]:
    """The same of a data set on disk, read a batch at a time.

    Args:
        folder: The data set's folder, or one Parquet file.
        split: One split alone; by default all.
        check_media: As in `measure`.
        seed: As in `measure`.
        media_root: Folder of the media, when it is not where the data set says.
        scale: As in `measure`; by default what the data set was built with.
        limit: As in `measure`.

    Raises:
        DataError: There is no such data set or split, or a row is not a record.
    """
    stream, root = _stream(folder, split, media_root)
    how: dict[str, Any] = {"check_media": check_media, "seed": seed, "limit": limit}
    return measure_stream(stream, root, scale=scale or scale_of(folder), **how)


def draw_folder(folder: Path, split: str | None, limit: int, seed: int = 0) -> Sample:
    """Some records of a data set on disk, drawn by a hash; see `measure_folder`."""
    stream, root = _stream(folder, split, None)
    draw = Draw(seed, limit)
    for name, record in stream:
        draw.add(record, name)
    return draw.sample(root)


def _stream(
    folder: Path, split: str | None, media_root: Path | None
) -> tuple[Iterator[tuple[str, Record]], Path | None]:
    """Every record with its split, `train` first, and the folder of the media."""
    names = [split] if split is not None else sorted(list_splits(folder), key=lambda one: (one != "train", one))
    splits = {name: open_split(folder, name, media_root) for name in names or ["train"]}
    root = next(root for _, root in splits.values())  # the same for all: it is the data set's
    return ((name, record) for name, (files, _) in splits.items() for record in read_rows(files)), root


def scale_of(folder: Path) -> tuple[float, float] | None:
    """The rating scale that a data set was built with; None where it has none, or a rater's own scale was used."""
    info = folder / "info.json"
    config = read_json(info).get("provenance", {}).get("config", {}) if info.is_file() else {}
    return scale_in(config if isinstance(config, dict) else {})


def scale_in(config: Mapping[str, Any]) -> tuple[float, float] | None:
    """The rating scale of a builder's configuration."""
    scale = config.get("scale")
    if not isinstance(scale, dict) or config.get("standardise") not in (None, "none"):
        return None
    low, high = scale.get("min"), scale.get("max")
    return (float(low), float(high)) if isinstance(low, int | float) and isinstance(high, int | float) else None


def measure_stream(
    records: Iterable[tuple[str, Record]],
    media_root: Path | None,
    *,
    check_media: bool = False,
    seed: int = 0,
    examples: int = EXAMPLES,
    scale: tuple[float, float] | None = None,
    limit: int = LIMIT,
) -> dict[str, Any]:
    """The same of records that come one by one, each with its split; see `measure`."""
    totals, draw = Totals(check_media=check_media), Draw(seed, limit, light=True)
    for split, record in records:
        totals.add(record, split, media_root)
        draw.add(record, split)
    sample = draw.sample(media_root)
    numbers: dict[str, Any] = {**totals.numbers(), "measured_on": len(sample.drawn)}
    level, findings = lengths.chosen_level(sample, scale)
    numbers["chosen_level"] = level
    numbers["contradictions"], found = totals.graph.result(sample)
    findings += found
    for name, family in FAMILIES.items():
        numbers[name], found = family(sample)
        findings += found
    numbers |= {"margin": lengths.margins(sample), "examples": _examples(sample, seed, examples)}
    return {**numbers, "findings": findings}


def _examples(sample: Sample, seed: int, count: int) -> list[dict[str, Any]]:
    pairs = [record for record in sample.records if record.form == "pair"]
    drawn = sorted(pairs, key=lambda record: seeded_order(seed, record.id))[:count]
    return [
        {
            "id": record.id,
            "media": {name: [item.path for item in items] for name, items in record.media.items()},
            "prompt": prompt_text(record),
            "chosen": record.chosen.text,
            "rejected": record.rejected.text,
            "scores": [candidate.score for candidate in record.candidates],
        }
        for record in drawn
    ]
