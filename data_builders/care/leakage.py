"""Which records show what an evaluation set shows, how that is known, and the data set without them."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_builders.care.evaluation_sets import (
    EvaluationSet,
    answers_of,
    coco_id,
    is_telling,
    read_evaluation_set,
    telling_name,
    text_digest,
)
from data_builders.care.near_copies import looks
from mmdpo.errors import ConfigError, DataError
from mmdpo.jsonfiles import read_json, write_json
from mmdpo.media import Media
from mmdpo.records import Record
from mmdpo.records.files import list_splits, open_split, read_rows
from mmdpo.records.staging import INFO_FILE, Staging

LEAKAGE_FILE = "leakage.json"
Evidence = Literal["same_file", "near_copy", "coco_id", "same_name", "same_text"]
EVIDENCE: Mapping[Evidence, str] = {
    "same_file": "the same bytes",
    "near_copy": "looks nearly the same",
    "coco_id": "the same COCO image by its id",
    "same_name": "the same file name",
    "same_text": "the same prompt and answer",
}
"""How a leak is known, the surest first."""


@dataclass(frozen=True)
class Leak:
    """A record that shows what an evaluation set shows.

    Args:
        record: Its id.
        split: Its split.
        against: Name of the evaluation set.
        evidence: Kind of evidence -> what it was found in: a file, an id, the start of an answer.
    """

    record: str
    split: str
    against: str
    evidence: Mapping[Evidence, str]


@dataclass(frozen=True)
class Leakage:
    """What was found.

    Args:
        records: Records that were compared, by split.
        sets: What each evaluation set holds, by kind.
        leaks: Every record with what it was found in, once for each evaluation set.
        unseen: Pictures of the records that could not be opened, so that near copies of them are not found.
    """

    records: Mapping[str, int]
    sets: Mapping[str, Mapping[str, int]]
    leaks: Sequence[Leak]
    unseen: int

    def summary(self) -> dict[str, Any]:
        """Counts: of each evaluation set the leaking records, in all, by split and by kind of evidence."""
        n = sum(self.records.values())
        told = {}
        for name, holds in self.sets.items():
            leaks = [leak for leak in self.leaks if leak.against == name]
            kinds = Counter(kind for leak in leaks for kind in leak.evidence)
            told[name] = {
                "holds": dict(holds),
                "leaking": len(leaks),
                "n": n,
                "by_split": dict(Counter(leak.split for leak in leaks)),
                "by_evidence": {kind: kinds[kind] for kind in EVIDENCE if kinds[kind]},
            }
        leaking = len({(leak.split, leak.record) for leak in self.leaks})
        return {
            "records": dict(self.records),
            "leaking": leaking,
            "against": told,
            "pictures_not_opened": self.unseen,
        }


def find_leakage(data: Path, against: Mapping[str, Path]) -> Leakage:
    """Compares every record of every split with evaluation sets.

    Args:
        data: A data set of records.
        against: Evaluation sets by name: files or folders, see `data_builders.care.evaluation_sets`.

    Raises:
        ConfigError: There is nothing to compare with.
        DataError: The records or an evaluation set cannot be read.
    """
    if not against:
        raise ConfigError(
            "there is no evaluation set to compare with",
            why="Records leak into an evaluation set or not; without one there is nothing to say.",
            fix="Name one or more: --against pope=FILE chair=FOLDER folder=FOLDER",
        )
    splits, root = _splits(data)
    sets = [read_evaluation_set(name, path) for name, path in against.items()]
    near, unseen = _near(splits, root, [one for one in sets if one.pictures])
    counts: Counter[str] = Counter()
    leaks = []
    for split, files in splits.items():
        for record in read_rows(files):
            counts[split] += 1
            for one in sets:
                evidence = _evidence(record, one, near.get(one.name, {}))
                if evidence:
                    leaks.append(Leak(record.id, split, one.name, evidence))
    return Leakage(dict(counts), {one.name: one.counts() for one in sets}, leaks, unseen)


def without_leaks(data: Path, found: Leakage, out: Path) -> dict[str, int]:
    """Writes the records without those that leak, and `leakage.json` with each of those.

    Args:
        data: The data set that was compared.
        found: What was found in it.
        out: Folder to make.

    Returns:
        Records of each split that are left.

    Raises:
        ConfigError: The folder is there.
        DataError: No record is left, or media have changed.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"the output {str(out)!r} exists and is not an empty folder",
            why="Nothing is overwritten: a run may depend on what is there.",
            fix="Choose another --out.",
        )
    splits, root = _splits(data)
    info = read_json(data / INFO_FILE) if (data / INFO_FILE).is_file() else {}
    leaking = {(leak.split, leak.record) for leak in found.leaks}
    if len(leaking) == sum(found.records.values()):
        raise DataError(
            f"all {len(leaking)} records leak, so none would be left",
            why="A data set without records cannot be trained on.",
            fix="Evaluate on something else, or make records of other media.",
        )
    out.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=out) as scratch:
        staging = Staging(Path(scratch), root, embed=bool(info.get("embedded")))
        for split, files in splits.items():
            staging.start_split()
            kept = (record for record in read_rows(files) if (split, record.id) not in leaking)
            names += [split for record in kept if staging.add(record)]
        staging.require_valid(f"the data set {str(data)!r}")
        write_json(out / LEAKAGE_FILE, {**found.summary(), "removed": [vars(leak) for leak in found.leaks]})
        provenance = info.get("provenance", {})
        staging.finish(out, names, {**provenance, "leakage": {"data": str(data), **found.summary()}})
    return dict(Counter(names))


def _splits(data: Path) -> tuple[dict[str, list[Path]], Path | None]:
    """The files of every split and the folder of the media."""
    names = ["train"] if data.suffix == ".parquet" else list_splits(data) or ["train"]
    opened = {name: open_split(data, name) for name in names}
    return {name: files for name, (files, _) in opened.items()}, next(root for _, root in opened.values())


def _near(
    splits: Mapping[str, Sequence[Path]], root: Path | None, sets: Sequence[EvaluationSet]
) -> tuple[dict[str, dict[str, str]], int]:
    """For each evaluation set: identity of a picture of the records -> the picture that it nearly copies."""
    found: dict[str, dict[str, str]] = {one.name: {} for one in sets}
    unseen = 0
    if not sets:
        return found, unseen
    for item, look in looks(_pictures(splits), root):
        unseen += look is None
        for one in sets:
            number = None if look is None else one.near.near(look)
            if number is not None:
                found[one.name][item.identity] = one.pictures[number]
    return found, unseen


def _pictures(splits: Mapping[str, Iterable[Path]]) -> Iterator[Media]:
    seen: set[str] = set()
    for files in splits.values():
        for record in read_rows(list(files)):
            for item in record.media.get("images", ()):
                if item.identity not in seen:
                    seen.add(item.identity)
                    yield item


def _evidence(record: Record, one: EvaluationSet, near: Mapping[str, str]) -> dict[Evidence, str]:
    found: dict[Evidence, str] = {}
    for _, item in record.media_items():
        image = None if item.path is None else coco_id(item.path)
        name = None if item.path is None else telling_name(item.path)
        if item.identity in one.hashes:
            found.setdefault("same_file", one.hashes[item.identity])
        if item.identity in near:
            found.setdefault("near_copy", near[item.identity])
        if image is not None and image in one.coco_ids:
            found.setdefault("coco_id", image)
        elif name is not None and name in one.names:
            found.setdefault("same_name", name)
    for prompt, answer in answers_of(record):
        if is_telling(answer) and {text_digest(prompt, answer), text_digest(None, answer)} & one.texts:
            found.setdefault("same_text", answer[:80])
    return {kind: found[kind] for kind in EVIDENCE if kind in found}
