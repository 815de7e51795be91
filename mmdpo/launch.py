"""The same command in several processes on this machine: what ``mmdpo train --processes N`` does.

``torchrun`` and ``accelerate launch`` work too. This one passes signals on and waits, so that an interrupted run keeps
its checkpoint however long the step takes, and it ends with the exit code of the run.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from mmdpo.errors import MMDPOError
from mmdpo.interrupts import AGAIN, Interrupted

GRACE_SECONDS = 15.0
"""How long the others may take to notice that one process has failed; a collective may never return."""
GO_ON = f"{AGAIN} mmdpo train goes on from its last checkpoint with --resume."


class ProcessKilledError(MMDPOError):
    """A signal that this command did not pass on has ended one of its processes."""

    def __init__(self, rank: int, processes: int, number: int) -> None:
        why = "What the others say of lost connections is its consequence."
        if number == signal.SIGKILL:
            why = f"The system does that where memory runs out; so may a scheduler. {why}"
        super().__init__(
            f"process {rank} (of 0 to {processes - 1}) was killed by {signal.Signals(number).name}", why=why, fix=GO_ON
        )
        self.exit_code = 128 + number


def launch(words: Sequence[str], processes: int) -> int:
    """Runs ``python -m mmdpo WORDS`` in several processes that find each other, and waits for all of them.

    Args:
        words: The command line after ``mmdpo``.
        processes: How many.

    Returns:
        The exit code of the first process that failed, 0 when none did.

    Raises:
        ProcessKilledError: The first one that failed was killed; the exit code is the one that shells give to that.
        Interrupted: A signal came before the processes were able to end well by themselves.
    """
    port = str(_free_port())
    running: list[subprocess.Popen[bytes]] = []
    heard: list[int] = []

    def pass_on(number: int, frame: Any) -> None:
        del frame
        heard.append(number)
        for process in running:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for rank in range(processes):
            running.append(_started(words, rank, processes, port))
            if heard:  # perhaps before this process was among those that it is passed on to
                what = f"stopped while starting {processes} processes"
                raise Interrupted(what, why="None was at work yet.", fix=AGAIN)
        return _exit_code(_first_failure(running), processes, heard)
    finally:
        for process in running:
            process.kill()
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _started(words: Sequence[str], rank: int, processes: int, port: str) -> subprocess.Popen[bytes]:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return subprocess.Popen(
        [sys.executable, "-m", "mmdpo", *words],
        env={**os.environ, **meeting, **{name: str(value) for name, value in place.items()}},
        process_group=0,  # Ctrl-C reaches the launcher alone, which passes it on once
    )


def _exit_code(failure: tuple[int, int] | None, processes: int, heard: Sequence[int]) -> int:
    """What the command ends with, or the error of a process that a signal has ended."""
    rank, code = failure or (0, 0)
    if code >= 0:
        return code
    if -code in heard:
        raise Interrupted(
            f"{signal.Signals(-code).name} ended process {rank} before it could stop by itself",
            why="It was starting or ending; what is written whole is kept.",
            fix=GO_ON,
        )
    raise ProcessKilledError(rank, processes, -code)


def _first_failure(running: Sequence[subprocess.Popen[bytes]]) -> tuple[int, int] | None:
    """Waits for all processes; once one has failed, the others have :data:`GRACE_SECONDS` left.

    Returns:
        Rank and exit code of the first that failed, the code negative where a signal ended it; None when none did.
    """
    failed: tuple[int, int] | None = None
    deadline = float("inf")
    while any(process.poll() is None for process in running) and time.monotonic() < deadline:
        time.sleep(0.05)
        if failed is None and (failed := _failure(running)):
            deadline = time.monotonic() + GRACE_SECONDS
    return failed or _failure(running)


def _failure(running: Sequence[subprocess.Popen[bytes]]) -> tuple[int, int] | None:
    ended = [(rank, code) for rank, process in enumerate(running) if (code := process.poll())]
    return min(ended, key=lambda one: one[1] > 0, default=None)  # killed: the others fail because of that


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
