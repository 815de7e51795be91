"""Per-token reference log-probabilities on disk: what they depend on beside them, sharded, written once.

    FOLDER/ingredients.json                what the numbers depend on, each with its own fingerprint
    FOLDER/part-PROCESS-NAME.safetensors   rows: whose they are [n, 4], lengths [n], values of all their tokens

A row is one answer under one media variant. Of the row itself the store keeps four short digests: its place (record,
candidate, variant), its prompt's tokens, its answer's tokens, and its encoder inputs. So it is known not only that a
row is another one now, but what of it is. Files have a checksum and names of their own, so that any number of runs and
processes may fill one folder.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import filelock
import numpy as np
import torch
from torch import Tensor

from mmdpo.checked_tensors import Damaged, from_bytes, to_bytes
from mmdpo.errors import ConfigError, DataError
from mmdpo.fingerprints import digest_of
from mmdpo.jsonfiles import read_json, write_json

INGREDIENTS_FILE = "ingredients.json"
TOKENS_PER_FILE = 2**20
"""Answer tokens of a file: 4 MiB of each statistic; what a killed process can lose is less than one file."""

PLACE, PROMPT, ANSWER, MEDIA = range(4)
_PARTS = {PROMPT: "prompt", ANSWER: "answer", MEDIA: "media"}
_MEANING = {
    "prompt": "its prompt's tokens are others: the prompt, the chat template or the tokenizer has changed",
    "answer": "its answer's tokens are others: the answer, how its end is written, or the seed that draws it has "
    "changed",
    "media": "its encoder inputs are others: the file behind it, how the processor prepares it, or the seed that draws "
    "its variant has changed",
}


class ReferenceStore:
    """Rows of reference log-probabilities in a folder.

    Args:
        folder: Where they are, or will be.
        ingredients: What the numbers depend on: name -> fingerprint.
        statistics: What is read of each token, ``logp`` among them.
        process: Number of this process, for the names of its files.

    Attributes:
        statistics: What is kept of each token: what was asked for when the folder was made.

    Raises:
        ConfigError: The folder's numbers were made of other ingredients (each is named), or without a statistic.
        DataError: A file is damaged.
    """

    def __init__(
        self, folder: Path, ingredients: Mapping[str, str], statistics: Collection[str] = ("logp",), process: int = 0
    ) -> None:
        self.folder, self.process = folder, process
        self.statistics = _agreed(folder, dict(ingredients), sorted(statistics))
        self._made_of = digest_of([dict(ingredients), self.statistics])
        self._identities = np.zeros((0, 4), np.int64)
        self._starts = np.zeros(1, np.int64)
        self._values: dict[str, Tensor] = {}
        self._row_of: dict[int, int] = {}
        self._new: list[tuple[np.ndarray, dict[str, Tensor]]] = []
        self._new_tokens = 0
        self.load()

    def __len__(self) -> int:
        return len(self._identities)

    def load(self) -> None:
        """Reads what all processes have written so far.

        Raises:
            DataError: A file is damaged, or of other ingredients than the folder says.
        """
        identities, lengths, values = [], [], []
        for path in sorted(self.folder.glob("part-*.safetensors")):
            try:
                part, told = from_bytes(path.read_bytes())
                if told.get("made_of") != self._made_of:
                    raise Damaged("it was made with other ingredients")
            except (OSError, Damaged) as error:
                raise DataError(
                    f"the cached reference {str(path)!r} cannot be read: {error}",
                    why="Its numbers are not those of this run's reference, or not what was written.",
                    fix="Remove this file: its rows are computed again.",
                ) from error
            identities.append(part.pop("identity").numpy())
            lengths.append(part.pop("length").numpy())
            values.append(part)
        if not identities:
            return
        self._identities = np.concatenate(identities)
        self._starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        self._values = {name: torch.cat([part[name] for part in values]) for name in self.statistics}
        self._row_of = {int(place): row for row, place in enumerate(self._identities[:, PLACE])}

    def missing(self, identity: Tensor) -> list[int]:
        """Which rows of a batch are not there yet.

        Args:
            identity: [N, 4] digests of the rows.

        Raises:
            ConfigError: A row is there, but of another prompt, answer or media.
        """
        absent = []
        for row, digests in enumerate(identity.cpu().numpy()):
            found = self._row_of.get(int(digests[PLACE]))
            if found is None:
                absent.append(row)
            else:
                self._require_same_row(found, digests)
        return absent

    def add(self, identity: Tensor, mask: Tensor, values: Mapping[str, Tensor], rows: Sequence[int]) -> None:
        """Keeps some rows of a batch; they are on disk after :meth:`flush` at the latest.

        Args:
            identity: [N, 4] digests.
            mask: [N, A] True where an answer token is.
            values: Each statistic, [N, A].
            rows: Which of the N.
        """
        for row in rows:
            kept = {name: values[name][row][mask[row]].float().cpu() for name in self.statistics}
            self._new.append((identity[row].cpu().numpy(), kept))
            self._new_tokens += int(mask[row].sum())
        if self._new_tokens >= TOKENS_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Writes what was added into a file."""
        if not self._new:
            return
        lengths = [len(values["logp"]) for _, values in self._new]
        tensors = {
            "identity": torch.from_numpy(np.stack([identity for identity, _ in self._new])),
            "length": torch.tensor(lengths),
            **{name: torch.cat([values[name] for _, values in self._new]) for name in self.statistics},
        }
        path = self.folder / f"part-{self.process:03d}-{uuid.uuid4().hex}.safetensors"
        unfinished = path.with_suffix(".tmp")
        unfinished.write_bytes(to_bytes(tensors, {"made_of": self._made_of}))
        unfinished.replace(path)
        self._new, self._new_tokens = [], 0

    def rows(self, identity: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The values of a batch's rows, [N, A] each, 0 where the mask is False, on the batch's device.

        Raises:
            ConfigError: A row is of another prompt, answer or media.
            DataError: A row is not there.
        """
        found = {name: torch.zeros(mask.shape) for name in self.statistics}
        tokens = mask.cpu()
        for row, digests in enumerate(identity.cpu().numpy()):
            place = self._row_of.get(int(digests[PLACE]))
            if place is None:
                raise DataError(
                    f"the cached reference in {str(self.folder)!r} lacks a row of this batch",
                    why="Its records or views are not those that it was made for.",
                    fix="Let it be completed: start the run again without --resume, or remove the folder.",
                )
            self._require_same_row(place, digests)
            start, end = self._starts[place], self._starts[place + 1]
            for name, values in found.items():
                values[row, tokens[row]] = self._values[name][start:end]
        return {name: values.to(mask.device) for name, values in found.items()}

    def _require_same_row(self, row: int, digests: np.ndarray) -> None:
        other = [part for at, part in _PARTS.items() if self._identities[row, at] != digests[at]]
        if other:
            raise ConfigError(
                f"the cached reference in {str(self.folder)!r} does not fit a record: {', '.join(other)}",
                why="; ".join(_MEANING[part] for part in other) + ". Its log-probabilities would be of something else.",
                fix="Restore what changed, or name another folder in reference.cache.",
            )


def _agreed(folder: Path, ingredients: dict[str, str], statistics: Sequence[str]) -> tuple[str, ...]:
    """The statistics of a folder, after it was made where it is not there.

    Raises:
        ConfigError: It is of other ingredients, or lacks a statistic.
    """
    path = folder / INGREDIENTS_FILE
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock"):
            if not path.is_file():  # another run may have made it meanwhile
                write_json(path, {"ingredients": ingredients, "statistics": statistics})
    before = read_json(path)
    theirs = before.get("ingredients", {})
    other = sorted(name for name in theirs.keys() | ingredients.keys() if theirs.get(name) != ingredients.get(name))
    if other:
        named = ", ".join(
            f"{name} ({theirs.get(name, 'none')} then, {ingredients.get(name, 'none')} now)" for name in other
        )
        raise ConfigError(
            f"the cached reference in {str(folder)!r} was made with other ingredients: {named}",
            why="Its log-probabilities would not be those of this run's reference.",
            fix="Restore what changed, or name another folder in reference.cache.",
        )
    kept = before.get("statistics", ())
    lacking = sorted(set(statistics) - set(kept))
    if lacking:
        raise ConfigError(
            f"the cached reference in {str(folder)!r} has no {', '.join(lacking)}",
            why="A term of this loss reads it of the reference.",
            fix="Name another folder in reference.cache: it is made with what this loss reads.",
        )
    return tuple(kept)
