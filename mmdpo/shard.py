"""Work that several processes share without a model between them: which part is whose."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from mmdpo.errors import MMDPOError


@dataclass(frozen=True)
class Shard:
    """Which part of the work this process has.

    Args:
        index: Its number; 0 is the main process.
        count: How many processes there are.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def of_this_process(cls) -> Shard:
        """What ``accelerate launch``, ``torchrun`` or ``--processes`` says."""
        import torch
        from accelerate import PartialState

        # on CPUs it looks for no others unless told; the slowest share may take hours longer than the first
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7))
        return cls(state.process_index, state.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that puts the answers together."""
        return self.index == 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            from accelerate import PartialState

            try:
                PartialState().wait_for_everyone()
            except RuntimeError as error:
                raise MMDPOError(
                    f"another process has ended: {error}",
                    why="Its share of the work is not done.",
                    fix="Give the same command again: it goes on with what is there.",
                ) from error
