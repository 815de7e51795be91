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

GRACE_SECONDS = 15.0
"""How long the others may take to notice that one process has failed; a collective may never return."""


def launch(words: Sequence[str], processes: int) -> int:
    """Runs ``python -m mmdpo WORDS`` in several processes that find each other, and waits for all of them.

    Args:
        words: The command line after ``mmdpo``.
        processes: How many.

    Returns:
        The exit code of the first process that failed, 0 when none did.
    """
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(processes)}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "mmdpo", *words],
            env={**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            process_group=0,  # Ctrl-C reaches this process alone, which passes it on once
        )
        for rank in range(processes)
    ]

    def pass_on(number: int, frame: Any) -> None:
        del frame
        for process in running:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _wait(running)
    finally:
        for process in running:
            process.kill()
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(running: Sequence[subprocess.Popen[bytes]]) -> int:
    """Waits for all processes; once one has failed, the others have :data:`GRACE_SECONDS` left."""
    failed: int | None = None
    deadline = float("inf")
    while any(process.poll() is None for process in running) and time.monotonic() < deadline:
        time.sleep(0.05)
        if failed is None:
            failed = next((process.returncode for process in running if process.poll()), None)
            deadline = deadline if failed is None else time.monotonic() + GRACE_SECONDS
    codes = [failed, *(process.poll() for process in running)]
    return next((code if code > 0 else 128 - code for code in codes if code), 0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
