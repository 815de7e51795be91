"""``mmdpo bench build``: how long ``mmdpo build ratings`` takes, and how much memory, by the number of ratings.

The ratings are made up: twelve raters, three of whom rate each of four captions of an image. The images are absent
(``media: optional``), so that reading, checking, pairing and writing are measured, not decoding.

    python -m mmdpo.bench.build FOLDER      builds from FOLDER/ratings.csv in this process, and tells what it took
"""

from __future__ import annotations

import csv
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mmdpo.errors import ConfigError, MMDPOError

SIZES = (10_000, 100_000, 1_000_000)
PROGRAM = ["-m", "mmdpo.bench.build"]
EACH = 12
"""Ratings of an image: of four captions by three raters."""
WORDS = ("a", "the", "dog", "cat", "man", "child", "ball", "park", "red", "runs", "sits", "near", "with", "two")


def run(sizes: Sequence[int] = SIZES, progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> dict[str, Any]:
    """Builds from tables of several sizes, each in a process of its own.

    Returns:
        ``machine`` and ``builds``: for each, ``ratings``, ``seconds``, ``microseconds_per_rating``, ``peak_mib``
        (resident) and ``pairs``.

    Raises:
        ConfigError: A size is less than one image's ratings.
        MMDPOError: A build failed.
    """
    from mmdpo.bench.machine import machine

    if min(sizes, default=0) < EACH:
        raise ConfigError(
            f"--ratings {min(sizes, default=0)} is too small",
            why=f"The made-up table has {EACH} ratings of each image; fewer make no pair.",
            fix=f"Use {EACH} or more.",
        )
    return {"kind": "build", "machine": machine("cpu"), "builds": [_in_own_process(size) for size in progress(sizes)]}


def _in_own_process(ratings: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder) / "ratings.csv", ratings)
        command = [sys.executable, *PROGRAM, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    if done.returncode:
        from mmdpo.bench.processes import internal_failure

        raise internal_failure(f"the build of {ratings:,} ratings", done.returncode, done.stderr)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in told:
        from mmdpo.training.workers import restored

        raise restored(told["error"])
    return {"ratings": ratings, "microseconds_per_rating": 1e6 * told["seconds"] / ratings, **told}


def write_table(path: Path, rows: int) -> None:
    """A table of made-up ratings: caption k of image i, rated by three of twelve raters."""
    draws = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "rating", "rater"])
        written = 0
        while written < rows:
            image = f"{written // EACH:07d}.jpg"
            for number in range(4):
                caption = f"{' '.join(draws.choices(WORDS, k=12))} {number}"
                quality = draws.random() * 4
                for rater in draws.sample(range(12), 3):
                    if written < rows:
                        rating = min(5, max(1, round(1 + quality + draws.gauss(0, 0.7))))
                        writer.writerow([image, caption, rating, f"rater{rater}"])
                        written += 1


def measured(folder: Path) -> dict[str, float]:
    """Builds, in this process, and tells seconds, peak memory and pairs."""
    from data_builders.running.build import build

    start = time.perf_counter()
    config = {
        "data": folder / "ratings.csv",
        "scale": {"min": 1, "max": 5},
        "higher_is_better": True,
        "media": "optional",
    }
    result = build("ratings", config, folder / "pairs")
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mib": peak, "pairs": sum(result.quality["splits"].values())}


def main(folder: Path) -> None:
    """Builds, and writes one line of JSON: what :func:`measured` tells, or why there is no build."""
    told: dict[str, Any]
    try:
        told = measured(folder)
    except MMDPOError as error:
        from mmdpo.training.workers import carried  # a build that goes well has no need of torch

        told = {"error": carried(error)}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
