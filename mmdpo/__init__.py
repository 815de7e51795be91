"""Align vision-language and audio-language models with human preferences, so that they hallucinate less.

The public names, loaded when they are first used: importing ``mmdpo`` imports nothing heavy. docs/api.md has an example
of each.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_builders.running.build import build as build
    from mmdpo.errors import MMDPOError as MMDPOError
    from mmdpo.evals.base import Benchmark as Benchmark
    from mmdpo.modalities.base import Modality as Modality
    from mmdpo.objectives import Term as Term
    from mmdpo.python_api import compare as compare
    from mmdpo.python_api import evaluate as evaluate
    from mmdpo.python_api import load as load
    from mmdpo.python_api import score as score
    from mmdpo.python_api import train as train
    from mmdpo.records import Candidate as Candidate
    from mmdpo.records import Media as Media
    from mmdpo.records import Record as Record
    from mmdpo.records import Records as Records
    from mmdpo.records import load_records as load_records
    from mmdpo.records import save_records as save_records
    from mmdpo.registry import register_benchmark as register_benchmark
    from mmdpo.registry import register_builder as register_builder
    from mmdpo.registry import register_modality as register_modality
    from mmdpo.registry import register_term as register_term
    from mmdpo.views import View as View

_WHERE = {
    "Benchmark": "mmdpo.evals.base",
    "Candidate": "mmdpo.records",
    "MMDPOError": "mmdpo.errors",
    "Media": "mmdpo.records",
    "Modality": "mmdpo.modalities.base",
    "Record": "mmdpo.records",
    "Records": "mmdpo.records",
    "Term": "mmdpo.objectives",
    "View": "mmdpo.views",
    "build": "data_builders.running.build",
    "compare": "mmdpo.python_api",
    "evaluate": "mmdpo.python_api",
    "load": "mmdpo.python_api",
    "load_records": "mmdpo.records",
    "register_benchmark": "mmdpo.registry",
    "register_builder": "mmdpo.registry",
    "register_modality": "mmdpo.registry",
    "register_term": "mmdpo.registry",
    "save_records": "mmdpo.records",
    "score": "mmdpo.python_api",
    "train": "mmdpo.python_api",
}
__all__ = sorted(_WHERE)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("mmdpo")
    if name not in _WHERE:
        raise AttributeError(f"module 'mmdpo' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
