"""The data model and what is kept of it on disk: records, their Parquet form, their problems, marked words."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mmdpo.records.record import (
    Candidate,
    Form,
    Media,
    Message,
    Part,
    Record,
    Records,
    fingerprint_line,
    media_field,
    prompt_text,
    user_message,
)

if TYPE_CHECKING:
    from mmdpo.records.files import load_records, save_records

__all__ = [
    "Candidate",
    "Form",
    "Media",
    "Message",
    "Part",
    "Record",
    "Records",
    "fingerprint_line",
    "load_records",
    "media_field",
    "prompt_text",
    "save_records",
    "user_message",
]


def __getattr__(name: str) -> Any:
    if name not in ("load_records", "save_records"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("mmdpo.records.files"), name)  # `datasets`, which records alone do not need
