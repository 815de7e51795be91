"""Talks to the processes of a comparison, one line of JSON at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmdpo.bench.arms import Arm
from mmdpo.errors import MMDPOError, ModelError
from mmdpo.training.workers import restored

COMMAND = [sys.executable, "-m", "mmdpo.bench.worker"]


class OutOfMemory(ModelError):
    """A side does not fit."""


class Worker:
    """The process of one side.

    Args:
        arm: The side.
    """

    def __init__(self, arm: Arm) -> None:
        self.arm = arm
        self._messages = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open as long as the process)
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            text=True,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
        )
        self._tell(json.dumps(asdict(arm)))
        self.ready: dict[str, Any] = {}

    def wait(self) -> None:
        """Waits until the side is built; ``ready`` then says what it is."""
        self.ready = self._hear()

    def step(self) -> dict[str, Any]:
        """Runs one optimizer step."""
        return self._ask("step")

    def memory_step(self) -> dict[str, Any]:
        """Runs one optimizer step and measures its memory; its seconds say nothing."""
        return self._ask("memory")

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):  # it has ended already
                self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._messages.close()

    def _ask(self, line: str) -> dict[str, Any]:
        self._tell(line)
        return self._hear()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # what it said before it ended is heard next
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            self._fail()
        found: dict[str, Any] = json.loads(answer)
        if "error" in found:
            raise restored(found["error"])
        if "out_of_memory" in found:
            raise self._too_large(found["out_of_memory"])
        return found

    def _fail(self) -> None:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            raise self._too_large("The system ended its process, as it does where memory runs out.")
        self._messages.seek(0)
        raise internal_failure(f"the process of {self.arm.name}", code, self._messages.read())

    def _too_large(self, said: str) -> OutOfMemory:
        return OutOfMemory(
            f"{self.arm.name} does not fit with {self.arm.batch} records at a time",
            why=said,
            fix="Use a smaller --batch, a smaller --shape, or --checkpointing.",
        )


def internal_failure(name: str, code: int, messages: str) -> MMDPOError:
    """What ended a process that neither a setting nor a lack of memory accounts for.

    Args:
        name: Of the process, for people.
        code: Its exit code.
        messages: All that it wrote; kept in a file, for a report.
    """
    handle, path = tempfile.mkstemp(prefix="mmdpo-bench-", suffix=".txt")
    os.close(handle)
    Path(path).write_text(messages, encoding="utf-8")
    last = (messages.strip() or "It said nothing.").splitlines()[-1]
    return MMDPOError(
        f"{name} ended with code {code}: {last}",
        why="This is a fault of the program, or of a library that it uses, and not of a setting.",
        fix=f"Report it, with the messages in {path} and what mmdpo env prints.",
    )


@contextmanager
def workers(arms: Sequence[Arm]) -> Iterator[list[Worker]]:
    """A process for each side, all of them ready; ended when the block is left."""
    with ExitStack() as stack:
        started = []
        for arm in arms:
            worker = Worker(arm)
            stack.callback(worker.close)
            started.append(worker)
        for worker in started:  # all are built at the same time
            worker.wait()
        yield started
