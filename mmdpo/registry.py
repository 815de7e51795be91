"""The four registries: loss terms, builders, benchmarks, modalities.

A name maps to an object, or lazily to ``"module:attribute"``, so that listing names imports nothing heavy. Losses are
registered by a package that is imported when they are first asked for: most of their names stand in a YAML file.
An extension is one file whose import registers it: through ``plugins:`` in a config, ``--plugin`` on the command line,
or an installed entry point of group ``mmdpo``, which is loaded when a registry is first read.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from mmdpo.errors import ConfigError, MMDPOError, did_you_mean

T = TypeVar("T")


class Registry:
    """Names of one kind of extension.

    Args:
        kind: What the names are, in the plural, as ``mmdpo ls KIND`` spells it.
        package: What registers shipped names; it is imported when the registry is first read.
    """

    def __init__(self, kind: str, package: str | None = None) -> None:
        self.kind = kind
        self._package = package
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
        self._complete()
        if name not in self._entries:
            raise ConfigError(
                f"unknown name {name!r} among the {self.kind}",
                why=did_you_mean(name, self._entries),
                fix=f"See: mmdpo ls {self.kind}",
            )
        entry = self._entries[name]
        if isinstance(entry, str):
            entry = self._entries[name] = _loaded(entry)
        return entry

    def __contains__(self, name: object) -> bool:
        self._complete()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._complete()
        return iter(sorted(self._entries))

    def _complete(self) -> None:
        """Sees to it that what ships and what is installed is registered."""
        if self._package is not None:
            importlib.import_module(self._package)
        load_entry_points()


def _loaded(target: str) -> Any:
    """The object that ``"module:attribute"`` names."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


terms = Registry("losses", package="mmdpo.objectives")
builders = Registry("builders")
benchmarks = Registry("benchmarks")
modalities = Registry("modalities")

register_term = terms.register
register_builder = builders.register
register_benchmark = benchmarks.register
register_modality = modalities.register

benchmarks.lazy("pope", "mmdpo.evals.pope:Pope")
benchmarks.lazy("preferences", "mmdpo.evals.preferences:Preferences")
benchmarks.lazy("chair", "mmdpo.evals.chair:Chair")
benchmarks.lazy("ciem", "mmdpo.evals.pairs:Ciem")
benchmarks.lazy("gqa", "mmdpo.evals.gqa:Gqa")
benchmarks.lazy("mme", "mmdpo.evals.mme:Mme")
benchmarks.lazy("nope", "mmdpo.evals.pairs:Nope")
benchmarks.lazy("okvqa", "mmdpo.evals.okvqa:OkVqa")
benchmarks.lazy("rbench", "mmdpo.evals.rbench:RBench")
benchmarks.lazy("safety", "mmdpo.evals.safety:Safety")
benchmarks.lazy("text_checks", "mmdpo.evals.text_checks:TextChecks")
benchmarks.lazy("perplexity", "mmdpo.evals.perplexity:Perplexity")
benchmarks.lazy("diversity", "mmdpo.evals.diversity:Diversity")
benchmarks.lazy("textvqa", "mmdpo.evals.textvqa:TextVqa")
benchmarks.lazy("vqa", "mmdpo.evals.vqa:Vqa")
benchmarks.lazy("yes_no", "mmdpo.evals.yes_no:YesNo")
benchmarks.lazy("amber", "mmdpo.evals.amber:Amber")
benchmarks.lazy("hallusionbench", "mmdpo.evals.hallusionbench:HallusionBench")
benchmarks.lazy("mmhal", "mmdpo.evals.mmhal:MMHal")
benchmarks.lazy("airbench", "mmdpo.evals.airbench:AirBench")
benchmarks.lazy("audio_captions", "mmdpo.evals.audio_captions:AudioCaptions")
benchmarks.lazy("audio_hallucination", "mmdpo.evals.audio_hallucination:AudioHallucination")
benchmarks.lazy("faithscore", "mmdpo.evals.faithscore:FaithScore")
benchmarks.lazy("mmau", "mmdpo.evals.mmau:Mmau")
benchmarks.lazy("objhal", "mmdpo.evals.objhal:ObjectHalBench")
benchmarks.lazy("usual_object", "mmdpo.playground.usual:UsualObject")
benchmarks.lazy("usual_sound", "mmdpo.playground.audio.usual:UsualSound")
builders.lazy("audio_votes", "data_builders.audio_votes:AudioVotes")
builders.lazy("clip_score", "data_builders.clip_score:ClipRanked")
builders.lazy("corrections", "data_builders.corrections:Corrections")
builders.lazy("counterfactual", "data_builders.counterfactual:Counterfactual")
builders.lazy("facts", "data_builders.facts:Facts")
builders.lazy("first_hallucination", "data_builders.first_hallucination:FirstHallucination")
builders.lazy("import", "data_builders.imported:Imported")
builders.lazy("judge", "data_builders.judge:Judged")
builders.lazy("objects", "data_builders.objects:ObjectCaptions")
builders.lazy("rankings", "data_builders.rankings:Rankings")
builders.lazy("ratings", "data_builders.ratings:Ratings")
builders.lazy("sample", "data_builders.sample:Sample")
builders.lazy("self_check", "data_builders.self_check:SelfCheck")
builders.lazy("thumbs", "data_builders.thumbs:Thumbs")
builders.lazy("votes", "data_builders.votes:Votes")
builders.lazy("vqa", "data_builders.vqa:Vqa")
modalities.lazy("audio", "mmdpo.modalities.audio:AudioModality")
modalities.lazy("image", "mmdpo.modalities.image:ImageModality")
modalities.lazy("video", "mmdpo.modalities.video:VideoModality")

_READERS = dict.fromkeys((".yaml", ".yml"), "mmdpo.objectives.presets:read_presets")
"""What registers the names in a plugin file that is no Python, by its suffix."""
_entry_points_done = False
_plugins: dict[Path, Any] = {}


def load_entry_points() -> None:
    """Imports the installed extensions, once in a process.

    Raises:
        ConfigError: One of them fails; the next call tries again.
    """
    global _entry_points_done
    if _entry_points_done:
        return
    _entry_points_done = True  # before loading: an extension may read a registry itself
    for entry in importlib.metadata.entry_points(group="mmdpo"):
        try:
            entry.load()
        except Exception as error:
            _entry_points_done = False
            raise _failed(f"installed extension {entry.name!r} ({entry.value})", error) from error


def load_plugins(paths: Sequence[Path]) -> list[Path]:
    """Imports plugin files and installed entry points so that their decorators run; a file is imported only once.

    Returns:
        The resolved paths, for the manifest and the terminal.

    Raises:
        ConfigError: A path is no Python file and no file of loss presets, or reading it fails.
    """
    load_entry_points()
    resolved = [path.resolve() for path in paths]
    for path in resolved:
        if path in _plugins:
            continue
        if path.suffix in _READERS:
            _plugins[path] = _loaded(_READERS[path.suffix])(path)
        else:
            _plugins[path] = _already_imported(path) or _imported(path)
    return resolved


def _already_imported(path: Path) -> ModuleType | None:
    """The module of a file that the program itself has imported; a second one would register its names twice."""
    files = [(module, getattr(module, "__file__", None) or "") for module in list(sys.modules.values())]
    return next((module for module, file in files if file.endswith(path.name) and Path(file).resolve() == path), None)


def _imported(path: Path) -> ModuleType:
    # The digest tells files of the same name apart: neither takes the other's place in sys.modules.
    name = f"mmdpo_plugin_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(
            f"plugin {str(path)!r} is not a Python file",
            why="Names that it should register would be unknown.",
            fix="Give a path to a .py file; under plugins: it is relative to the configuration file.",
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _failed(f"plugin {str(path)!r}", error) from error
    return module


def _failed(what: str, error: Exception) -> MMDPOError:
    """What to raise for an extension whose import fails; our own errors already say it."""
    if isinstance(error, MMDPOError):
        return error
    return ConfigError(
        f"{what} cannot be imported: {type(error).__name__}: {error}",
        why="Names that it should register would be unknown.",
        fix="Correct it, or leave it out; --verbose shows where it fails.",
    )
