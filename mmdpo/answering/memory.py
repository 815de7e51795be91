"""Out of memory in a benchmark: which one was answered, and the setting that helps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mmdpo.training.out_of_memory import MemoryShortageError, is_shortage


@contextmanager
def telling_answer_memory(benchmark: str, batch_size: int) -> Iterator[None]:
    """Says of what does not fit in memory that a benchmark was answered, and not a batch trained on.

    Args:
        benchmark: Its name.
        batch_size: Questions at a time.

    Raises:
        MemoryShortageError: There was not enough memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        said = str(error).strip().split("\n")[0]
        fewer = (
            f"Go on with eval.{benchmark}.batch_size={batch_size // 2} (of mmdpo eval: --batch-size {batch_size // 2})."
        )
        less = "Take a smaller model, smaller images, or fewer new tokens."
        raise MemoryShortageError(
            f"out of memory while the model answered {benchmark}: {batch_size} questions at a time",
            why=f"{said} Checkpoints and answers are kept.",
            fix=fewer if batch_size > 1 else less,
        ) from error
