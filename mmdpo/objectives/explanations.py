"""Terms in words: the formula of a term as it is set, and the settings that are not as usual."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from mmdpo.objectives.base import AnswerTerm, Term
from mmdpo.objectives.links import Choice, ReverseKl
from mmdpo.objectives.regular import Consistency, Drift, TokenTerm
from mmdpo.objectives.terms import Pair, Point

KL_FORMULAS = {"k1": "d", "k2": "d^2 / 2", "k3": "exp(-d) - 1 + d"}


@dataclass(frozen=True)
class Published:
    """The published loss that a term comes from.

    Args:
        name: Name of the preset.
        formula: Its formula, of all its terms together.
        source: Its paper and equation.
        parameters: Its parameters as they are set.
        whole: Whether the term is all there is of it, with no field changed: the formula is that of the term.
    """

    name: str
    formula: str
    source: str
    parameters: Mapping[str, Any]
    whole: bool


class Terms(dict[str, Term]):
    """Terms by their full names.

    Args:
        terms: The terms.
        published: The published loss of each term that comes from one, by the term's name.
    """

    def __init__(self, terms: Mapping[str, Term], published: Mapping[str, Published]) -> None:
        super().__init__(terms)
        self.published = published


def described(term: Term, published: Published | None = None) -> dict[str, Any]:
    """A term for the manifest, the model card and the terminal: formula, settings in one line, source, every field."""
    whole = published is not None and published.whole and bool(published.formula)
    return {
        "term": type(term).__name__,
        "formula": published.formula if published is not None and whole else explained(term),
        "settings": _settings(term, published.parameters if published is not None and whole else {}),
        "source": (published.source if published is not None else "") or term.source,
        "preset": published.name if published is not None else None,
        "preset_formula": published.formula if published is not None else None,
    } | dataclasses.asdict(term)


def explained(term: Term) -> str:
    """A term's formula as it is set: its rows, scales and link, what it sums over."""
    if type(term) is Pair:
        text = _pair(term)
    else:
        text = term.formula
        if isinstance(term, Pair):
            for name, row in (("better", term.better), ("worse", term.worse)):
                text = text.replace(f"R({name})", _ratio(term, row)).replace(f"({name})", f"({term.view(row)})")
        if isinstance(term, Point):
            text = text.replace("R(row)", _ratio(term, term.row))
        if isinstance(term, Consistency):
            for name, row in zip("abcd", (*term.first, *term.second), strict=True):
                text = text.replace(f"R({name})", _ratio(term, row))
        if isinstance(term, TokenTerm):
            text = _tokens(term)
    link = getattr(term, "link", None)
    return text if link is None else text.replace("link(", f"{link.name}_loss(")


def _pair(term: Pair) -> str:
    rows = [(term.better_scale, term.better), (-term.worse_scale, term.worse)]
    rows += [(factor, row) for row, factor in term.plus.items()]
    gap = ""
    for factor, row in rows:
        if factor:
            sign = " - " if factor < 0 else " + "
            scale = "" if abs(factor) == 1 else f"{abs(factor):g} "
            gap += f"{sign}{scale}{_transformed(term, row)}"
    gap = gap.removeprefix(" + ").removeprefix(" ") if gap.startswith(" + ") else gap.strip().replace("- ", "-", 1)
    if term.penalty:
        gap += f" - {term.penalty:g} max(0, -{_transformed(term, term.better)})"
    margin = f" - {term.margin:g}" if term.margin > 0 else f" + {-term.margin:g}" if term.margin else ""
    if term.length_margin:
        margin += f" + {term.length_margin:g} (|{term.view(term.better)}| - |{term.view(term.worse)}|)"
    return f"link(beta ({gap}){margin})"


def _ratio(term: AnswerTerm, row: str) -> str:
    """The log-ratio of a row: p without a reference, a prime where tokens weigh differently, divided if a mean."""
    prime = "'" if term.reads_marks or getattr(term, "tail", 1.0) != 1 else ""
    view = term.view(row)
    ratio = f"{'R' if term.reference else 'p'}{prime}({view})"
    return f"{ratio}/|{view}|" if term.reduction == "mean" else ratio


def _transformed(term: Pair, row: str) -> str:
    ratio = _ratio(term, row)
    return ratio if isinstance(term.transform, ReverseKl) else f"{term.transform.name}({ratio})"


def _tokens(term: TokenTerm) -> str:
    """A mean or a sum over tokens."""
    text = term.formula
    if isinstance(term, Drift):
        text = text.replace(KL_FORMULAS["k3"], KL_FORMULAS[term.estimator])
    over = {"sequence": "mean_t", "sum": "sum_t", "token": "mean over all tokens of the step:"}[term.per]
    return f"{text.replace('mean_t', over)}, tokens of {term.views()[0]}"


def _settings(term: Term, parameters: Mapping[str, Any]) -> str:
    """Beta, the parameters that the formula speaks of, and every field that is not as the term has it by default."""
    fields = {field.name: field for field in dataclasses.fields(term)}
    first = {name: getattr(term, name) for name in ("beta",) if name in fields}
    named = {name: value for name, value in parameters.items() if name not in fields}
    changed = {name: getattr(term, name) for name, field in fields.items() if _changed(term, field)}
    return " ".join(f"{name}={in_yaml(plain(value))}" for name, value in {**first, **named, **changed}.items())


def _changed(term: Term, field: dataclasses.Field[Any]) -> bool:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return bool(getattr(term, field.name) != default)


def plain(value: Any) -> Any:
    """A value as a configuration has it: a link that has no settings of its own by its name alone."""
    if isinstance(value, Choice):
        fields = dataclasses.asdict(value)
        changed = {key: entry for key, entry in fields.items() if entry != getattr(type(value)(), key)}
        return {"name": fields["name"], **changed} if changed else fields["name"]
    if value is dataclasses.MISSING:
        return None
    if isinstance(value, tuple | list):
        return [plain(entry) for entry in value]
    return dict(value) if isinstance(value, Mapping) else value


def in_yaml(value: Any) -> str:
    """A value in one line of YAML."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).removesuffix("...\n").strip()
