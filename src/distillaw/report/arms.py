"""The arms of one student: where each began, where it ended, how far it is behind the best."""

from collections.abc import Mapping
from typing import Any

from distillaw.quantities import format_count
from distillaw.report.content import Z90, Table, Value, number
from distillaw.report.svg import INK, MUTED, PAPER, SERIES, Picture, new_figure, to_svg


def arms_picture(record: Mapping[str, Any]) -> Picture:
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
        ax.annotate(f"{row['loss']:.3f}", (row["loss"], y), xytext=(0, 7), textcoords="offset points", ha="center",
                    fontsize=8, color=INK)  # fmt: skip
    teacher = next((row["teacher_loss"] for row in rows if row["teacher_loss"] is not None), None)
    if teacher is not None:
        ax.axvline(teacher, color=INK, linestyle=(0, (4, 3)), linewidth=1.0)
        ax.annotate(f"teacher {teacher:.3f}", (teacher, 0.62), ha="left", xytext=(4, 0), textcoords="offset points",
                    fontsize=8, color=INK)  # fmt: skip
    ax.set_ylim(-len(rows) + 0.4, 0.95)
    ax.set_yticks([-i for i in range(len(rows))], [arm_name(row["arm"]) for row in rows])
    ax.margins(x=0.08)
    ax.set_xlabel("held-out loss, nats/token")
    alt = "; ".join(f"{arm_name(row['arm'])} {row['loss']:.3f}" for row in rows)
    return Picture(
        name="arms", title="Arms at equal tokens", alt=f"Held-out loss of each arm: {alt}",
        svg=to_svg(figure, name="arms", alt=alt),
        caption=f"Every arm read the same {format_count(record['tokens'])} tokens. Rings: before the first step; dots: "
        "after the last, with the 90 % interval of the held-out documents; blue: taught, grey: from the text alone. "
        "Differences between arms are known better than these intervals: they are paired.",
    )  # fmt: skip


def arm_name(arm: str) -> str:
    """As a reader calls it."""
    return f"{arm.removesuffix('-alone')}, no teacher" if arm.endswith("-alone") else f"{arm}, taught"


def pair_sentences(record: Mapping[str, Any]) -> list[str]:
    """What start and teacher were worth."""
    return [
        f"{pair['what'][0].upper()}{pair['what'][1:]}: {pair['gain']:+.3f} nats/token ({pair['interval'][0]:+.3f} to "
        f"{pair['interval'][1]:+.3f}, 90 %, paired over {pair['documents']} documents, one seed)."
        for pair in record["pairs"]
    ]


def arm_table(record: Mapping[str, Any]) -> Table:
    """Every arm with its numbers."""
    rows = [
        [Value(text=arm_name(row["arm"]), kind="text"), Value(text=format_count(row["params"]), sort=row["params"]),
         number(row["start_loss"], 3), number(row["loss"], 4), number(row["loss_se"], 4), number(row["behind_best"], 4),
         Value(text=f"{row['peak_lr']:g}", sort=row["peak_lr"]), number(row["seconds"], 0)]
        for row in record["arms"]
    ]  # fmt: skip
    return Table(columns=["arm", "parameters", "loss before, nats/token", "loss after", "se", "behind the best",
                          "learning rate", "seconds"],
                 rows=rows)  # fmt: skip
