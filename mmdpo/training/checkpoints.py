"""Checkpoints that are whole or not there, and what of a run stands in them beside what ``transformers`` keeps."""

from __future__ import annotations

import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from mmdpo.errors import DataError
from mmdpo.jsonfiles import read_json, write_json
from mmdpo.objectives import Objective

logger = logging.getLogger(__name__)
UNFINISHED = "unfinished"
"""Folder beside the checkpoints in which the next one is written; a killed process leaves it behind."""
REPLACED = "replaced"
"""Folder in that one which holds the older checkpoint of the same step, until the new one has its name."""
OBJECTIVE_FILE = "objective.json"


class OnBegin(TrainerCallback):
    """Calls a function when training begins, after ``Trainer`` has set its running values to 0.

    Args:
        begin: The function.
    """

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the first step of this process."""
        self._begin()


def put_in_place(made: Path, final: Path) -> None:
    """Gives a finished folder its name, after everything in it has reached the disk."""
    for path in made.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    if final.is_dir():  # of the same step: saved by a signal, and once more at the end of the epoch
        final.rename(made.parent / REPLACED)
    made.rename(final)
    remove_unfinished(final.parent)


def was_replacing(checkpoints: Path) -> bool:
    """Whether a process was killed after the older checkpoint of a step had lost its name to a whole new one."""
    unfinished = checkpoints / UNFINISHED
    return (unfinished / REPLACED).is_dir() and any(unfinished.glob(f"{PREFIX_CHECKPOINT_DIR}-*"))


def bring_back(checkpoints: Path) -> None:
    """Gives the new checkpoint of a process that was killed in between its name."""
    if was_replacing(checkpoints):
        for made in (checkpoints / UNFINISHED).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            made.rename(checkpoints / made.name)


def remove_unfinished(checkpoints: Path) -> None:
    """Removes what a killed process left of a checkpoint, unless it was whole."""
    bring_back(checkpoints)
    if (checkpoints / UNFINISHED).is_dir():
        shutil.rmtree(checkpoints / UNFINISHED)


def newest(checkpoints: Path) -> str | None:
    """The newest checkpoint of a folder that is whole; others are told of and passed by."""
    for path in reversed(sort_checkpoints(str(checkpoints)) if checkpoints.is_dir() else []):
        try:
            read_json(Path(path) / TRAINER_STATE_NAME)  # the last file that Trainer writes
        except DataError as error:
            logger.warning("%s is not whole and is passed by: %s", path, error.what)
            continue
        return path
    return None


def progress_of(checkpoint: Path) -> float:
    """Epochs that were done when a checkpoint was made."""
    return float(read_json(checkpoint / TRAINER_STATE_NAME)["epoch"])


def check_readable(checkpoint: Path) -> None:
    """Opens every file of tensors, without reading them: one that was cut off, or overwritten, has no directory.

    Raises:
        DataError: One cannot be read.
    """
    for path in sorted(checkpoint.rglob("*")):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, "pt"):
                    pass
            elif path.suffix in (".pt", ".pth"):
                with zipfile.ZipFile(path) as archive:
                    for name in archive.namelist():
                        if name.endswith("/data.pkl"):
                            archive.read(name)  # compares its checksum
        except (OSError, SafetensorError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{str(path)!r} cannot be read: {error}",
                why="The checkpoint is not whole: the run would go on from another state, or not at all.",
                fix=f"Restore the file, or remove {str(checkpoint)!r}: --resume then goes on from the checkpoint "
                "before it, or from the beginning where there is none.",
            ) from error


def best_of(checkpoints: str, step: int | None) -> str | None:
    """The folder of the best checkpoint by its step, wherever the run folder has been moved to."""
    folder = Path(checkpoints, f"{PREFIX_CHECKPOINT_DIR}-{step}")
    return str(folder) if step and folder.is_dir() else None


def require_all_loaded(model: nn.Module, missing: Sequence[str], unexpected: Sequence[str]) -> None:
    """Makes sure that a checkpoint's weights are now the model's.

    Args:
        model: The model that they were loaded into.
        missing: Names of weights that were not in the checkpoint; tied ones may be there by another name.
        unexpected: Names in the checkpoint that the model does not have.

    Raises:
        DataError: A weight was not loaded.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    loaded = {id(values) for name, values in named.items() if name not in missing}
    left_out = [name for name in missing if id(named.get(name)) not in loaded]
    if left_out or unexpected:
        raise DataError(
            f"the checkpoint lacks {len(left_out)} weights of this model and has {len(unexpected)} others, such as "
            f"{[*left_out, *unexpected][0]!r}",
            why="Training would go on from weights that are not those of the checkpoint.",
            fix="Start the run again without --resume.",
        )


def save_objective(checkpoint: Path, objective: Objective) -> None:
    """Keeps the running values of an objective's terms in a checkpoint."""
    if objective.state:
        write_json(checkpoint / OBJECTIVE_FILE, objective.state)


def restore_objective(checkpoint: Path, objective: Objective) -> None:
    """Takes the running values of an objective's terms from a checkpoint.

    Raises:
        DataError: The checkpoint has none: it belongs to another objective.
    """
    if objective.state:
        objective.state.update(read_json(checkpoint / OBJECTIVE_FILE))


def save_running(checkpoint: Path, values: Mapping[str, Tensor], process: int) -> None:
    """Keeps one process's sums since the last log entry: the next entry must be over all steps that it is of."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().cpu() for name, value in values.items()}, _running_file(checkpoint, process))


def read_running(checkpoint: Path, process: int) -> dict[str, Tensor]:
    """What :func:`save_running` kept; empty in a checkpoint of fewer processes."""
    path = _running_file(checkpoint, process)
    return load_file(path) if path.is_file() else {}


def _running_file(checkpoint: Path, process: int) -> Path:
    return checkpoint / f"running_{process}.safetensors"
