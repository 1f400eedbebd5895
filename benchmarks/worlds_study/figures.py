"""Figures of docs/worlds-study.md, from worlds_study.json."""

import matplotlib

from benchmarks.worlds_study.page import PAGE, by, name, tokens

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
"""Okabe and Ito: told apart with any colour vision."""
MARKERS = "osD^vP"
SIZES = ("0.03M", "0.1M")


def draw(found: dict) -> None:
    """All of them, beside the page."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    for title, figure in (("best", best(found)), ("ways", ways(found)), ("catchup", catchup(found))):
        path = PAGE.parent / f"worlds-study-{title}.png"
        figure.savefig(path, dpi=110)
        plt.close(figure)
        print(path)


def points(axis, x, estimates, index: int, label: str) -> None:
    """Means joined by a line, with 90 % intervals."""
    mean = np.array([e["mean"] for e in estimates])
    ends = np.array([[e["mean"] - e["low"], e["high"] - e["mean"]] for e in estimates]).T
    axis.errorbar(x, mean, ends, color=COLOURS[index], marker=MARKERS[index], ms=4.5, lw=1.3, elinewidth=1, label=label)


def best(found: dict):
    """Gain over the exact oracle's students along the windows, a line per budget."""
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.0), constrained_layout=True, sharey=True)
    cells = by(found["students"], "size", "budget", "teacher")
    curve = [t for t in found["teachers"] if t == "oracle" or "window" in t]
    zero = {"mean": 0.0, "low": 0.0, "high": 0.0}
    for axis, size in zip(axes, SIZES, strict=True):
        rows = [row for row in found["best"] if row["size"] == size]
        for i, row in enumerate(rows):
            mine = [t for t in curve if (size, row["budget"], t) in cells]
            gains = [cells[size, row["budget"], t].get("over_exact", zero) for t in mine]
            points(axis, [found["teachers"][t] for t in mine], gains, i, f"{tokens(row['budget'])} tokens")
            height = np.interp(row["best_loss"], [found["teachers"][t] for t in mine], [g["mean"] for g in gains])
            axis.plot(
                [row["low"], row["high"]], [height] * 2, color=COLOURS[i], lw=7, alpha=0.25, solid_capstyle="butt"
            )
        axis.axhline(0, color="0.5", lw=0.8)
        axis.set(title=f"{size} students", xlabel="teacher's loss, nats/token (exact oracle left, window 1 right)")
        axis.legend(frameon=False, title="broad: where the best is, 90 %", title_fontsize=8)
    axes[0].set(ylabel="better than the exact oracle's student, nats/token", ylim=(-0.13, None))
    return figure


def ways(found: dict):
    """Teachers of one loss: gain over none as tokens grow; and the students with their sureness set right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.0), constrained_layout=True)
    cells = by(found["students"], "size", "budget", "teacher")
    level = "oracle:loss=3.568,by="
    for i, teacher in enumerate(("oracle:window=4", level + "noise", level + "temperature", level + "uniform")):
        budgets = sorted(b for s, b, t in cells if (s, t) == ("0.1M", teacher) and b <= 300_000)
        label = f"{name(teacher)} ({found['teachers'][teacher]:.3f})"
        points(left, budgets, [cells["0.1M", b, teacher]["over_none"] for b in budgets], i, label)
    left.axhline(0, color="0.5", lw=0.8)
    left.set(
        xscale="log",
        xlabel="student tokens",
        ylabel="better than without a teacher, nats/token",
        title="0.1M students, teachers of nearly one loss",
    )
    left.set_xticks(budgets, [tokens(b) for b in budgets])
    left.minorticks_off()
    left.legend(frameon=False, title="made worse by (loss)", title_fontsize=8)
    rows = found["rescaled"][::-1]
    for y, row in enumerate(rows):
        right.plot([row["before"], row["loss"]], [y, y], color="0.6", lw=1.2, zorder=1)
    y = range(len(rows))
    right.scatter([r["before"] for r in rows], y, color=COLOURS[3], marker="o", s=28, label="as trained", zorder=2)
    right.scatter([r["loss"] for r in rows], y, color=COLOURS[0], marker="D", s=24, label="logits rescaled", zorder=2)
    right.set_yticks(y, [name(r["teacher"]) for r in rows])
    right.set(xlabel="student's loss, nats/token", title="0.1M students of 300k tokens")
    right.legend(frameon=False)
    return figure


def catchup(found: dict):
    """Gain of weak teachers over none, down to where supervised training catches up."""
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.0), constrained_layout=True, sharey=True)
    for axis, size in zip(axes, SIZES, strict=True):
        rows = [row for row in found["catchup"] if row["size"] == size and "window" in row["second"]]
        for i, row in enumerate(sorted(rows, key=lambda r: r["teacher_loss"])):
            label = f"{name(row['second'])} ({row['teacher_loss']:.3f})"
            points(axis, [d["budget"] for d in row["differences"]], row["differences"], i, label)
            if row["tokens"] and not row["extrapolated"]:
                axis.plot([row["low"], row["high"]], [0, 0], color=COLOURS[i], lw=7, alpha=0.3, solid_capstyle="butt")
                axis.plot(row["tokens"], 0, MARKERS[i], color=COLOURS[i], mec="black", ms=7)
        axis.axhline(0, color="0.5", lw=0.8)
        axis.set(xscale="log", title=f"{size} students", xlabel="student tokens")
        ticks = sorted({d["budget"] for row in rows for d in row["differences"]})
        axis.set_xticks(ticks, [tokens(t) for t in ticks])
        axis.minorticks_off()
        axis.legend(frameon=False, title="teacher (its loss)", title_fontsize=8, loc="lower left")
    axes[0].set(ylabel="better than without a teacher, nats/token", ylim=(-0.13, None))
    return figure
