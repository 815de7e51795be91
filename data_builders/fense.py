"""The documents of FENSE's listening tests, AudioCaps-Eval and Clotho-Eval, as a table of judged pairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_builders.tables.reading import Row
from data_builders.tables.sources import in_one, open_source
from mmdpo.errors import ConfigError

_OF_THE_CLIP = frozenset({"audio_id", "raw_name", "references"})


def read_fense(path: Path, *, rows: str | None = None, file_names: Path | None = None) -> list[Row]:
    """The judged pairs of a document of github.com/blmoistawinde/fense (`dataset/*.json`), numbered from 1.

    Every item is a clip with its references. Each of its other keys (HC, HI, HM, MM_1, ...) holds two captions, their
    sources and, as its last entry, the votes; some pairs of AudioCaps-Eval have a number before them, which that
    repository's `experiment/dataloader.py` skips too.

    Args:
        path: The document, or several, as `data_builders.tables.sources` names them.
        rows: Where its items are, as in `read_table`; by default it is their list.
        file_names: A table `file_name, caption_1, ...` such as Clotho's. Clotho-Eval gives its clips other names than
            Clotho; the file of a clip is then the one with the same captions.

    Returns:
        Rows with the cells `audio` (None when no file has the item's captions), `caption_a`, `caption_b`, `source_a`,
        `source_b`, `votes` (a list), `kind` (HC, HI, HM, MM), `item` (where it stands, for messages) and `references`.

    Raises:
        ConfigError: A file is missing, or `file_names` is no such table.
        DataError: A file cannot be read.
    """
    names = None if file_names is None else _names_by_captions(file_names)
    found: list[Row] = []
    for item in in_one(open_source(path, kind="json", rows=rows)):
        references = _texts(item.cells.get("references"))
        written = item.cells.get("audio_id") or item.cells.get("raw_name")
        clip = {
            "item": f"item {item.number}" + (f" ({written})" if written else ""),
            "audio": written if names is None else names.get(_words_of(references)),
            "references": references,
        }
        if item.problem is not None:
            found.append(Row(len(found) + 1, clip, item.problem))
        for key, entry in item.cells.items():
            if key not in _OF_THE_CLIP and entry is not None:  # null: the clip has no such pair
                found.append(_judged_pair(len(found) + 1, key, entry, clip))
    return found


def _judged_pair(number: int, key: str, entry: Any, clip: Mapping[str, Any]) -> Row:
    cells = {**clip, "item": f"{clip['item']}, {key}", "kind": key.partition("_")[0]}
    if not isinstance(entry, list) or len(entry) < 5 or not isinstance(entry[-1], list):
        return Row(number, {**cells, key: entry}, "no list of two captions, their sources and the list of votes")
    caption_a, caption_b, source_a, source_b, *_, votes = entry
    pair = {"caption_a": caption_a, "caption_b": caption_b, "source_a": source_a, "source_b": source_b, "votes": votes}
    return Row(number, cells | pair)


def _names_by_captions(path: Path) -> dict[frozenset[str], str]:
    """File name by captions; captions that two files share name neither."""
    names: dict[frozenset[str], set[str]] = defaultdict(set)
    for row in in_one(open_source(path)):
        captions = [text for key, text in row.cells.items() if key.startswith("caption")]
        if not captions or "file_name" not in row.cells:
            raise ConfigError(
                f"row {row.number} of {str(path)!r} has no file_name and caption_1, ...",
                why="file_names tells by its captions which file a clip of the listening test is.",
                fix="Give Clotho's clotho_captions_evaluation.csv, or leave file_names out.",
            )
        names[_words_of(_texts(captions))].add(row.cells["file_name"])
    return {captions: files.pop() for captions, files in names.items() if len(files) == 1}


def _texts(cells: Any) -> list[str]:
    return [cell for cell in cells if isinstance(cell, str)] if isinstance(cells, list) else []


def _words_of(captions: Iterable[str]) -> frozenset[str]:
    """Captions without order, case and punctuation, in which the listening test and Clotho write them differently."""
    kept = ("".join(c for c in text.casefold() if c.isalnum() or c.isspace()) for text in captions)
    return frozenset(" ".join(text.split()) for text in kept)
