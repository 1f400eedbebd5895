"""House style of every figure: palette, sizes, panels, and axes of counts.

Figures are made without pyplot: nothing is left behind but the figure. A drawing function is decorated with `in_style`,
which gives it a width and a font size; inside it sizes of text are relative ("small"), so that they follow.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from distillaw.errors import ConfigError
from distillaw.laws.base import Array, Mask
from distillaw.quantities import power_text
from distillaw.runs.files import plain
from distillaw.runs.record import budget_text

Width: TypeAlias = float | str | None
"""Inches, `single`, `double`, or what the panels need."""
INK, MUTED, GRID, PAPER = "#1a1a1a", "#6b6b6b", "#dcdcdc", "#fdfdfc"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31")
"""Okabe and Ito's colour-blind-safe palette, in the order used here; black is kept for "no teacher"."""
DASHED, DOTTED = (0, (4, 3)), (0, (1, 1.5))
"""Offset, then lengths of lines and gaps in line widths."""
Z90 = 1.6449
"""Half of a 90 % interval in standard errors."""
HATCH = "///"
"""Outside the range that was fitted."""
BASE_SIZE = 9.3
"""Points of the text of a figure at its natural size."""
WIDTHS = {"single": 3.35, "double": 6.9}
"""Inches of one and of two columns of a paper."""
PAPER_SIZE = 8.0
"""Points of the text where a width is asked for and no font size."""
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with two dollars is no formula
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
    "hatch.linewidth": 0.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.unicode_minus": True,
    "legend.frameon": False,
    "legend.fontsize": "small",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How large a figure is to be."""

    width: float | None = None
    """Inches; None: what its panels need."""
    font_size: float = BASE_SIZE
    """Points of axis labels; names inside are a sixth smaller."""

    @classmethod
    def of(cls, width: Width, font_size: float | None) -> "Look":
        """From what a user asks for.

        Args:
            width: inches, `single` or `double` (a column, or two, of a paper); None: what the panels need.
            font_size: points; by default 8 where a width is given.

        Raises:
            ConfigError: neither a number of inches nor one of the two words; a font that cannot be read.
        """
        default = BASE_SIZE if width is None else PAPER_SIZE
        size = default if font_size is None else font_size
        if not 4 <= size <= 24:
            raise ConfigError(f"font_size {size:g}: points between 4 and 24; papers use 7 to 9")
        if isinstance(width, str):
            if width not in WIDTHS:
                raise ConfigError(f"width {width!r}: inches, or one of {', '.join(WIDTHS)}")
            return cls(width=WIDTHS[width], font_size=size)
        if width is not None and not 1.5 <= width <= 40:
            raise ConfigError(f"width {width:g}: inches between 1.5 and 40; a column of a paper has about 3.35")
        return cls(width=width, font_size=size)

    @property
    def scale(self) -> float:
        """Size of the text over that of a figure at its natural size."""
        return self.font_size / BASE_SIZE

    @property
    def settings(self) -> dict[str, Any]:
        """For matplotlib."""
        return _STYLE | {"font.size": self.font_size}

    def columns(self, count: int, *, panel: float) -> int:
        """How many of `count` panels stand side by side, where one needs `panel` inches at the natural size."""
        if self.width is None:
            return count
        return max(1, min(count, int(1.15 * self.width / (panel * self.scale))))

    def size(self, *, width: float, height: float) -> tuple[float, float]:
        """Inches of a figure whose natural size is given."""
        return self.width or width * self.scale, height * self.scale


PAGE = Look()
"""As on the pages that we write."""
_look: ContextVar[Look] = ContextVar("look", default=PAGE)


def current_look() -> Look:
    """How large the figure is to be that is drawn at present."""
    return _look.get()


_SIZES = """\
    width: inches, or `single` or `double` for one or two columns of a paper; by default what the panels need.
    font_size: points; 8 by default where a width is given.
"""
_SIZE_PARAMETERS = [
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
    for name, annotation in (("width", Width), ("font_size", float | None))
]


def in_style(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """A drawing function in the house style that takes two keywords more, `width` and `font_size` (`Look.of`).

    What it calls is drawn at the same size; `new_figure` and `new_panels` make figures of that size.
    """

    @functools.wraps(draw)
    def drawn(*args: Any, width: Width = None, font_size: float | None = None, **kwargs: Any) -> Figure:
        is_asked = width is not None or font_size is not None
        look = Look.of(width, font_size) if is_asked else current_look()
        token = _look.set(look)
        try:
            with mpl.rc_context(look.settings):
                figure = draw(*args, **kwargs)
                _make_plain(figure)
        finally:
            _look.reset(token)
        return figure

    own = inspect.signature(draw)
    parameters = [*own.parameters.values(), *_SIZE_PARAMETERS]
    drawn.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    drawn.__doc__ = _with_sizes(inspect.getdoc(draw))
    return drawn


def _with_sizes(doc: str | None) -> str | None:
    """A docstring whose section of arguments ends with the two that `in_style` adds."""
    if doc is None or "Args:" not in doc:
        return doc
    before, section = doc.split("Args:\n", 1)
    own, blank, after = section.partition("\n\n")
    return f"{before}Args:\n{own}\n{_SIZES}{blank[1:]}{after}"


def _make_plain(figure: Figure) -> None:
    """Names in a figure may hold what no font and no SVG can show."""
    for text in figure.findobj(Text):
        text.set_text(plain(text.get_text()))
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        if isinstance(named := axis.get_major_formatter(), FuncFormatter):  # of names at ticks, too
            shown = functools.partial(lambda named, value, at: plain(named(value, at)), named)
            axis.set_major_formatter(FuncFormatter(shown))


def new_figure(rows: int, columns: int, *, width: float, height: float) -> tuple[Figure, list[list[Axes]]]:
    """A figure of small panels in house style.

    Width and height are inches at the natural size; whoever calls the drawing function may ask for another width.
    """
    look = current_look()
    with mpl.rc_context(look.settings):
        figure = Figure(figsize=look.size(width=width, height=height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False)
        for ax in axes.flat:
            ax.grid(True, axis="y")
            ax.set_axisbelow(True)
            ax.tick_params(length=3, width=0.7)
    return figure, axes.tolist()


def new_panels(
    count: int,
    *,
    panel: tuple[float, float],
    margin: tuple[float, float] = (0.6, 0.3),
    most: int = 12,
    x: str = "",
    y: str = "",
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels side by side, in as many rows as the width asks for, and its panels row by row.

    Args:
        panel: inches of one, at the natural size.
        margin: inches around all of them.
        most: panels in a row.
        x: label of every abscissa.
        y: label of the ordinate of the first panel of a row.
    """
    columns = min(most, current_look().columns(count, panel=panel[0]))
    rows = -(-count // columns)
    width, height = columns * panel[0] + margin[0], rows * panel[1] + margin[1]
    figure, axes = new_figure(rows, columns, width=width, height=height)
    panels = [ax for line in axes for ax in line]
    for place, ax in enumerate(panels):
        ax.set_xlabel(x)
        if place % columns == 0:
            ax.set_ylabel(y)
        if place >= count:
            ax.set_axis_off()
    return figure, panels[:count]


def share_range(panels: Sequence[Axes]) -> None:
    """One range of the ordinate for all panels, so that they can be compared."""
    ends = [ax.get_ylim() for ax in panels]
    for ax in panels:
        ax.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))


def set_title(ax: Axes, text: str) -> None:
    """What a panel shows, bold, at its left."""
    ax.set_title(text, loc="left", fontsize=mpl.rcParams["font.size"], fontweight="bold", color=INK)


def note(
    ax: Axes,
    text: str,
    at: tuple[float, float],
    offset: tuple[float, float],
    *,
    color: str = INK,
    ha: str = "left",
    va: str = "baseline",
    size: str = "small",
    clip: bool | None = True,
    **more: Any,
) -> None:
    """A few words beside a point, `offset` points away; `clip` as matplotlib's `annotation_clip`."""
    where = {"xytext": offset, "textcoords": "offset points", "annotation_clip": clip}
    ax.annotate(text, at, ha=ha, va=va, fontsize=size, color=color, **where, **more)


def dot(ax: Axes, x: float, y: float, *, color: str, size: float, filled: bool, marker: str = "o", **more: Any) -> None:
    """A marker, a ring where it is not filled."""
    face = color if filled else PAPER
    ax.plot(x, y, marker, color=color, markersize=size, markerfacecolor=face, **more)


def count_axis(ax: Axes, values: Sequence[float]) -> None:
    """A logarithmic abscissa of counts with a tick at each value, written 150k or 1.8M."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(_apart(sorted(set(values)))))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: budget_text(value)))


LEAST_APART = 0.13
"""Share of an axis from one tick to the next that leaves room for `150k`, in panels of the natural size."""


def _apart(values: list[float]) -> list[float]:
    """Those that leave room for their names, the ends first."""
    if len(values) < 3:
        return values
    kept, last = [values[0]], values[-1]
    room = LEAST_APART * math.log(last / kept[0])
    for value in values[1:-1]:
        if math.log(value / kept[-1]) >= room and math.log(last / value) >= room:
            kept.append(value)
    return [*kept, last]


def power_axis(ax: Axes) -> None:
    """A logarithmic abscissa in powers of ten as people write them; within two decades, a few round numbers."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    is_wide = high / low >= 100
    ax.xaxis.set_major_locator(LogLocator(numticks=8) if is_wide else FixedLocator(_round_numbers(low, high)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_text(value)))
    ax.set_xlim(low, high)


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 ... between two numbers, or evenly spaced ones where fewer than three lie there."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1.0, 3.0) if high / low > 12 else (1.0, 2.0, 5.0)
    found = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
    return found if len(found) >= 3 else [float(v) for v in MaxNLocator(3).tick_values(low, high)]


def label_ends(ax: Axes, ends: Sequence[tuple[str, str, float, float]], *, gap: float) -> None:
    """Names at the right of an axis, moved apart where they would overlap.

    Args:
        ax: drawn; its limits do not change any more.
        ends: name, colour, x and y of the end of each line.
        gap: height of a line of text over that of the axes.
    """
    low, high = ax.get_ylim()
    placed = spread([y for *_, y in ends], (high - low) * gap)
    for (name, color, x, end), y in zip(ends, placed, strict=True):
        ax.annotate(
            name,
            (x, end),
            xytext=(1.03, (y - low) / (high - low)),
            textcoords="axes fraction",
            va="center",
            fontsize="small",
            color=color,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
        )


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Positions as near as possible to those wanted, in the same order, at least `gap` apart."""
    from scipy.optimize import isotonic_regression  # slow to import

    order, room = np.argsort(wanted, kind="stable"), gap * np.arange(len(wanted))
    placed = np.empty(len(wanted))
    placed[order] = isotonic_regression(np.asarray(wanted)[order] - room).x + room
    return placed.tolist()


def draw_band(
    ax: Axes,
    x: Array,
    *,
    mean: Array,
    inside: Mask,
    color: str,
    lower: Array | None = None,
    upper: Array | None = None,
    alpha: float = 0.16,
    linewidth: float = 1.5,
) -> None:
    """A curve over ascending x with its band, shapes (p,); a band of None or nan is none.

    `inside` is True where the law was fitted; elsewhere the curve is dashed and the band hatched.
    """
    for part, is_inside in stretches(inside):
        if lower is not None and upper is not None:
            band = ax.fill_between(x[part], lower[part], upper[part], linewidth=0)
            band.set(
                facecolor=color if is_inside else "none",
                alpha=alpha if is_inside else 0.5,
                edgecolor=color,
                hatch=None if is_inside else HATCH,
            )
        ax.plot(x[part], mean[part], color=color, linewidth=linewidth, linestyle="-" if is_inside else DASHED)


def stretches(flags: Mask) -> Iterator[tuple[slice, bool]]:
    """Runs of equal flags; each goes on to the first point of the next, so that a curve has no gaps."""
    changes = [0, *(np.flatnonzero(flags[1:] != flags[:-1]) + 1), len(flags)]
    for first, last in pairwise(changes):
        yield slice(int(first), int(min(last + 1, len(flags)))), bool(flags[first])
