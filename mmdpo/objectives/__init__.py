"""Loss terms over a score table."""

from mmdpo.objectives.objective import Objective, make_objective
from mmdpo.objectives.terms import Term

__all__ = ["Objective", "Term", "make_objective"]
