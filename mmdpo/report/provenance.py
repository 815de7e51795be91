"""What was trained, on what, how and why so: the manifest and the configuration in words."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mmdpo.report.reading import Run

_COUNTED = {"train": "training records", "validation": "validation records", "trainable": "trained part"}
_SYMBOLS = {
    r"\bp\b": "`p`: log-probability of an answer under the trained model, summed over its tokens",
    r"\br\b": "`r`: the same under the reference, the model before training",
    r"\bR\b|\bw\b|\bl\b": "`R(y)`: log-probability of answer `y` under the trained model minus that under the "
    "reference, the model before training",
    r"\b[wl]\b": "`w`, `l`: `R` of the chosen and of the rejected answer",
    r"\by[wl]\b": "`yw`, `yl`: the chosen and the rejected answer",
    r"[Rpwl]'": "with a prime: tokens weigh differently",
    r"\|\w+\|": "`|y|`: number of tokens of an answer",
    r"\bls\b": "`ls`: log sigmoid",
    r"\bsg\b": "`sg`: no gradient",
    r"\bm~": "`m`, `m~`: the media, and other media",
}
"""What symbols in formulas mean, by how they are found."""


def facts(run: Run) -> list[tuple[str, str]]:
    """What identifies a run, in the order in which a reader asks."""
    manifest = run.manifest
    git = _mapping(manifest.get("git"))
    commit = str(git.get("commit", ""))[:12]
    facts = [
        ("Exit", str(manifest.get("exit") or "not finished")),
        ("Started", str(manifest.get("started") or "")),
        ("Took", _duration(manifest.get("seconds"))),
        ("Data fingerprint", str(manifest.get("data_fingerprint") or "")),
        ("Git", f"{commit} with uncommitted changes" if commit and git.get("dirty") else commit),
        ("Error", str(manifest.get("error") or "")),
    ]
    return [(name, value) for name, value in facts if value]


def decisions(run: Run) -> list[tuple[str, str, str]]:
    """Name, value and reason; a plain value is one without a reason."""
    rows = []
    for name, entry in _mapping(run.manifest.get("decisions")).items():
        known = _mapping(entry)
        value = known.get("value", known.get("choice", "")) if known else entry
        rows.append((str(name), _plain_text(value), str(known.get("reason", ""))))
    return rows


def objective(run: Run) -> list[dict[str, str]]:
    """The loss terms as the objective describes itself in the manifest: formula, what is set, source."""
    return [
        {"name": str(name), **{key: str(term.get(key) or "") for key in ("formula", "settings", "source")}}
        for name, term in _mapping(run.manifest.get("objective")).items()
        if isinstance(term, Mapping)
    ]


def symbols(formulas: Iterable[str]) -> list[str]:
    """What the symbols mean that occur in some formulas."""
    text = "\n".join(formulas)
    return [meaning for pattern, meaning in _SYMBOLS.items() if re.search(pattern, text)]


def set_aside(run: Run) -> Mapping[str, Any]:
    """Rows that were not trained on, by reason."""
    return _mapping(run.manifest.get("set_aside"))


def counts(run: Run) -> Mapping[str, Any]:
    """What was trained on and how much of the model was trained, with names in words."""
    trained = _mapping(run.manifest.get("trained"))
    return {
        _COUNTED.get(str(name), str(name).replace("_", " ")): f"{count:,}" if isinstance(count, int) else str(count)
        for name, count in {**_mapping(run.manifest.get("counts")), **trained}.items()
    }


def versions(run: Run) -> Mapping[str, Any]:
    """Versions of what computed the run."""
    return _mapping(run.manifest.get("versions"))


def command(run: Run) -> str:
    """The command as a shell takes it."""
    program, *words = [str(word) for word in run.manifest.get("command") or ("",)]
    name = "mmdpo" if program.endswith("__main__.py") else Path(program).name
    return shlex.join([name, *words]) if program else ""


def setting(run: Run, *keys: str) -> Any:
    """One value of the configuration, for example ``setting(run, "model", "path")``; None where it is not set."""
    value: Any = yaml.safe_load(run.config)
    for key in keys:
        value = _mapping(value).get(key)
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _plain_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 120 else f"{minutes} min {rest} s"
