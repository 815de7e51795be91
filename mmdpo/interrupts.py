"""Ctrl-C, SIGTERM, a full disk: what is done is kept, and the message says how to go on."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from mmdpo.errors import MMDPOError

GO_ON = "Go on with the same command and --resume."
AGAIN = "Give the same command again."
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
SAYINGS = (*(f"(os error {number})" for number in NO_ROOM), "unexpected pos", "iostream error")
"""How libraries say it that raise no OSError: safetensors and tokenizers, and torch.save of a write that came short."""


class Interrupted(MMDPOError):
    """The run was stopped from outside; its checkpoint is kept."""

    exit_code = 130


class DiskFullError(MMDPOError):
    """There is no room left for what a run writes."""


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
def telling_signals(what: str, kept: str, fix: str = GO_ON) -> Iterator[None]:
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


def telling_signals_at_start() -> AbstractContextManager[None]:
    """Turns Ctrl-C and SIGTERM before a run's first change to its folder into an error."""
    return telling_signals("starting", "Nothing is changed yet: the run folder is what it was.", AGAIN)


def is_full(error: BaseException) -> bool:
    """Whether an error, or one that it came of, says that the disk is full."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.errno in NO_ROOM:
            return True
        if any(saying in str(chain) for saying in SAYINGS):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


@contextmanager
def telling_full_disk(what: str, kept: str, fix: str = GO_ON) -> Iterator[None]:
    """Turns the errors of a full disk in a block into one that says so, of whatever library they are.

    Args:
        what: What the block does, after "the disk became full while".
        kept: What is kept.
        fix: How to go on, once there is room.

    Raises:
        DiskFullError: There is no room left.
    """
    try:
        yield
    except MMDPOError:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        raise DiskFullError(f"the disk became full while {what}: {error}", why=kept, fix=f"Make room. {fix}") from error
