"""Runs that are killed: `python kills.py PLAN.json` imports everything once, and forks a process for each attempt.

A process kills itself with SIGKILL at the n-th writing to a kind of file, before the file is touched or with half of
what is to be written, or at the n-th step, or is killed from outside after some seconds. What each process did is told
in files beside the run, which the test reads.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from mmdpo.answering import evaluation
from mmdpo.answering.answer_file import AnswerFile
from mmdpo.config import parse_config
from mmdpo.runs.training import train
from mmdpo.training.callbacks import RunCallback

WRITING = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
EARLY = ("start", "cache")
"""What only a new run writes."""
MOST_ATTEMPTS = 80
KINDS = {  # in this order: a path is of the first kind that has a mark in it
    "log": ("log.jsonl",),
    "manifest": ("manifest.json",),
    "cache": (".reference/",),
    "checkpoint": ("/checkpoints/",),
    "training_eval": ("/training_eval/",),
    "evaluation": ("/eval/", "/base_eval/"),
    "saved": ("/adapter",),
    "start": ("config.yaml", "set_aside.jsonl"),
}


def kind_of(path: str) -> str | None:
    """Which kind of file a path is."""
    return next((kind for kind, marks in KINDS.items() if any(mark in path for mark in marks)), None)


class Killer:
    """Listens to what the interpreter writes, counts it, and kills the process.

    Args:
        root: Folder that counts.
        kind: Kind of file.
        number: At which writing, from 1; 0 for never.
        torn: Whether half of a line is written first.
    """

    def __init__(self, root: Path, kind: str = "", number: int = 0, torn: bool = False) -> None:
        self.root, self.kind, self.left, self.torn = str(root), kind, number, torn
        self.counts: dict[str, int] = {}

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in WRITING or not isinstance(arguments[0], str | os.PathLike):
            return
        path, mode = os.fspath(arguments[0]), arguments[1] if event == "open" else None
        if event == "open" and (not isinstance(mode, str) or not set(mode) & set("wax+")):
            return
        kind = kind_of(str(path)) if str(path).startswith(self.root) else None
        if kind is None or not self.is_time(kind):
            return
        if self.torn and event == "open":
            self.kind = ""
            flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if "a" in str(mode) else os.O_TRUNC)
            os.write(os.open(path, flags), b'{"step": 1, "los')
        os.kill(os.getpid(), signal.SIGKILL)

    def is_time(self, kind: str) -> bool:
        """Counts, and says whether this is where the process dies."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.left -= kind == self.kind
        return kind == self.kind and self.left == 0


def note(path: Path, *words: object) -> None:
    """A line that survives a kill."""
    with path.open("a", encoding="utf-8") as file:
        file.write(" ".join(map(str, words)) + "\n")


def attempt(config: Any, out: Path, number: int, killer: Killer, done: Path) -> None:
    """One process: trains and evaluates, goes on where an earlier one left something."""
    begun, added = RunCallback.on_step_begin, AnswerFile.add

    def on_step_begin(self: RunCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        note(done, number, "step", state.global_step + 1)
        if killer.is_time("step"):
            os.kill(os.getpid(), signal.SIGKILL)
        begun(self, args, state, control, **kwargs)

    def add(self: AnswerFile, row: Any) -> None:
        added(self, row)
        note(done, number, "answer", self.folder.relative_to(out), row[self.key])

    RunCallback.on_step_begin, AnswerFile.add = on_step_begin, add  # type: ignore[method-assign]
    sys.addaudithook(killer)
    train(config, out, resume=(out / "config.yaml").is_file())
    evaluation.evaluate_run(out, config)


def newest_step(out: Path) -> int:
    """The step of the newest checkpoint, 0 without one."""
    folders = (out / "checkpoints").glob("checkpoint-*") if (out / "checkpoints").is_dir() else ()
    return max((int(folder.name.partition("-")[2]) for folder in folders), default=0)


def run_once(config: Any, out: Path, number: int, killer: Killer, seconds: float | None) -> int:
    """Forks one attempt and waits for it; its exit code, below 0 for a signal."""
    done, errors = out.with_suffix(".done"), out.with_suffix(".errors")
    note(done, number, "from", newest_step(out))
    process = os.fork()
    if process == 0:
        code = 1
        try:
            with errors.open("a") as file:
                os.dup2(file.fileno(), 2)
            torch.set_num_threads(1)
            attempt(config, out, number, killer, done)
            code = 0
            out.with_suffix(".counts").write_text(json.dumps(killer.counts), encoding="utf-8")
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    if seconds is not None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            time.sleep(0.005)
        else:
            os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main(plan: dict[str, Any]) -> None:
    """A run that is never killed, then runs that are, until every kill that is wanted has come; tells what happened."""
    config, root = parse_config(plan["config"]), Path(plan["root"])
    drawn = random.Random(plan["seed"])
    told: list[dict[str, Any]] = []
    cache, life, out = root / "cache.reference", 0, root / "run-0"
    began = time.monotonic()
    assert run_once(config, root / "whole", 0, Killer(root), None) == 0, (root / "whole.errors").read_text()
    took = time.monotonic() - began
    counts = json.loads((root / "whole.counts").read_text(encoding="utf-8"))
    at = [(kind, *how) for kind in counts for how in plan["at"]]
    waiting = [(kind, drawn.randint(1, max(1, counts[kind] // part)), torn) for kind, part, torn in at]
    waiting += [("time", 0, False)] * plan["by_time"]
    drawn.shuffle(waiting)
    if cache.exists():
        cache.rename(root / "whole.reference")
    while (waiting or out.exists()) and len(told) < MOST_ATTEMPTS:
        early = [] if out.exists() else [one for one in waiting if one[0] in EARLY]
        kill = (early or waiting or [("", 0, False)])[0]  # without one, what is begun is brought to its end
        kind, place, torn = kill
        seconds = took * drawn.uniform(0.05, 0.9) if kind == "time" else None
        code = run_once(config, out, len(told) + 1, Killer(root, kind, place, torn), seconds)
        told.append({"out": out.name, "kind": kind, "place": place, "torn": torn, "code": code})
        if code == -signal.SIGKILL:
            waiting.remove(kill)
        elif code == 0:
            if kill in waiting:  # this run was past it: the next begins with it
                waiting.remove(kill)
                waiting.insert(0, kill)
            if cache.exists():
                cache.rename(root / f"{out.name}.reference")
            life += 1
            out = root / f"run-{life}"
        else:
            break
    report = {"told": told, "waiting": waiting, "counts": counts, "seconds": took}
    (root / "told.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
