"""How long `mmdpo build ratings` takes, and how much memory, for 10,000, 100,000 and 1,000,000 ratings.

    python examples/build_scale.py --out runs/build_scale.json

The ratings are made up: twelve raters, three of whom rate each of four captions of an image. The images are absent
(`media: optional`), so that reading, checking, pairing and writing are measured, not decoding.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (10_000, 100_000, 1_000_000)
WORDS = ("a", "the", "dog", "cat", "man", "child", "ball", "park", "red", "runs", "sits", "near", "with", "two")


def main() -> None:
    """Measures every size in a process of its own, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    parser.add_argument("--out", type=Path, help="Also write the numbers as JSON.")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(arguments.one)))
        return
    results = []
    print(f"{'ratings':>10} {'seconds':>8} {'us a row':>9} {'peak MiB':>9} {'records':>9}")
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            write_table(Path(folder) / "ratings.csv", rows)
            command = [sys.executable, __file__, "--one", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ})
        result = {"rows": rows, **json.loads(done.stdout.splitlines()[-1])}
        results.append(result)
        each = 1e6 * result["seconds"] / rows
        print(f"{rows:>10,} {result['seconds']:>8.1f} {each:>9.0f} {result['peak_mib']:>9.0f} {result['records']:>9,}")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def write_table(path: Path, rows: int) -> None:
    """A table of made-up ratings: caption k of image i, rated by three of twelve raters."""
    random.seed(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "rating", "rater"])
        written = 0
        while written < rows:
            image = f"{written // 12:07d}.jpg"
            for number in range(4):
                caption = f"{' '.join(random.choices(WORDS, k=12))} {number}"
                quality = random.random() * 4
                for rater in random.sample(range(12), 3):
                    if written < rows:
                        rating = min(5, max(1, round(1 + quality + random.gauss(0, 0.7))))
                        writer.writerow([image, caption, rating, f"rater{rater}"])
                        written += 1


def measured(folder: Path) -> dict[str, float]:
    """Builds, in this process, and tells seconds, peak memory and records."""
    from data_builders.building import build

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
    return {"seconds": seconds, "peak_mib": peak, "records": sum(result.quality["splits"].values())}


if __name__ == "__main__":
    main()
