"""What there is to choose from, and what machine this is."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from mmdpo import registry
from mmdpo.config import shipped_configs
from mmdpo.errors import ConfigError, did_you_mean
from mmdpo.jsonfiles import read_json

VERIFIED = Path(__file__).parent / "models" / "verified.json"
"""What the family tests found, written by them."""
KINDS = ("losses", "builders", "benchmarks", "modalities", "configs", "families")


def listing(kind: str) -> list[dict[str, Any]]:
    """Rows of ``mmdpo ls KIND``.

    Raises:
        ConfigError: The kind is unknown.
    """
    if kind == "losses":
        return [_loss(name) for name in registry.terms]
    if kind in ("builders", "benchmarks", "modalities"):
        names = {"builders": registry.builders, "benchmarks": registry.benchmarks, "modalities": registry.modalities}
        return [{"name": name, "what": _first_line(names[kind].get(name))} for name in names[kind]]
    if kind == "configs":
        return [{"name": name, "what": _comment(path.read_text("utf-8"))} for name, path in shipped_configs().items()]
    if kind == "families":
        return [_family(name, entry) for name, entry in read_json(VERIFIED)["families"].items()]
    raise ConfigError(f"there is no list of {kind!r}", why=did_you_mean(kind, KINDS), fix=f"One of: {', '.join(KINDS)}")


def _loss(name: str) -> dict[str, Any]:
    term = registry.terms.get(name)
    fields = ", ".join(f"{field.name}={field.default!r}" for field in dataclasses.fields(term))
    return {"name": name, "formula": term.formula, "fields": fields, "source": term.source}


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
