"""How figures look, and how they become files or parts of a page.

Colours are those of Okabe and Ito (readable with every common colour blindness); what differs by colour differs by
line style or place too. Nothing here touches pyplot, and matplotlib's settings are put back after use.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

INK, MUTED, GRID, PAGE = "#1b2430", "#667085", "#d5dae1", "#fefefe"
GREY, BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = (
    "#98a2b3",
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)
RUN_COLOURS, MARKERS = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY), "oD^vPX"
"""Of several runs side by side; what is before training is grey and a square."""
_CSS_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAGE: "page",
    GREY: "grey",
    BLUE: "blue",
    ORANGE: "orange",
    GREEN: "green",
}
_STYLE = {
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.color": MUTED,
    "ytick.labelcolor": MUTED,
}


@contextmanager
def styled(salt: str = "mmdpo") -> Iterator[None]:
    """The house style within a block, whatever the user's own matplotlib settings are.

    Args:
        salt: Seeds the ids inside an SVG, so that the same figure gives the same bytes.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**_STYLE, "svg.hashsalt": salt})
        yield


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes ``name.svg`` and ``name.png`` on a white ground; the same figure gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    svg, png = folder / f"{name}.svg", folder / f"{name}.png"
    with styled(name):
        figure.savefig(svg, format="svg", facecolor="white", metadata={"Date": None})
        figure.savefig(png, format="png", facecolor="white", dpi=160, metadata={"Software": None})
    return [svg, png]


def inline_svg(figure: Figure, name: str, description: str) -> Markup:
    """The figure as an ``<svg>`` element for a page: transparent, themed by CSS variables, text kept as text.

    It is safe markup: matplotlib escapes the texts inside.

    Args:
        figure: The figure.
        name: Unique in the page; keeps the ids of several figures apart.
        description: What the figure shows, for those who do not see it. Plain text, escaped here.
    """
    with styled(name), io.StringIO() as file:
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    opening = f'<svg class="figure" {box[0] if box else ""} role="img" aria-label="{escape(description)}">'
    svg = opening + svg[svg.index(">") + 1 :]
    svg = svg.replace("'DejaVu Sans'", "sans-serif")
    for colour, variable in _CSS_VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable}, {colour})")
    return Markup(svg)
