"""Answers on disk, before anything is scored: appended as they come, so that a killed evaluation goes on.

Several processes share the work: each appends to a file of its own, the main one puts them together in the order of
the questions. A line that a killed process left half written is asked again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.base import Sample
from mmdpo.jsonfiles import append_json_line, read_json, read_json_lines, write_json, write_json_lines
from mmdpo.media import Media, frame_paths, resolve_path
from mmdpo.records import Records
from mmdpo.shard import Shard

ANSWERS_FILE, GENERATION_FILE = "answers.jsonl", "generation.json"
FREE = ("batch_size", "processes", "media_root", "data")
"""Settings that may change before an evaluation goes on: they do not decide what is asked or how."""
NUMBER = "sample"
"""Key of a row that says which of several answers to its question it is, from 0."""
PROBES = 64
"""Weights of each tensor that enter a model's fingerprint."""


class AnswerFile:
    """The answers of one benchmark in its folder.

    Args:
        folder: Made if needed.
        key: What the rows call the id of their question.
        settings: What decides the answers, and what :data:`FREE` names.
        shard: The part of this process.
        each: Answers to every question; their rows tell them apart by :data:`NUMBER`.

    Raises:
        ConfigError: The folder holds answers that were made with other settings, data or another model.
    """

    def __init__(
        self, folder: Path, key: str, settings: Mapping[str, Any], shard: Shard | None = None, each: int = 1
    ) -> None:
        self.folder, self.key, self.shard, self.each = folder, key, shard or Shard(), each
        self.own = folder / f"answers.part-{self.shard.index}.jsonl"
        if self.shard.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            before = read_json(folder / GENERATION_FILE) if (folder / GENERATION_FILE).is_file() else None
            if before is not None and "model_fingerprint" in settings and "model_fingerprint" not in before:
                (folder / ANSWERS_FILE).unlink(missing_ok=True)  # of an older version: whose answers, nobody knows
            elif before is not None:
                _require_same(before, settings, folder)
            write_json(folder / GENERATION_FILE, {**settings, "processes": self.shard.count})
            self._gather(self.own)
        self.shard.wait()
        answers = Counter(question for question, _ in self._rows())
        self.done = {question for question, count in answers.items() if count >= each}
        """Ids of the questions that have all their answers."""
        self.shard.wait()  # nobody appends before everybody has read

    def add(self, row: Mapping[str, Any]) -> None:
        """Keeps one answer."""
        append_json_line(self.own, row)

    def finish(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """All answers in the order of the questions, once every process has given its own.

        Raises:
            DataError: A question has no answer.
        """
        self.shard.wait()
        if self.shard.is_main:
            rows = self._rows()
            wanted = [(sample.id, number) for sample in samples for number in range(self.each)]
            missing = list(dict.fromkeys(question for question, number in wanted if (question, number) not in rows))
            if missing:
                raise DataError(
                    f"{len(missing)} questions have no answer in {str(self.folder)!r} (first: {missing[0]!r})",
                    why="Numbers over the others alone would be of another benchmark.",
                    fix="Run the same command again; it goes on with what is missing.",
                )
            write_json_lines(self.folder / ANSWERS_FILE, [rows[one] for one in wanted])
            for part in self._parts():
                part.unlink()
        self.shard.wait()
        return read_json_lines(self.folder / ANSWERS_FILE).rows

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("answers.part-*.jsonl"))

    def _rows(self) -> dict[tuple[str, int], dict[str, Any]]:
        """The whole lines of all files by question and number; of two that are alike in both the first counts."""
        found: dict[tuple[str, int], dict[str, Any]] = {}
        for path in (self.folder / ANSWERS_FILE, *self._parts()):
            for row in read_json_lines(path).rows:
                found.setdefault((str(row[self.key]), int(row.get(NUMBER, 0))), row)
        return found

    def _gather(self, into: Path) -> None:
        """Puts what earlier calls left into one file without half lines, which would swallow the next one."""
        parts = self._parts()
        if parts:
            write_json_lines(into, self._rows().values())
            for part in set(parts) - {into}:
                part.unlink()


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    changed = [name for name in now if name not in FREE and before.get(name) != now[name]]
    if changed:
        told = "; ".join(f"{name} was {before.get(name)!r} and is {now[name]!r}" for name in changed)
        raise ConfigError(
            f"{str(folder)!r} holds answers that were made otherwise: {told}",
            why="Answers of two models, or to other questions, would be scored as one.",
            fix="Choose another --out, or give the settings, data and model of the first call.",
        )


def check_samples(samples: Sequence[Sample]) -> None:
    """Refuses questions that cannot be asked, before a model is kept busy with the others.

    Raises:
        DataError: One has no text, or two have one id.
    """
    silent = [sample.id for sample in samples if not sample.prompt.strip()]
    if silent:
        raise DataError(
            f"{len(silent)} of {len(samples)} samples have no question (first: {silent[0]!r})",
            why="The model would be shown an image and asked nothing; some official files of annotations leave the "
            "questions to another file.",
            fix="Name that file by the benchmark's own option (vqa and okvqa: --questions FILE; amber: its queries).",
        )
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise DataError(
                f"the data has the id {sample.id!r} more than once",
                why="An answer could belong to either sample.",
                fix="Give every sample an id of its own, or evaluate the files one by one.",
            )
        seen.add(sample.id)


def media_hashes(samples: Sequence[Sample], root: Path) -> dict[str, str]:
    """Path -> sha256 of the file; of a folder of frames that of their hashes.

    Raises:
        MediaError: A file is missing or lies outside the root.
    """
    paths = {path for sample in samples for paths in sample.media.values() for path in map(str, paths)}
    return {path: _hash(path, root) for path in sorted(paths)}


def _hash(path: str, root: Path) -> str:
    frames = frame_paths(Media(path=path), root)
    if frames is not None:
        return hashlib.sha256("".join(_hash(frame, root) for frame in frames).encode()).hexdigest()
    with resolve_path(path, root).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_fingerprint(samples: Sequence[Sample], hashes: Mapping[str, str]) -> str:
    """A sha256 of what is asked: ids, questions, the content of the media, and of texts that are scored."""
    digest = hashlib.sha256()
    for sample in samples:
        media = {plural: [hashes[str(path)] for path in paths] for plural, paths in sorted(sample.media.items())}
        digest.update((json.dumps([sample.id, sample.prompt, media]) + "\n").encode())
        if sample.record is not None:
            digest.update(Records([sample.record]).fingerprint().encode())
    return digest.hexdigest()


@torch.no_grad()
def model_fingerprint(model: Any) -> str:
    """A sha256 of a model's weights as they answer: names, shapes and :data:`PROBES` values of every tensor.

    An adapter that is switched off does not count, so a run's base is the same model with and without it.
    """
    active = any(getattr(module, "disable_adapters", None) is False for module in model.modules())
    digest = hashlib.sha256()
    for name, values in sorted(model.state_dict().items()):
        adapter = "lora_" in name or ".modules_to_save." in name
        if not isinstance(values, torch.Tensor) or (adapter and not active):
            continue
        plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".original_module.", ".")
        flat = values.detach().flatten()
        some = flat[:: max(1, len(flat) // PROBES)].cpu()
        digest.update(f"{plain} {tuple(values.shape)} {some.dtype} {some.double().tolist()}\n".encode())
    return digest.hexdigest()
