"""Loss terms over a score table, and the published losses that are made of them. Importing it registers them all."""

from mmdpo.objectives import batch_pairs, feedback, listwise, media_pairs, pairs, presets, regular
from mmdpo.objectives.objective import Objective, make_objective
from mmdpo.objectives.terms import RatioTerm, Term

__all__ = [
    "Objective",
    "RatioTerm",
    "Term",
    "batch_pairs",
    "feedback",
    "listwise",
    "make_objective",
    "media_pairs",
    "pairs",
    "presets",
    "regular",
]
