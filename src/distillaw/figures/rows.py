"""One row with an interval for each of a few choices: the strategies of a plan, the arms of a recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillaw.errors import DataError
from distillaw.figures.files import read_record_file
from distillaw.figures.style import (
    DASHED,
    INK,
    MUTED,
    PAPER,
    SERIES,
    Z90,
    in_style,
    new_figure,
    note,
    set_title,
)
from distillaw.planning.verdict import Verdict


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
