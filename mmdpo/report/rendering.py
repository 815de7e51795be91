"""Templates: one environment with the filters that write numbers and escape text.

HTML templates escape everything that is not ``Markup``; Markdown has no such general rule, so the card's template says
for each text whether it is running text (``md``), code (``code``, ``fence``) or Python (``python``).
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from mmdpo.report import measures


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Renders a template into a file.

    Args:
        path: The file to write.
        template: Its name in ``mmdpo/report/templates``.
        **values: What the template names.
    """
    page = _environment().get_template(template).render(**values)
    return write_whole(path, page)


def write_whole(path: Path, text: str) -> Path:
    """Writes a text so that no reader, and no crash, meets half of it; makes the folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mmdpo.report"),
        autoescape=select_autoescape(default=True, disabled_extensions=("md.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        value=lambda estimate, measure: measures.format_value(measure, estimate.value),
        interval=lambda estimate, measure: measures.format_interval(measure, estimate.low, estimate.high),
        difference=lambda difference, measure: measures.format_difference(measure, difference.value),
        bounds=lambda difference, measure: measures.format_bounds(measure, difference.low, difference.high),
        size=lambda value, measure: measures.format_difference(measure, value).removeprefix("+"),
        p=measures.format_p,
        md=_markdown_text,
        code=_markdown_code,
        fence=_markdown_fence,
        python=lambda text: repr(str(text)),
    )
    return environment


def _markdown_text(text: Any) -> str:
    """Running text on one line in which no character is Markdown or HTML."""
    return re.sub(r"([\\`*_~\[\]<>#|&])", r"\\\1", " ".join(str(text).split()))


def _markdown_code(text: Any) -> str:
    """A code span, delimited by more backticks than the text has in a row."""
    line = " ".join(str(text).split())
    ticks = "`" * (_longest_backticks(line) + 1)
    return f"{ticks} {line} {ticks}" if "`" in line else f"{ticks}{line}{ticks}"


def _markdown_fence(text: Any, language: str) -> str:
    """A code block, delimited likewise."""
    ticks = "`" * max(3, _longest_backticks(str(text)) + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"


def _longest_backticks(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
