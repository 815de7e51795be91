"""The four registries: loss terms, builders, benchmarks, modalities.

A name maps to an object, or lazily to ``"module:attribute"``, so that listing names imports nothing heavy.
An extension is one file whose import registers it: through ``plugins:`` in a config or an entry point of group
``mmdpo``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from mmdpo.errors import ConfigError, did_you_mean

T = TypeVar("T")


class Registry:
    """Names of one kind of extension.

    Args:
        kind: What the names are, in the plural, as ``mmdpo ls KIND`` spells it.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Any] = {}

    def register(self, name: str, *aliases: str) -> Callable[[T], T]:
        """Decorator that registers an object under a name (and aliases)."""

        def add(target: T) -> T:
            for key in (name, *aliases):
                known = self._entries.get(key)
                same = known == f"{getattr(target, '__module__', '')}:{getattr(target, '__qualname__', '')}"
                if known is not None and known is not target and not same:
                    raise ConfigError(
                        f"the name {key!r} is registered twice among the {self.kind}",
                        why="A config that uses it could mean either of them.",
                        fix="Rename one of the two.",
                    )
                self._entries[key] = target
            return target

        return add

    def lazy(self, name: str, target: str) -> None:
        """Registers ``"module:attribute"`` under a name without importing the module."""
        self._entries.setdefault(name, target)

    def get(self, name: str) -> Any:
        """The registered object.

        Raises:
            ConfigError: The name is unknown; near names are suggested.
        """
        if name not in self._entries:
            raise ConfigError(
                f"unknown name {name!r} among the {self.kind}",
                why=did_you_mean(name, self._entries),
                fix=f"See: mmdpo ls {self.kind}",
            )
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            loaded = getattr(importlib.import_module(module), attribute)
            self._entries[name] = loaded
            return loaded
        return entry

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))


terms = Registry("losses")
builders = Registry("builders")
benchmarks = Registry("benchmarks")
modalities = Registry("modalities")

register_term = terms.register
register_builder = builders.register
register_benchmark = benchmarks.register
register_modality = modalities.register

benchmarks.lazy("pope", "mmdpo.evals.pope:Pope")
benchmarks.lazy("chair", "mmdpo.evals.chair:Chair")
builders.lazy("ratings", "data_builders.ratings:Ratings")
modalities.lazy("image", "mmdpo.modalities.image:ImageModality")
terms.lazy("dpo", "mmdpo.objectives.terms:Dpo")
terms.lazy("nll", "mmdpo.objectives.terms:Nll")


def load_plugins(paths: list[Path]) -> list[Path]:
    """Imports plugin files and installed entry points so that their decorators run.

    Returns:
        The resolved paths that were imported, for the manifest and the terminal.
    """
    for entry in importlib.metadata.entry_points(group="mmdpo"):
        entry.load()
    loaded = []
    for path in paths:
        resolved = path.resolve()
        spec = importlib.util.spec_from_file_location(f"mmdpo_plugin_{resolved.stem}", resolved)
        if spec is None or spec.loader is None or not resolved.is_file():
            raise ConfigError(
                f"plugin {str(path)!r} is not a Python file",
                why="Names that it should register would be unknown.",
                fix="Give a path to a .py file, relative to the config file.",
            )
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        loaded.append(resolved)
    return loaded
