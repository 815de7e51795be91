"""A sensor of one's own, from generated series to a model that answers from them.

    python examples/sensor/run.py --out runs/sensor

README.md says what to expect.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from movements import QUESTIONS, write_series  # noqa: E402
from two_stages import Example, run  # noqa: E402

EXAMPLE = Example(HERE, "sensor", QUESTIONS, write_series, {"warm_up": 2500, "pairs": 500, "held_out": 300})

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/sensor"), help="folder to make")
    run(EXAMPLE, parser.parse_args().out)
