"""How long loops are shown: what wraps an iterable and gives it back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""`iter` shows nothing; the command gives a bar."""
