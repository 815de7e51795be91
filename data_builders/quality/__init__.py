"""The quality gate: what a set of preference records is worth, in numbers, and what is wrong with it, in sentences.

`measure`, `measure_stream` and `measure_folder` make the numbers, `with_checks` judges them by thresholds that a YAML
file holds. Each file of this package is one family of checks.
"""

from data_builders.quality.findings import finding
from data_builders.quality.measuring import EXAMPLES, draw_folder, measure, measure_folder, measure_stream, scale_in
from data_builders.quality.sample import preferred
from data_builders.quality.verdicts import failures, load_thresholds, with_checks

__all__ = [
    "EXAMPLES",
    "draw_folder",
    "failures",
    "finding",
    "load_thresholds",
    "measure",
    "measure_folder",
    "measure_stream",
    "preferred",
    "scale_in",
    "with_checks",
]
