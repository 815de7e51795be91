"""What an evaluation set is made of: its media by content and look, the ids and names of its images, its texts.

Read is whatever benchmarks come in: the questions of POPE, CHAIR's table or COCO's annotations, AMBER's queries, the
questions and annotations of VQA, lists of names, a folder of media, or a data set of records.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from data_builders.care.near_copies import NearCopies, looks
from mmdpo.errors import DataError
from mmdpo.evals.shared.files import read_json, read_rows, read_text
from mmdpo.evals.shared.held_out import is_record_set
from mmdpo.media import Media, MediaError, content_hash
from mmdpo.records import Record, prompt_text
from mmdpo.records.files import list_splits, open_split
from mmdpo.records.files import read_rows as read_records

LEAST_WORDS = 5
"""Shorter answers are the same by chance: every second question of POPE is answered "yes"."""

_COCO = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d{12})")
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm")
_OTHERS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".mp4", ".webm", ".mkv", ".mov", ".avi")
_LISTS = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz")
_NAME_KEYS = (
    "image",
    "imange",
    "image_name",
    "file_name",
    "img",
    "img_path",
    "image_path",
    "filename",
    "audio",
    "video",
)
_PROMPT_KEYS = ("question", "query", "prompt", "text")
_ANSWER_KEYS = ("caption", "answer", "gt_answer", "reference")
_THREADS = 4


@dataclass
class EvaluationSet:
    """What records are compared with.

    Args:
        name: As people call it.
        hashes: Content hash -> name, of its media.
        pictures: Names of the pictures in `near`.
        near: Finds near copies of its pictures.
        coco_ids: Ids of COCO images.
        names: Names of its media without folder and suffix, those that could belong to anything left out.
        texts: Digests of its answers of five words and more, with their prompts where they have one.
        unreadable: Files that could not be read.
    """

    name: str
    hashes: dict[str, str] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    near: NearCopies = field(default_factory=NearCopies)
    coco_ids: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    texts: set[bytes] = field(default_factory=set)
    unreadable: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """How much there is to compare with, by kind."""
        kinds: dict[str, Any] = {
            "media": self.hashes,
            "pictures": self.pictures,
            "coco_ids": self.coco_ids,
            "names": self.names,
            "texts": self.texts,
            "unreadable": self.unreadable,
        }
        return {kind: len(found) for kind, found in kinds.items()}

    def add_name(self, name: str) -> None:
        """Takes the name of a media item."""
        image = coco_id(name)
        if image is not None:
            self.coco_ids.add(image)
        elif (stem := telling_name(name)) is not None:
            self.names.add(stem)

    def add_text(self, prompt: str | None, answer: str) -> None:
        """Takes an answer."""
        if is_telling(answer):
            self.texts.add(text_digest(prompt, answer))


def read_evaluation_set(name: str, path: Path) -> EvaluationSet:
    """Reads a file or a folder.

    Raises:
        DataError: It is not there, cannot be read, or nothing in it could be compared.
    """
    found = EvaluationSet(name)
    if is_record_set(path):
        _add_records(found, path)
    elif path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        _add_media(found, path, [file for file in files if file.suffix.lower() in (*_IMAGES, *_OTHERS)])
        for file in files:
            if file.name.lower().endswith(_LISTS):
                try:
                    _add_list(found, file)
                except DataError:
                    found.unreadable.append(str(file.relative_to(path)))
    else:
        _add_list(found, path)
    if not any(count for kind, count in found.counts().items() if kind != "unreadable"):
        raise DataError(
            f"nothing in {str(path)!r} can be compared with records",
            why="Looked for were media files, names and ids of images, and answers of five words and more.",
            fix="Give the benchmark's question file, its annotations, its folder of images, or a list of file names.",
        )
    return found


def coco_id(name: str) -> str | None:
    """The id of a COCO image from its file name, in the form of 2014 or 2017; None for other names."""
    found = _COCO.fullmatch(PurePosixPath(name).stem)
    return None if found is None else str(int(found[1]))


def telling_name(name: str) -> str | None:
    """A name without folder and suffix; None for a short number, which any data set has."""
    stem = PurePosixPath(name).name
    stem = PurePosixPath(stem).stem if PurePosixPath(stem).suffix.lower() in (*_IMAGES, *_OTHERS) else stem
    return None if not stem or (stem.isdecimal() and len(stem) < 9) else stem.casefold()


def is_telling(answer: str) -> bool:
    """Whether an answer is long enough not to be the same by chance."""
    return len(answer.split()) >= LEAST_WORDS


def text_digest(prompt: str | None, answer: str) -> bytes:
    """What tells a prompt with its answer from others, case and white space aside."""
    plain = "\x1f".join(" ".join((text or "").casefold().split()) for text in (prompt, answer))
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _add_media(found: EvaluationSet, root: Path, files: Iterable[Path]) -> None:
    items = [Media(file.relative_to(root).as_posix()) for file in files]
    with ThreadPoolExecutor(_THREADS) as pool:
        for item, digest in zip(items, pool.map(lambda item: _hash(item, root), items), strict=True):
            found.add_name(item.name)
            if digest is None:
                found.unreadable.append(item.name)
            else:
                found.hashes.setdefault(digest, item.name)
    _add_looks(found, (item for item in items if item.name.lower().endswith(_IMAGES)), root)


def _hash(item: Media, root: Path) -> str | None:
    try:
        return content_hash(item, root)
    except MediaError:
        return None


def _add_looks(found: EvaluationSet, items: Iterable[Media], root: Path | None) -> None:
    for item, look in looks(items, root):
        if look is not None:
            found.near.add(look)
            found.pictures.append(item.name)


def _add_records(found: EvaluationSet, path: Path) -> None:
    pictures: dict[str, Media] = {}
    root = None
    for split in ["train"] if path.suffix == ".parquet" else list_splits(path):
        files, root = open_split(path, split)
        for record in read_records(files):
            for plural, item in record.media_items():
                if item.path is not None:
                    found.add_name(item.path)
                if not item.identity.startswith("path:"):
                    found.hashes.setdefault(item.identity, item.name)
                if plural == "images":
                    pictures.setdefault(item.identity, item)
            for prompt, answer in answers_of(record):
                found.add_text(prompt, answer)
    _add_looks(found, pictures.values(), root)


def answers_of(record: Record) -> Iterator[tuple[str, str]]:
    """Each answer of a record with the words of its prompt."""
    prompt = prompt_text(record)
    for candidate in record.candidates:
        yield prompt, candidate.text


def _add_list(found: EvaluationSet, path: Path) -> None:
    if path.name.lower().endswith(_LISTS):
        content = _content(path)
    else:
        content = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    for entry in _entries(content):
        _add_entry(found, entry)


def _content(path: Path) -> Any:
    """A JSON document, or the rows of JSON lines, whatever the name says: POPE's `.json` files hold lines."""
    try:
        return read_json(path)
    except DataError:
        return read_rows(path)


def _entries(content: Any) -> Iterator[Any]:
    """The entries of a document: of its lists, or of its table by image."""
    if isinstance(content, list):
        yield from content
    elif isinstance(content, Mapping):
        lists = [content[key] for key in ("images", "questions", "annotations", "data") if key in content]
        if any(isinstance(part, list) for part in lists):
            yield from (entry for part in lists if isinstance(part, list) for entry in part)
        elif isinstance(content.get("imgToEval"), Mapping):
            yield from content["imgToEval"].values()
        elif content.keys() & {"image_id", *_NAME_KEYS, *_ANSWER_KEYS}:
            yield content  # JSON lines of one line
        else:
            yield from content  # a table by image


def _add_entry(found: EvaluationSet, entry: Any) -> None:
    if isinstance(entry, str | int) and not isinstance(entry, bool):
        _add_id(found, entry)
    if not isinstance(entry, Mapping):
        return
    for key in _NAME_KEYS:
        if isinstance(entry.get(key), str):
            found.add_name(entry[key])
    if isinstance(entry.get("image_id"), str | int):
        _add_id(found, entry["image_id"])
    prompt = next((entry[key] for key in _PROMPT_KEYS if isinstance(entry.get(key), str)), None)
    for key in _ANSWER_KEYS:
        if isinstance(entry.get(key), str):
            found.add_text(prompt, entry[key])


def _add_id(found: EvaluationSet, value: str | int) -> None:
    """An id: a bare number is one of COCO."""
    if str(value).isdecimal():
        found.coco_ids.add(str(int(value)))
    else:
        found.add_name(str(value))
