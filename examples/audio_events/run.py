"""Audio event features, from the frames of a generated tagger to a model that answers from them.

    python examples/audio_events/run.py --out runs/events

README.md says what to expect.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from clips import QUESTIONS, write_clips  # noqa: E402
from two_stages import Example, run  # noqa: E402

EXAMPLE = Example(HERE, "event", QUESTIONS, write_clips, {"warm_up": 2500, "pairs": 500, "held_out": 300})

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/events"), help="folder to make")
    run(EXAMPLE, parser.parse_args().out)
