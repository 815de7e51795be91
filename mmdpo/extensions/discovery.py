"""What there is to choose from, and what machine this is."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdpo import registry
from mmdpo.config import shipped_configs
from mmdpo.errors import ConfigError, did_you_mean
from mmdpo.evals.shared.needs import needs, options_of, what_it_reads
from mmdpo.jsonfiles import read_json

VERIFIED = Path(__file__).resolve().parents[1] / "models" / "verified.json"
"""What the family tests found, written by them."""
KINDS = ("losses", "builders", "benchmarks", "modalities", "configs", "families")


def listing(kind: str) -> list[dict[str, Any]]:
    """Rows of ``mmdpo ls KIND``.

    Raises:
        ConfigError: The kind is unknown.
    """
    if kind == "losses":
        from mmdpo.extensions.loss_catalogue import catalogue  # torch, which no other list needs

        return [dataclasses.asdict(entry) for entry in catalogue()]
    if kind == "benchmarks":
        kinds = {name: registry.benchmarks.get(name) for name in registry.benchmarks}
        return [{"name": name, "what": _first_line(found), **needs(found)} for name, found in kinds.items()]
    if kind in ("builders", "modalities"):
        names = {"builders": registry.builders, "modalities": registry.modalities}
        return [{"name": name, "what": _first_line(names[kind].get(name))} for name in names[kind]]
    if kind == "configs":
        return [{"name": name, "what": _comment(path.read_text("utf-8"))} for name, path in shipped_configs().items()]
    if kind == "families":
        return [_family(name, entry) for name, entry in read_json(VERIFIED)["families"].items()]
    raise ConfigError(f"there is no list of {kind!r}", why=did_you_mean(kind, KINDS), fix=f"One of: {', '.join(KINDS)}")


def benchmark_details(name: str) -> dict[str, Any]:
    """What `mmdpo ls benchmarks NAME` adds: the files that it takes as data, and its options with their defaults."""
    kind = registry.benchmarks.get(name)
    return {"reads": what_it_reads(kind), "options": options_of(kind)}


def one_of(rows: Sequence[dict[str, Any]], name: str, kind: str) -> dict[str, Any]:
    """The row of a list that has a name, in its first column or among its aliases.

    Raises:
        ConfigError: There is none; near names are suggested.
    """
    named = {known: row for row in rows for known in (next(iter(row.values())), *row.get("aliases", ()))}
    if name not in named:
        raise ConfigError(
            f"unknown name {name!r} among the {kind}", why=did_you_mean(name, named), fix=f"See: mmdpo ls {kind}"
        )
    return named[name]


def _family(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """What the tests found of one family, in short; docs/families.md says what each check is."""
    checks = entry["checks"]
    applied = {check: cell["ok"] for check, cell in checks.items() if cell["ok"] is not None}
    failed = [check for check, ok in applied.items() if not ok]
    passed = f"{len(applied) - len(failed)} of {len(applied)} pass"
    return {
        "family": name,
        "takes": ", ".join(entry["takes"]),
        "layout": checks["logprobs"].get("layout", ""),
        "checks": passed + (f", fails: {', '.join(failed)}" if failed else ""),
        "difference": checks["logprobs"].get("difference", ""),
    }


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0] if thing.__doc__ else ""


def _comment(text: str) -> str:
    first = text.splitlines()[0] if text else ""
    return first.lstrip("# ") if first.startswith("#") else ""


def environment() -> dict[str, str]:
    """Versions and devices."""
    import torch

    packages = ("mmdpo", "torch", "torchvision", "transformers", "accelerate", "peft", "datasets")
    facts = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    facts |= {name: importlib.metadata.version(name) for name in packages}
    devices = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return facts | {"accelerators": ", ".join(devices) or "none", "threads": str(torch.get_num_threads())}
