"""The experiment behind the demo of sounds (`mmdpo.playground.experiment`): several seeds, held-out clips, controls.

python examples/audio_playground/experiment.py --out runs/audio-experiment --seeds 0 1 2 --scenes 1000
"""

from functools import partial
from pathlib import Path

from mmdpo.playground.audio.worlds import SOUNDS
from mmdpo.playground.experiment import main

if __name__ == "__main__":
    main(SOUNDS, Path("runs/audio-experiment"), partial(print, flush=True))
