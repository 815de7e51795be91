"""What a benchmark needs before it can be scored: data, and perhaps a judge; and whether logits can answer it."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from mmdpo.errors import ConfigError, did_you_mean
from mmdpo.evals.base import Benchmark
from mmdpo.evals.judging.judged import takes_judge
from mmdpo.registry import benchmarks

_DATA = re.compile(r"^Data: (.*(?:\n +.*)*)", re.MULTILINE)
_JUDGE = "YAML file of an endpoint that is asked (docs/evals_own.md); from Python a function from a prompt to a reply."
_OPTION = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def what_it_reads(kind: type[Benchmark]) -> str:
    """The files that a benchmark takes as data, as the head of its module says it, or else its ``samples``."""
    texts = (inspect.getdoc(kind), getattr(sys.modules.get(kind.__module__), "__doc__", None))
    found = next((match for match in (_DATA.search(text or "") for text in texts) if match), None)
    text = found[1] if found else (inspect.getdoc(kind.samples) or "").split("\n\n")[0]
    return " ".join(text.replace("``", "").split())


def needs(kind: type[Benchmark]) -> dict[str, str]:
    """What `mmdpo ls benchmarks` says of a benchmark: ``data``, ``judge`` and ``logits``, in a word each.

    ``judge`` is said of benchmarks that take one, ``logits`` of those whose yes/no questions can be read from them.
    """
    return {
        "data": "to give" if kind.own_data is None else "ships",
        "judge": "takes one" if takes_judge(kind) else "",
        "logits": "yes/no" if kind.yes_no else "",
    }


def options_of(kind: type[Benchmark]) -> dict[str, str]:
    """Options of a benchmark -> what they are, with the default where it is a plain value."""
    told: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        told |= dict(_OPTION.findall(inspect.cleandoc(base.__doc__ or "")))
    told["judge"] = _JUDGE
    own = fields(kind)  # type: ignore[arg-type]  # every benchmark is a dataclass
    plain = {name: " ".join(text.replace("``", "").split()) for name, text in told.items()}
    return {option.name: plain.get(option.name, "") + _default(option) for option in own}


def _default(option: Field[Any]) -> str:
    plain = isinstance(option.default, str | int | float) and option.default != ""
    return f" (default {option.default})" if plain else ""


def data_paths(names: Sequence[str], given: Mapping[str, str | Path], folder: Path, how: str) -> dict[str, str]:
    """Where the questions of each benchmark are.

    Args:
        names: Benchmarks.
        given: Paths by benchmark.
        folder: Folder of the evaluation, for a benchmark that makes its pictures itself.
        how: How data are given, with a place ``{name}``, for the error.

    Raises:
        ConfigError: A benchmark is unknown, needs data and has none, or data are of none of them.
    """
    kinds: dict[str, type[Benchmark]] = {name: benchmarks.get(name) for name in names}
    known_names(given, names, "data")
    missing = [name for name, kind in kinds.items() if name not in given and kind.own_data is None]
    if missing:
        raise ConfigError(
            f"no data for {', '.join(missing)}",
            why="\n".join(f"{name} reads: {what_it_reads(kinds[name])}" for name in missing),
            fix=how.format(name=missing[0]),
        )
    return {
        name: str(given[name]) if name in given else str(kind.own_data).replace("{out}", str(folder / "eval" / name))
        for name, kind in kinds.items()
    }


def require_data(name: str, path: str) -> None:
    """Makes sure that data are there, before a model is loaded.

    Raises:
        ConfigError: They are not.
    """
    kind = benchmarks.get(name)
    if kind.own_data is None and not Path(path).exists():
        raise ConfigError(
            f"the data of {name}, {path!r}, do not exist",
            why=f"{name} reads: {what_it_reads(kind)}",
            fix="Correct the path; a relative one starts from the working folder.",
        )


def known_names(given: Mapping[str, object], names: Sequence[str], what: str) -> None:
    """Refuses what is given for a benchmark that is not evaluated: it would be lost silently.

    Raises:
        ConfigError: There is such a name.
    """
    for name in given:
        if name not in names:
            raise ConfigError(
                f"{what} of {name!r}, which is not evaluated", why=did_you_mean(name, names), fix="Correct the name."
            )
