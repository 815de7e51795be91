"""The run folder: everything that one training run leaves behind, written so that nothing is lost or overwritten.

config.yaml      the resolved configuration, saved before anything else
manifest.json    versions, git state, data fingerprint, command, times, decisions, exit
log.jsonl        one JSON object per line, flushed as it is written
checkpoints/     what the trainer needs to go on after an interruption
.lock            held by the process that writes here
base_eval/       the model before training: BENCHMARK/{answers.jsonl, items.jsonl, metrics.json}
eval/            the model after training, in the same form
comparison.json  before against after, paired
figures/  report.html  README.md     made from the above by ``mmdpo.report``
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import yaml

from mmdpo.errors import ConfigError
from mmdpo.jsonfiles import append_json_line, cut_json_lines, plain, read_json, write_json, write_json_lines
from mmdpo.run_lock import no_run

VERSIONED_PACKAGES = ("mmdpo", "torch", "transformers", "peft", "accelerate", "datasets")
LOG_FILE = "log.jsonl"
Stage = Literal["base_eval", "eval"]


class RunLog(Protocol):
    """What training asks of a run folder, as every process has it; only that of the main one writes."""

    path: Path
    manifest: dict[str, Any]

    @property
    def checkpoints(self) -> Path:
        """See :attr:`RunFolder.checkpoints`."""

    def log(self, event: Mapping[str, Any]) -> None:
        """See :meth:`RunFolder.log`."""

    def decide(self, name: str, value: Any, reason: str) -> None:
        """See :meth:`RunFolder.decide`."""

    def note(self, **facts: Any) -> None:
        """See :meth:`RunFolder.note`."""


class RunFolder:
    """One run on disk. Make it with :meth:`create` (new) or :meth:`open` (existing), never directly.

    As a context manager it stamps the end of the run into the manifest, whatever the reason for leaving:

        with RunFolder.create("runs/first", config=config, command=sys.argv) as run:
            run.decide("layout", "shared", "the start check agreed to 2e-6")
            run.log({"step": 10, "loss": 0.69})

    Only one process may write; under ``accelerate`` that is the main process.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self._started = time.monotonic()
        self._earlier_seconds = float(manifest.get("seconds") or 0.0)

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        config: Mapping[str, Any],
        command: Sequence[str] = (),
        data_fingerprint: str | None = None,
    ) -> Self:
        """Makes a new run folder and writes its configuration and manifest.

        Args:
            path: The folder; it must not exist yet, or be empty.
            config: The resolved configuration (plain values only).
            command: What was typed, as ``sys.argv`` has it.
            data_fingerprint: Hash of the training data.

        Raises:
            ConfigError: The folder holds something already; nothing in it is touched.
        """
        path = Path(path)
        _refuse_existing(path)
        path.mkdir(parents=True, exist_ok=True)
        try:
            # "x" makes two processes that start at the same moment fail loudly instead of sharing a folder.
            with (path / "config.yaml").open("x", encoding="utf-8") as file:
                yaml.safe_dump(plain(config), file, sort_keys=False, allow_unicode=True)
        except FileExistsError:
            _refuse_existing(path)
        run = cls(path, _new_manifest(command, data_fingerprint))
        run._save()
        return run

    @classmethod
    def open(cls, path: str | Path, *, command: Sequence[str] | None = None, step: int | None = None) -> Self:
        """Opens an existing run, to read it, to add an evaluation, or to go on training.

        Args:
            path: The folder.
            command: What was typed, where training goes on; kept in the manifest's ``resumed``.
            step: Where it goes on from: later lines of ``log.jsonl`` are made again, so they are taken out; 0 where it
                begins again, None to leave them.

        Raises:
            ConfigError: There is no run in this folder.
            DataError: Its manifest cannot be read.
        """
        path = Path(path)
        killed_at_once = command is not None and (path / "config.yaml").is_file()  # before it had a manifest
        if not (path / "manifest.json").is_file() and not killed_at_once:
            raise no_run(path)
        known = (path / "manifest.json").is_file()
        run = cls(path, read_json(path / "manifest.json") if known else _new_manifest(command or (), None))
        if command is not None:
            run._go_on(command, step)
        return run

    def _go_on(self, command: Sequence[str], step: int | None) -> None:
        for scratch in self.path.rglob(".*.tmp"):
            scratch.unlink()  # of a process that was killed while it wrote
        again: dict[str, Any] = {"at": _now(), "command": [str(word) for word in command]}
        if step is not None:
            last = step or -1  # a run that begins again logs step 0 again too

            def stays(event: Mapping[str, Any]) -> bool:
                return int(event.get("step", 0)) <= last and "train_runtime" not in event

            again |= {"step": step, "log_lines_cut": cut_json_lines(self.path / LOG_FILE, stays)}
        if "error" in self.manifest:  # of the attempt before this one
            again["error_before"] = self.manifest.pop("error")
        self.manifest.setdefault("resumed", []).append(again)
        self.manifest["ended"] = self.manifest["exit"] = None
        self._save()

    @property
    def checkpoints(self) -> Path:
        """The folder of the trainer's checkpoints; made when first asked for."""
        folder = self.path / "checkpoints"
        folder.mkdir(exist_ok=True)
        return folder

    def log(self, event: Mapping[str, Any]) -> None:
        """Appends one event to ``log.jsonl``; flushed when this returns."""
        append_json_line(self.path / LOG_FILE, event)

    def decide(self, name: str, value: Any, reason: str) -> None:
        """Keeps one automatic decision and its reason in the manifest."""
        self.manifest["decisions"][name] = {"value": plain(value), "reason": reason}
        self._save()

    def note(self, **facts: Any) -> None:
        """Adds facts to the manifest, for example ``set_aside={"too long": 3}`` or ``counts={"pairs": 120}``."""
        self.manifest.update(plain(facts))
        self._save()

    def write_evaluation(
        self,
        benchmark: str,
        *,
        answers: Iterable[Mapping[str, Any]],
        items: Iterable[Mapping[str, Any]],
        metrics: Mapping[str, Any],
        stage: Stage = "eval",
    ) -> Path:
        """Writes what one benchmark gave: the answers, the judged items and the metrics.

        Args:
            benchmark: Its name in the registry.
            answers: What the model said, in the benchmark's own form.
            items: One object per judged item, see ``docs/report.md``.
            metrics: The object that ``mmdpo score`` prints.
            stage: ``"base_eval"`` for the model before training, ``"eval"`` for the model after.

        Returns:
            The folder.
        """
        folder = self.path / stage / benchmark
        folder.mkdir(parents=True, exist_ok=True)
        write_json_lines(folder / "answers.jsonl", answers)
        write_json_lines(folder / "items.jsonl", items)
        write_json(folder / "metrics.json", metrics)
        return folder

    def write_comparison(self, comparison: Mapping[str, Any]) -> Path:
        """Writes ``comparison.json``: before, after and paired difference of every metric."""
        write_json(self.path / "comparison.json", comparison)
        return self.path / "comparison.json"

    def finish(self, exit: str = "ok", error: str | None = None) -> None:
        """Stamps the end of the run: ``"ok"``, ``"failed"`` (with the error) or ``"interrupted"``."""
        self.manifest.update(ended=_now(), seconds=self._seconds(), exit=exit)
        if error is not None:
            self.manifest["error"] = error
        self._save()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        elif isinstance(error, KeyboardInterrupt) or getattr(error, "exit_code", None) == 130:
            self.finish("interrupted")
        else:
            self.finish("failed", f"{type(error).__name__}: {error}")

    def _seconds(self) -> float:
        return round(self._earlier_seconds + time.monotonic() - self._started, 3)

    def _save(self) -> None:
        write_json(self.path / "manifest.json", self.manifest)


def _refuse_existing(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise ConfigError(
            f"{str(path)!r} is a file",
            why="A run needs a folder of its own.",
            fix="Choose another --out.",
        )
    if path.is_dir() and any(path.iterdir()):
        is_run = (path / "manifest.json").is_file() or (path / "config.yaml").is_file()
        raise ConfigError(
            f"{str(path)!r} already holds {'a run' if is_run else 'files'}",
            why="A run is never overwritten: its numbers could not be told from those of the new one.",
            fix="Go on with it by --resume, or choose another --out." if is_run else "Choose another --out.",
        )


def _new_manifest(command: Sequence[str], data_fingerprint: str | None) -> dict[str, Any]:
    return {
        "versions": _versions(),
        "git": git_state(Path.cwd()),
        "data_fingerprint": data_fingerprint,
        "command": [str(word) for word in command],
        "started": _now(),
        "ended": None,
        "seconds": None,
        "decisions": {},
        "exit": None,
    }


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in VERSIONED_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {**versions, "platform": f"{sys.platform} {platform.machine()}"}


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and cleanliness of the repository around a folder; None where there is none, or no git."""
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*words: str) -> str | None:
        try:
            answer = subprocess.run([git, *words], cwd=folder, capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return None
    changes = ask("status", "--porcelain")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
