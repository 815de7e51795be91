"""A plugin for tests that kill a run of several processes: its main process waits for that at a place, for good.

`WAIT_AT` in the environment is `step N` (before step N) or `checkpoint N` (that of step N is written, and has no name
yet); `WAITING` is the file that says that the place is reached.
"""

import os
import time
from pathlib import Path
from typing import Any

from mmdpo.training import checkpoints
from mmdpo.training.callbacks import RunCallback

begun, put_in_place = RunCallback.on_step_begin, checkpoints.put_in_place


def wait_at(place: str) -> None:
    if os.environ.get("RANK") == "0" and os.environ.get("WAIT_AT") == place:
        Path(os.environ["WAITING"]).touch()
        time.sleep(3600)


def on_step_begin(self: RunCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
    wait_at(f"step {state.global_step + 1}")
    begun(self, args, state, control, **kwargs)


def put_in_place_later(made: Path, final: Path) -> None:
    wait_at(f"checkpoint {final.name.partition('-')[2]}")
    put_in_place(made, final)


RunCallback.on_step_begin = on_step_begin
checkpoints.put_in_place = put_in_place_later
