"""Ctrl-C and SIGTERM: what is done is kept, and the message says how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmdpo.errors import MMDPOError

GO_ON = "Go on with the same command and --resume."


class Interrupted(MMDPOError):
    """The run was stopped from outside; its checkpoint is kept."""

    exit_code = 130


def _as_ctrl_c(number: int, frame: Any) -> None:
    del number, frame
    raise KeyboardInterrupt


@contextmanager
def sigterm_is_ctrl_c() -> Iterator[None]:
    """Lets SIGTERM raise ``KeyboardInterrupt``, so that what ends a block ends it for both; main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _as_ctrl_c)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stopped_well(what: str, kept: str, fix: str = GO_ON) -> Iterator[None]:
    """Turns Ctrl-C and SIGTERM in a block into an error with its own exit code.

    Args:
        what: What the block does, after "stopped while".
        kept: What is kept.
        fix: How to go on.

    Raises:
        Interrupted: One of them came.
    """
    try:
        with sigterm_is_ctrl_c():
            yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"stopped while {what}", why=kept, fix=fix) from error
