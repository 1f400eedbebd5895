"""Figures of maps: where distilling pays, the best teachers, what the compute goes into.

Blue is where distilling wins, orange where training alone does. Cells outside the range in which the laws were fitted
are hatched: there a map is an extrapolation. Dotted: the laws disagree on which of the two is better.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from distillaw.figures.files import save_all
from distillaw.figures.style import DASHED, HATCH, INK, MUTED, SERIES, in_style, new_figure, set_title
from distillaw.planning.maps import GridMap, Quantity
from distillaw.quantities import format_count, power_text

Array = np.ndarray

GAIN_LEVELS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Nats/token, on both sides of zero."""
_SEQUENTIAL = LinearSegmentedColormap.from_list("house", ["#f3f6f4", "#a9d3c1", SERIES[2], "#00563f"])
_DIVERGING = LinearSegmentedColormap.from_list(
    "gain", ["#7a3300", SERIES[1], "#f6c9a5", "#f7f7f5", "#a9cfe8", SERIES[0], "#003a5c"]
)
_DRAWN = 240
"""Rows and columns drawn at most: a contour needs no more."""
_OUTSIDE, _DISAGREE = HATCH, "...."
_HATCH = (0.3, 0.3, 0.3, 0.38)
"""Red, green, blue and opacity."""
_UNPAID = "no teacher can be paid for"
_BOXED = {"facecolor": "white", "edgecolor": "none"}


@in_style
def plan_map(found: GridMap) -> Figure:
    """A map of `distillaw map`: where distilling pays, the best teachers, what the compute goes into.

    Hatched: outside the range in which the laws were fitted; dotted: laws disagree on the sign of the gain.

    Args:
        found: from `distillaw.planning.maps`; its axes carry their units.
    """
    figure = _FIGURES[found.kind](found)
    figure.suptitle(_heading(found), x=0.01, ha="left", fontsize="small", color=MUTED)
    return figure


def save_map(found: GridMap, folder: Path) -> list[Path]:
    """Draw a map and write it as SVG and PNG, each atomically; returns the files."""
    return save_all(plan_map(found), folder, found.name, dpi=120)


def _gain_figure(found: GridMap) -> Figure:
    figure, [[ax]] = new_figure(1, 1, width=7.2, height=4.9)
    _gain_panel(figure, ax, found)
    set_title(ax, found.title)
    handles = [Line2D([], [], color=INK, linewidth=1.6, label="equal losses (mean of the laws)"), _outside()]
    if ((found["gain_lowest"] < 0) & (found["gain_highest"] > 0)).any():
        handles.append(_key(_DISAGREE, "laws disagree on the sign"))
    _legend(figure, handles)
    return figure


def _teacher_figure(found: GridMap) -> Figure:
    figure, axes = new_figure(2, 2, width=9.6, height=7.4)
    panels = [("teacher_loss", axes[0][0]), ("teacher_params", axes[0][1]), ("teacher_tokens", axes[1][0])]
    for name, ax in panels:
        _quantity_panel(figure, ax, found, name)
    _gain_panel(figure, axes[1][1], found)
    set_title(axes[1][1], "gain over training alone on the same compute")
    blank = ", blank: no teacher can be paid for" if np.isnan(found["gain"]).any() else ""
    _legend(figure, [_outside(), _key(_DISAGREE, f"laws disagree on the sign (last panel){blank}")])
    return figure


def _allocation_figure(found: GridMap) -> Figure:
    figure, [[shares, sizes, gain]] = new_figure(1, 3, width=10.6, height=3.6)
    C = found.x.values
    _stack(shares, found)
    counted = {"teacher_params": SERIES[2], "student_tokens": SERIES[0], "teacher_tokens": SERIES[3]}
    for name, color in counted.items():
        sizes.plot(C, found[name], color=color, label=found.layers[name].label)
    student = float(found.meta["student_params"])  # type: ignore[arg-type]
    sizes.axhline(student, color=INK, linewidth=0.9, linestyle=DASHED, label="student parameters")
    sizes.set_yscale("log")
    _log_ticks(sizes, "y", np.concatenate([found[name] for name in counted]), _tick)
    sizes.legend(fontsize="small", framealpha=0.9, **_BOXED)
    set_title(sizes, "sizes and tokens")
    low, high = found["gain_lowest"], found["gain_highest"]
    gain.fill_between(C, low, high, color=SERIES[0], alpha=0.18, linewidth=0)
    gain.plot(C, found["gain"], color=SERIES[0])
    gain.axhline(0, color=INK, linewidth=0.9)
    gain.set_ylabel("nats/token")
    set_title(gain, "gain over training alone; band: laws")
    for ax in (shares, sizes, gain):
        _log_axis(ax, "x", found.x)
        _outside_spans(ax, found)
    _legend(figure, [_outside()])
    return figure


def _gain_panel(figure: Figure, ax: Axes, found: GridMap) -> None:
    x, y, layers = _thinned(found)
    gain = layers["gain"]
    _axes_of(ax, found)
    if not np.isfinite(gain).any():
        _say(ax, _UNPAID)
        return
    levels = _gain_levels(gain)
    colors, norm = _band_colors(_DIVERGING, levels, center=0.0)
    filled = ax.contourf(x, y, gain, levels=levels, cmap=colors, norm=norm, extend="both")
    if np.nanmin(gain) < 0 < np.nanmax(gain):
        ax.contour(x, y, gain, levels=[0.0], colors=INK, linewidths=1.6)
    _hatch(ax, x, y, layers["disagreement"], _DISAGREE)
    _hatch(ax, x, y, layers["outside"], _OUTSIDE)
    bar = figure.colorbar(filled, ax=ax, ticks=levels, pad=0.02, aspect=28)
    bar.ax.set_yticklabels([f"{level:+g}" if level else "0" for level in levels])
    bar.set_label("gain, nats/token", fontsize="small")
    bar.ax.tick_params(length=2, labelsize="small")
    bar.outline.set_visible(False)


def _quantity_panel(figure: Figure, ax: Axes, found: GridMap, name: str) -> None:
    x, y, layers = _thinned(found)
    values, layer = layers[name], found.layers[name]
    known = values[np.isfinite(values)]
    _axes_of(ax, found)
    if not known.size or known.max() <= known.min() * (1 + 1e-6):
        set_title(ax, layer.label)
        _hatch(ax, x, y, layers["outside"], _OUTSIDE)
        _say(ax, f"the same everywhere: {_tick(float(known[0]))}" if known.size else _UNPAID)
        return
    is_loss = layer.unit.startswith("nats")
    levels = _loss_levels(known) if is_loss else _decade_levels(known)
    colors, norm = _band_colors(_SEQUENTIAL.reversed() if is_loss else _SEQUENTIAL, levels)
    ax.contourf(x, y, values, levels=levels, cmap=colors, norm=norm, extend="both")
    _hatch(ax, x, y, layers["outside"], _OUTSIDE)
    lines = ax.contour(x, y, values, levels=levels, colors=INK, linewidths=0.5)
    show: Callable[[float], str] = (lambda v: f"{v:.3g}") if is_loss else _tick
    ax.clabel(lines, fmt=show, fontsize="x-small")
    set_title(ax, f"{layer.label}, {layer.unit}" if is_loss else layer.label)


def _say(ax: Axes, text: str) -> None:
    look = {"ha": "center", "fontsize": "small", "color": INK, "bbox": {**_BOXED, "pad": 4}}
    ax.text(0.5, 0.5, text, transform=ax.transAxes, **look)


def _stack(ax: Axes, found: GridMap) -> None:
    colors = {"student_share": SERIES[0], "logits_share": SERIES[5], "teacher_share": SERIES[2]}
    shares = {name: np.nan_to_num(found[name]) for name in colors}
    look = {"colors": tuple(colors.values()), "alpha": 0.75, "linewidth": 0}
    ax.stackplot(found.x.values, *shares.values(), **look)
    base = np.zeros(len(found.x.values))
    for name, share in shares.items():
        widest = int(np.argmax(share[2:-2])) + 2 if len(share) > 4 else int(np.argmax(share))
        if share[widest] > 0.08:
            place = float(np.clip(widest / (len(share) - 1), 0.2, 0.8))
            at = round(place * (len(share) - 1))
            middle, look = base[at] + share[at] / 2, {"color": "white", "fontweight": "bold"}
            centred = {"ha": "center", "va": "center", "fontsize": "small"}
            ax.text(found.x.values[at], middle, found.layers[name].label, **centred, **look)
        base = base + share
    ax.set_ylim(0, 1)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
    set_title(ax, "shares of the compute")


def _axes_of(ax: Axes, found: GridMap) -> None:
    assert found.y is not None
    ax.grid(False)
    _log_axis(ax, "x", found.x)
    _log_axis(ax, "y", found.y)


def _log_axis(ax: Axes, which: str, axis: Quantity) -> None:
    """Decades of a coordinate, in the numbers people write."""
    getattr(ax, f"set_{which}scale")("log")
    getattr(ax, f"set_{which}lim")(axis.values[0], axis.values[-1])
    _log_ticks(ax, which, axis.values, power_text if axis.unit == "FLOP" else _tick)
    getattr(ax, f"set_{which}label")(f"{axis.label}, {axis.unit}" if axis.unit == "FLOP" else axis.label)


def _log_ticks(ax: Axes, which: str, values: Array, show: Callable[[float], str]) -> None:
    known = values[np.isfinite(values) & (values > 0)]
    low, high = np.log10(known.min()), np.log10(known.max())
    steps = (1, 3) if high - low < 2.2 else (1,)
    decades = np.arange(np.floor(low), np.ceil(high) + 1, 1 if high - low < 9 else 2)
    ticks = sorted(s * 10.0**d for d in decades for s in steps)
    line = ax.xaxis if which == "x" else ax.yaxis
    line.set_major_locator(FixedLocator([t for t in ticks if 10**low * 0.99 <= t <= 10**high * 1.01]))
    line.set_minor_locator(NullLocator())
    line.set_major_formatter(FuncFormatter(lambda v, _: show(v)))


def _tick(value: float) -> str:
    return format_count(value, digits=1) if value < 1e15 else power_text(value)


def _thinned(found: GridMap) -> tuple[Array, Array, dict[str, Array]]:
    """Coordinates and layers with no more rows and columns than a drawing needs; flags as 0 and 1."""
    assert found.y is not None
    rows, columns = (np.unique(np.linspace(0, k - 1, min(k, _DRAWN)).astype(int)) for k in found.shape)
    part = np.ix_(rows, columns)
    layers = {name: layer.values[part] for name, layer in found.layers.items()}
    is_answered = np.isfinite(layers["gain"])
    layers["outside"] = (~found.inside_range[part] & is_answered).astype(float)
    # above one half where laws disagree on the sign; no step, so that its edge is as fine as any contour
    layers["disagreement"] = 0.5 - np.sign(layers["gain_lowest"]) * np.sign(layers["gain_highest"]) * np.sqrt(
        np.abs(layers["gain_lowest"] * layers["gain_highest"])
    )
    return found.x.values[columns], found.y.values[rows], layers


def _hatch(ax: Axes, x: Array, y: Array, flags: Array, pattern: str) -> None:
    """Hatch where flags are above one half."""
    is_on = flags > 0.5
    if is_on.any():
        area = ax.contourf(
            x, y, flags, levels=[0.5, max(1.5, 2 * float(np.nanmax(flags)))], colors="none", hatches=[pattern]
        )
        area.set_edgecolor(_HATCH)
        area.set_linewidth(0)
    if is_on.any() and not is_on.all():
        ax.contour(x, y, flags, levels=[0.5], colors=MUTED, linewidths=0.6)


def _outside_spans(ax: Axes, found: GridMap) -> None:
    """Hatch the stretches of a one-dimensional map that lie outside the fitted range."""
    outside = np.concatenate([[False], ~found.inside_range, [False]])
    starts = np.flatnonzero(outside[1:-1] & ~outside[:-2])
    stops = np.flatnonzero(outside[1:-1] & ~outside[2:])
    for first, last in zip(starts, stops, strict=True):
        ends = found.x.values[first], found.x.values[last]
        ax.axvspan(*ends, facecolor="none", edgecolor=_HATCH, hatch=_OUTSIDE, linewidth=0, zorder=0.5)


def _gain_levels(gain: Array) -> list[float]:
    """Levels on both sides of zero, as far as the gains reach."""
    high, low = float(np.nanmax(gain)), float(-np.nanmin(gain))
    up = [level for level in GAIN_LEVELS if level <= max(high, GAIN_LEVELS[0])]
    down = [-level for level in GAIN_LEVELS if level <= max(low, GAIN_LEVELS[0])]
    return sorted([*down, 0.0, *up])


def _loss_levels(known: Array) -> list[float]:
    levels = MaxNLocator(nbins=12, steps=[1, 2, 5, 10]).tick_values(float(known.min()), float(known.max()))
    return [float(level) for level in levels if known.min() <= level <= known.max()]


def _decade_levels(known: Array) -> list[float]:
    """1, 3, 10, 30, ..., or decades where there are many."""
    low, high = np.log10(known.min()), np.log10(known.max())
    steps = (1, 3) if high - low < 6 else (1,)
    found = [s * 10.0**d for d in np.arange(np.floor(low), np.ceil(high) + 1) for s in steps]
    # a level at the very end would trace the rounding of a bound
    inside = [v for v in found if known.min() * 1.001 < v < known.max() / 1.001]
    return inside if len(inside) > 1 else [float(known.min()), float(known.max())]


def _band_colors(
    colors: Colormap, levels: list[float], *, center: float | None = None
) -> tuple[Colormap, BoundaryNorm]:
    """A colour for each band between levels and beyond both ends, the map's middle at the centre."""
    count = len(levels) + 1
    if center is None:
        places = np.linspace(0, 1, count)
    else:
        above = sum(level >= center for level in levels)
        below = count - above
        most = max(above, below)
        places = np.concatenate([-np.arange(below, 0, -1), np.arange(1, above + 1)]) / (2 * most) + 0.5
    shades = mpl.colors.ListedColormap(colors(places))
    return shades, BoundaryNorm(levels, count, extend="both")


def _key(pattern: str, label: str) -> Patch:
    return Patch(facecolor="none", edgecolor=MUTED, hatch=pattern, label=label)


def _outside() -> Patch:
    return _key(_OUTSIDE, "outside the fitted range")


def _legend(figure: Figure, handles: list) -> None:
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), fontsize="small")


def _heading(found: GridMap) -> str:
    """Laws, scenario and student, in one line above the figure."""
    names = found.meta["laws"]
    assert isinstance(names, list)
    words = [", ".join(names) if len(names) < 4 else f"{len(names)} laws"]
    if "scenario" in found.meta:
        words.append(f"scenario {found.meta['scenario']}")
    if "student_params" in found.meta:
        words.append(f"{format_count(float(found.meta['student_params']))} student")  # type: ignore[arg-type]
    return " · ".join(words)


_FIGURES: Mapping[str, Callable[[GridMap], Figure]] = {
    "gain": _gain_figure,
    "teacher": _teacher_figure,
    "allocation": _allocation_figure,
}
