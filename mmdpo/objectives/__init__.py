"""Loss terms over a score table, and the published losses that are made of them."""

from mmdpo.objectives.objective import Objective, make_objective
from mmdpo.objectives.terms import Term

__all__ = ["Objective", "Term", "make_objective"]
