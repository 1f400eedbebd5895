"""Choices side by side: strategies of a plan and arms of a recipe in rows, models by score against compute."""

import itertools
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from distillaw.errors import DataError
from distillaw.figures.files import read_record_file
from distillaw.figures.style import (
    DASHED,
    INK,
    MUTED,
    PAPER,
    SERIES,
    Z90,
    current_look,
    in_style,
    new_figure,
    note,
    power_axis,
    set_title,
)
from distillaw.pareto.points import FRONTIERS, ScorePoint
from distillaw.planning.verdict import Verdict

Spot = tuple[float, float]
NAME_GAP = 0.014
"""Between a point and its name."""
POINT_SIZE = 0.009
"""Half the size of a point."""
NATURAL_WIDTH = 6.6
"""Inches."""
LABEL_CHARS = 18
"""Letters of a name that are written; what follows is cut."""
LETTER = (0.0108, 0.036)
"""Width of a letter and height of a line of the names, as fractions of the axes, at the natural size."""
AXIS_CHARS = 44
"""Letters that fit beside the axis."""
LINES = {"staircase": "staircase of unbeaten models", "hull": "concave hull over log compute"}


@in_style
def models(points: Sequence[ScorePoint], *, score: str, axis: str, frontier: str = "staircase") -> Figure:
    """Score against training compute, your own models among published ones, with the frontier of all.

    Own models are filled, with a 90 % bar, others rings, chat models squares.

    Args:
        points: from `own_points` and `published_points` of `distillaw.pareto.points`.
        score: what the ordinate is, with its unit.
        axis: what the abscissa counts, in words; FLOP, logarithmic.
        frontier: `staircase` or `hull`, drawn through all points.

    Raises:
        DataError: a point without a finite compute and score.
    """
    figure, axes = new_figure(1, 1, width=NATURAL_WIDTH, height=4.3)
    ax = axes[0][0]
    corners = FRONTIERS[frontier](points)
    line = _corners(corners, stepped=frontier == "staircase")
    dashes = {"color": INK, "linewidth": 1.0, "linestyle": DASHED, "zorder": 1}
    ax.plot(*zip(*line, strict=True), **dashes, label=LINES[frontier])
    _draw_points(ax, points)
    ax.set_xscale("log")
    ax.margins(x=0.12, y=0.1)
    power_axis(ax)
    share = NATURAL_WIDTH * current_look().scale / figure.get_figwidth()  # a letter's, over its natural one
    columns, room = (2, 0.14) if share < 1.3 else (1, 0.24)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + room / (1 - room) * (high - low))
    ax.legend(loc="upper left", ncols=columns, labelcolor=INK, labelspacing=0.3)
    letter, legend = (LETTER[0] * share, LETTER[1]), ((0.0, 1 - room), (1.0, 1.0))
    _write_names(ax, points, corners, line, letter=letter, keep_off=legend)
    ax.set_xlabel(textwrap.fill(f"training compute, FLOP: {axis}", int(2 * AXIS_CHARS / share)))
    ax.set_ylabel(textwrap.fill(score, AXIS_CHARS))
    return figure


def _draw_points(ax: Axes, points: Sequence[ScorePoint]) -> None:
    """One series for each kind, so that the legend tells them apart."""
    kinds = {
        (True, False): "your models",
        (True, True): "your chat models",
        (False, False): "published base models",
        (False, True): "published chat models",
    }
    for (is_own, is_chat), words in kinds.items():
        chosen = [point for point in points if (point.is_own, point.is_chat) == (is_own, is_chat)]
        color = SERIES[1] if is_own else MUTED
        for point in chosen:
            if is_own and point.se is not None:
                ends = [point.score - Z90 * point.se, point.score + Z90 * point.se]
                ax.plot([point.compute] * 2, ends, color=color, linewidth=1.2)
        if chosen:
            ax.plot(
                [p.compute for p in chosen],
                [p.score for p in chosen],
                "s" if is_chat else "o",
                color=color,
                markersize=6.5 if is_own else 4.5,
                markerfacecolor=color if is_own else "none",
                zorder=3,
                label=words,
            )


def _corners(points: Sequence[ScorePoint], *, stepped: bool) -> list[Spot]:
    """(compute, score) along the frontier; a step rises where the better model is paid for."""
    corners: list[Spot] = []
    for point in points:
        if stepped and corners:
            corners.append((point.compute, corners[-1][1]))
        corners.append((point.compute, point.score))
    return corners


def _write_names(
    ax: Axes,
    points: Sequence[ScorePoint],
    corners: Sequence[ScorePoint],
    line: Sequence[Spot],
    *,
    letter: Spot,
    keep_off: Sequence[Spot],
) -> None:
    """Own models first, then those of the frontier, then the others from the best down."""
    (left, right), (low, high) = map(math.log10, ax.get_xlim()), ax.get_ylim()

    def inside(compute: float, score: float) -> Spot:
        return (math.log10(compute) - left) / (right - left), (score - low) / (high - low)

    order = sorted(points, key=lambda p: (not p.is_own, p not in corners, -p.score))
    labels = place_labels(
        [p.name.split(" (")[0][:LABEL_CHARS] for p in order],
        [inside(p.compute, p.score) for p in order],
        line=[inside(*spot) for spot in line],
        letter=letter,
        keep_off=keep_off,
    )
    for point, label in zip(order, labels, strict=True):
        if label is not None:
            ax.text(
                label.x,
                label.y,
                label.text,
                transform=ax.transAxes,
                ha=label.side,
                va="center",
                fontsize="small",
                color=INK if point.is_own else MUTED,
            )


# --- names that lie on no other name, no point and no line; all in fractions of the axes ----------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A name with its place."""

    text: str
    x: float
    y: float
    side: str
    """Which of its sides lies at x: left, right or center."""


def place_labels(
    names: Sequence[str], spots: Sequence[Spot], *, line: Sequence[Spot], letter: Spot, keep_off: Sequence[Spot] = ()
) -> list[Label | None]:
    """A place for each name, the first names first; None where there is none.

    Args:
        names: in order of importance.
        spots: the points they belong to.
        line: corners of a line that no name may lie on.
        letter: (width of a letter, height of a line of text).
        keep_off: lower left and upper right corner of a rectangle that is taken, e.g. by the legend.
    """
    size = POINT_SIZE
    taken = [Bbox.from_extents(x - size, y - size, x + size, y + size) for x, y in spots]
    if keep_off:
        taken.append(Bbox(keep_off))
    steps = np.linspace(0, 1, 61)[:, None]
    inked = np.concatenate(
        [np.empty((0, 2)), *(np.array(a) + (np.array(b) - a) * steps for a, b in itertools.pairwise(line))]
    )
    found: list[Label | None] = []
    for name, (x, y) in zip(names, spots, strict=True):
        for label, box in _places(name, x, y, letter):
            if not box.count_overlaps(taken) and not box.count_contains(inked):
                taken.append(box)
                found.append(label)
                break
        else:
            found.append(None)
    return found


def _places(name: str, x: float, y: float, letter: Spot) -> Iterator[tuple[Label, Bbox]]:
    """Right, left, above, below and the corners between, as far as they are inside the axes."""
    width, height = len(name) * letter[0], letter[1]
    for dy in (0.0, height, -height):
        sides = {"left": x + NAME_GAP, "right": x - NAME_GAP - width, "center": x - width / 2}
        for side, left in sides.items():
            box = Bbox.from_extents(left, y + dy - height / 2, left + width, y + dy + height / 2)
            if box.x0 >= 0 and box.x1 <= 1.02 and box.y0 >= 0 and box.y1 <= 1:
                at = {"left": left, "right": left + width, "center": x}[side]
                yield Label(text=name, x=at, y=y + dy, side=side), box


# --- one row with an interval for each of a few choices ----------------------------------------------------


@in_style
def strategies(verdict: Verdict) -> Figure:
    """What a plan compares: the student's loss under each strategy (left) and its gain over pretraining (right).

    Best first; nats/token with the interval of the verdict's level; blue: with a teacher, grey: without. Losses are
    less certain than gains wherever runs were paired.

    Args:
        verdict: from `distillaw.plan`.

    Raises:
        DataError: the verdict has no strategies.

    Example:
        >>> import distillaw as dl
        >>> figure = dl.figures.strategies(dl.plan(1e9, student_tokens=2e10))
        >>> figure.axes[1].get_xlabel()
        'gain over pretraining, nats/token'
    """
    rows = verdict.strategies
    if not rows:
        raise DataError("this verdict compares no strategies")
    figure, [[losses, gains]] = new_figure(1, 2, width=8.2, height=0.34 * len(rows) + 0.9)
    for place, row in enumerate(rows):
        color = SERIES[0] if row.teacher is not None else MUTED
        for ax, value in ((losses, row.loss), (gains, row.gain)):
            if value is not None:
                ax.plot([value.lower, value.upper], [-place, -place], color=color, linewidth=2.0, alpha=0.45)
                ax.plot(value.mean, -place, "o", color=color, markersize=5)
    losses.set_yticks([-place for place in range(len(rows))], [row.name for row in rows])
    gains.set_yticks([-place for place in range(len(rows))], [""] * len(rows))
    gains.axvline(0, color=INK, linewidth=0.8)
    for ax, words in ((losses, "student loss, nats/token"), (gains, "gain over pretraining, nats/token")):
        _rows_axis(ax, len(rows), words)
    set_title(losses, "loss")
    set_title(gains, "gain")
    return figure


def _rows_axis(ax: Axes, rows: int, words: str) -> None:
    ax.set_ylim(-rows + 0.5, 0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(True, axis="x")
    ax.set_xlabel(words)


@in_style
def recipe_arms(folder: str | Path) -> Figure:
    """The arms of a recipe: held-out loss before (ring) and after (dot, 90 % interval over documents) training.

    Args:
        folder: what `distillaw recipe` wrote.

    Raises:
        CacheError: no recipe.json there.
        DataError: its arms have not been trained yet.
    """
    stages = read_record_file(Path(folder) / "recipe.json", "distillaw recipe")["stages"]
    if "distil" not in stages:
        raise DataError(f"{folder}: its arms have not been trained yet")
    return draw_arms(stages["distil"])


@in_style
def draw_arms(record: Mapping[str, Any]) -> Figure:
    """A row per arm, best on top: from the loss at the start (ring) to the loss at the end (dot)."""
    rows = record["arms"]
    figure, axes = new_figure(1, 1, width=6.4, height=0.42 * len(rows) + 1.2)
    ax = axes[0][0]
    for place, row in enumerate(rows):
        y, color = -place, SERIES[0] if row["taught"] else MUTED
        if row["start_loss"] is not None:
            ax.plot([row["start_loss"], row["loss"]], [y, y], color=color, linewidth=1.0)
            ax.plot(row["start_loss"], y, "o", color=color, markerfacecolor=PAPER, markersize=5)
        half = Z90 * row["loss_se"]
        ax.plot([row["loss"] - half, row["loss"] + half], [y, y], color=color, linewidth=3, alpha=0.45)
        ax.plot(row["loss"], y, "o", color=color, markersize=6)
        note(ax, f"{row['loss']:.3f}", (row["loss"], y), (0, 7), ha="center")
    teacher = next((row["teacher_loss"] for row in rows if row["teacher_loss"] is not None), None)
    if teacher is not None:
        ax.axvline(teacher, color=INK, linestyle=DASHED, linewidth=1.0)
        note(ax, f"teacher {teacher:.3f}", (teacher, 0.62), (4, 0))
    ax.set_ylim(-len(rows) + 0.4, 0.95)
    ax.set_yticks([-i for i in range(len(rows))], [arm_name(row["arm"]) for row in rows])
    ax.margins(x=0.08)
    ax.set_xlabel("held-out loss, nats/token")
    return figure


def arm_name(arm: str) -> str:
    """As a reader calls it."""
    return f"{arm.removesuffix('-alone')}, no teacher" if arm.endswith("-alone") else f"{arm}, taught"
