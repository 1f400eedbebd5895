"""The arms of one student: where each began, where it ended, how far it is behind the best."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from distillaw.figures.style import DASHED, INK, MUTED, PAGE, PAPER, SERIES, Z90, Look, in_style, new_figure


@in_style
def draw_arms(record: Mapping[str, Any], *, look: Look = PAGE) -> Figure:
    """A row per arm, best on top: from the loss at the start (ring) to the loss at the end (dot)."""
    rows = record["arms"]
    figure, axes = new_figure(1, 1, width=6.4, height=0.42 * len(rows) + 1.2, look=look)
    ax = axes[0][0]
    for place, row in enumerate(rows):
        y, color = -place, SERIES[0] if row["taught"] else MUTED
        if row["start_loss"] is not None:
            ax.plot([row["start_loss"], row["loss"]], [y, y], color=color, linewidth=1.0)
            ax.plot(row["start_loss"], y, "o", color=color, markerfacecolor=PAPER, markersize=5)
        half = Z90 * row["loss_se"]
        ax.plot([row["loss"] - half, row["loss"] + half], [y, y], color=color, linewidth=3, alpha=0.45)
        ax.plot(row["loss"], y, "o", color=color, markersize=6)
        ax.annotate(
            f"{row['loss']:.3f}",
            (row["loss"], y),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize="small",
            color=INK,
        )
    teacher = next((row["teacher_loss"] for row in rows if row["teacher_loss"] is not None), None)
    if teacher is not None:
        ax.axvline(teacher, color=INK, linestyle=DASHED, linewidth=1.0)
        ax.annotate(
            f"teacher {teacher:.3f}",
            (teacher, 0.62),
            ha="left",
            xytext=(4, 0),
            textcoords="offset points",
            fontsize="small",
            color=INK,
        )
    ax.set_ylim(-len(rows) + 0.4, 0.95)
    ax.set_yticks([-i for i in range(len(rows))], [arm_name(row["arm"]) for row in rows])
    ax.margins(x=0.08)
    ax.set_xlabel("held-out loss, nats/token")
    return figure


def arm_name(arm: str) -> str:
    """As a reader calls it."""
    return f"{arm.removesuffix('-alone')}, no teacher" if arm.endswith("-alone") else f"{arm}, taught"
