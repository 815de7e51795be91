"""The experiment behind the demo (`mmdpo.playground.experiment`): several seeds, 2,000 held-out pictures, controls.

python examples/playground/experiment.py --out runs/experiment --seeds 0 1 2 --scenes 2000
"""

from functools import partial
from pathlib import Path

from mmdpo.playground.experiment import main
from mmdpo.playground.worlds import PICTURES

if __name__ == "__main__":
    main(PICTURES, Path("runs/experiment"), partial(print, flush=True))
