"""The data model and what is kept of it on disk: records, their Parquet form, their problems, marked words."""

from mmdpo.records.record import (
    Candidate,
    Form,
    Media,
    Message,
    Part,
    Record,
    Records,
    fingerprint_line,
    load_records,
    media_field,
    prompt_text,
    save_records,
    user_message,
)

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
