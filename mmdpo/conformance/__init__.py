"""Does a modality keep its contract (`check`), and does a trained model use it at all (`blank_check`)."""

from mmdpo.conformance.blank import BlankCheck, blank_check
from mmdpo.conformance.contract import Finding, check

__all__ = ["BlankCheck", "Finding", "blank_check", "check"]
