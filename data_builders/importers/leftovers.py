"""What of a row its record has no place for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from data_builders.importers.unusable import Unusable
from mmdpo.records.checks import is_unicode

_DEEPEST = 50
_TURN = {"role", "content", "from", "value"}
_LISTS = 4  # lists inside each other that turns may stand in


def unkept(value: Any, depth: int = 0) -> str:
    """Why a column cannot be kept in `meta`; empty where it can."""
    if isinstance(value, bytes | bytearray):
        return "bytes_in_column"
    if isinstance(value, str):
        return "" if is_unicode(value) else "bad_text"
    if depth > _DEEPEST:
        return "nested_column"
    items = [*value.values(), *map(str, value)] if isinstance(value, Mapping) else value
    if isinstance(items, list | tuple):
        return next(filter(None, (unkept(item, depth + 1) for item in items)), "")
    return ""


def turn_fields(columns: Mapping[str, Any], tags: Any) -> list[Unusable]:
    """What turns hold beside a role and a content, once for each column and field.

    The ``loss_weight`` that records stand for, 1 for the answer and 0 for the turns before it, is nothing beside.

    Args:
        columns: The columns that the record was made from.
        tags: What `dataset_info.json` calls role and content, if it does.
    """
    known = _TURN | (set(map(str, tags.values())) if isinstance(tags, Mapping) else set())
    roles = known & {"role", "from", str(tags.get("role_tag")) if isinstance(tags, Mapping) else "role"}
    found: dict[str, Unusable] = {}
    for column, value in columns.items():
        for turn, is_last in _turns(value, roles):
            for name, told in turn.items():
                usual = name == "loss_weight" and told == (1 if is_last else 0)
                if name not in known and told not in (None, "", [], {}) and not usual:
                    message = f"a turn's {name!r} has no place in a record"
                    where = f"{column}.{name}"
                    found.setdefault(where, Unusable("turn_field", message, told, column=where))
    return list(found.values())


def _turns(value: Any, roles: set[str], depth: int = 0) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """Every turn of a column, and whether it is the last of its conversation."""
    if isinstance(value, Mapping):
        if roles & value.keys():
            yield value, True
        elif depth < _LISTS:
            for inner in value.values():
                yield from _turns(inner, roles, depth + 1)
    elif isinstance(value, list | tuple) and depth < _LISTS:
        for place, inner in enumerate(value):
            for turn, is_last in _turns(inner, roles, depth + 1):
                yield turn, is_last and (turn is not inner or place == len(value) - 1)
