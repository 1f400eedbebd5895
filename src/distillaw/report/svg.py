"""Matplotlib figures as small inline SVG that follows the page: text stays text, colours are CSS variables.

Figures are built without pyplot (no global state) and come out byte for byte the same for the same numbers.
Every colour is written as `var(--name, #hex)`: light and dark follow the page, and a figure copied out of it
keeps the light colours.
"""

import html
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from distillaw.planning.record import budget_text
from distillaw.runs.files import write_with

INK, MUTED, GRID, PAPER = "#1a1a1a", "#6b6b6b", "#dcdcdc", "#fdfdfc"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31")
"""Okabe and Ito's colour-blind-safe palette, in the order used here; black is kept for "no teacher"."""
_NAMES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"} | {
    c: f"s{i + 1}" for i, c in enumerate(SERIES)
}
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.unicode_minus": True,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure ready for the page."""

    name: str
    title: str
    caption: str
    """What to see, and what the bars and bands are."""
    alt: str
    """The content in words, for those who cannot see it."""
    svg: str


def new_figure(rows: int, columns: int, *, width: float, height: float) -> tuple[Figure, list[list[Axes]]]:
    """A figure of small panels in house style; sizes in inches."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(rows, columns, squeeze=False)
        for ax in axes.flat:
            ax.grid(True, axis="y")
            ax.set_axisbelow(True)
            ax.tick_params(length=3, width=0.7)
    return figure, axes.tolist()


def to_svg(figure: Figure, *, name: str, alt: str) -> str:
    """The figure as an `<svg>` element whose ids cannot meet those of another figure."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    for color, variable in _NAMES.items():
        text = text.replace(color, f"var(--{variable}, {color})")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(xlink:href|href)="#([^"]+)"', rf'href="#{name}-\2"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    # The page's font; matplotlib has measured DejaVu Sans, which is wider than any system font.
    text = re.sub(r"font: (\d[\d.]*px) [^;\"]+", r"font: \1 var(--sans, sans-serif)", text)
    text = re.sub(r"font: (\w+) (\d[\d.]*px) [^;\"]+", r"font: \1 \2 var(--sans, sans-serif)", text)
    # Inside HTML an <svg> needs no namespace declarations; "Save as SVG" on the page writes them.
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    label = html.escape(alt, quote=True)
    return re.sub(r"<svg", f'<svg role="img" aria-label="{label}"', text, count=1).strip()


def write_figure(
    figure: Figure, folder: Path, name: str, *, dpi: float = 120, style: Mapping[str, float] | None = None
) -> list[Path]:
    """Write a figure as NAME.svg and NAME.png on white, each atomically; the same figure gives the same bytes.

    Args:
        figure: drawn.
        folder: made where missing.
        name: of both files, and the seed of the ids in the SVG.
        dpi: of the PNG.
        style: matplotlib settings that hold while it is written.

    Raises:
        RunError: the folder cannot be written.
    """
    files = [folder / f"{name}.{kind}" for kind in ("svg", "png")]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, **(style or {})}):
        for path in files:
            kind = path.suffix[1:]
            how = {"format": kind, "dpi": dpi, "facecolor": "white"}
            how["metadata"] = {"Date": None} if kind == "svg" else {}
            write_with(path, lambda part, how=how: figure.savefig(part, **how))
    return files


def set_title(ax: Axes, text: str) -> None:
    """What a panel shows, bold, at its left."""
    ax.set_title(text, loc="left", fontsize=9.5, fontweight="bold", color=INK)


def count_axis(ax: Axes, values: list[float], *, axis: str = "x") -> None:
    """A logarithmic axis of counts with a tick at each value, written 150k or 1.8M."""
    getattr(ax, f"set_{axis}scale")("log")
    line = ax.xaxis if axis == "x" else ax.yaxis
    line.set_major_locator(FixedLocator(sorted(set(values))))
    line.set_minor_locator(NullLocator())
    line.set_major_formatter(FuncFormatter(lambda value, _: budget_text(value)))


def spread(wanted: list[float], gap: float) -> list[float]:
    """Positions as near as possible to those wanted, in the same order, at least `gap` apart.

    Pools neighbours that are too close and centres each pool on its mean, as in isotonic regression.
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    pools: list[tuple[float, list[int]]] = []  # (mean of wanted - offset, members)
    for rank, index in enumerate(order):
        pools.append((wanted[index] - rank * gap, [index]))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (low, first), (high, second) = pools[-2:]
            share = len(second) / (len(first) + len(second))
            pools[-2:] = [(low * (1 - share) + high * share, first + second)]
    placed, rank = [0.0] * len(wanted), 0
    for base, members in pools:
        for index in members:
            placed[index] = base + rank * gap
            rank += 1
    return placed
