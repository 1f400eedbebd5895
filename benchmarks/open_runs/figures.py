"""Figures of docs/open-runs.md, from open_runs.json."""

import matplotlib

from benchmarks.open_runs.page import PAGE
from benchmarks.worlds_study.figures import COLOURS, MARKERS
from benchmarks.worlds_study.page import tokens

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np


def draw(found: dict) -> None:
    """Student loss over teacher loss, a panel per size, a line per budget."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    sizes = list(dict.fromkeys(row["size"] for row in found["cells"]))
    figure, axes = plt.subplots(1, len(sizes), figsize=(3.0 * len(sizes), 3.9), constrained_layout=True)
    budgets = sorted({row["budget"] for row in found["cells"]})
    for axis, size in zip(np.atleast_1d(axes), sizes, strict=True):
        for row in [row for row in found["cells"] if row["size"] == size]:
            _panel(axis, row, found["teachers"], budgets.index(row["budget"]))
        axis.set(title=f"{size} students", xlabel="teacher's loss, nats/token")
    np.atleast_1d(axes)[0].set_ylabel("gain over no teacher, nats/token")
    handles = [
        plt.Line2D([], [], color=COLOURS[i], marker=MARKERS[i], label=f"{tokens(b)} tokens")
        for i, b in enumerate(budgets)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(budgets), frameon=False)
    path = PAGE.parent / "open-runs-gains.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(path)


def _panel(axis, row: dict, teachers: dict, index: int) -> None:
    taught = sorted(row["gain"], key=lambda t: teachers[t]["loss"])
    axis.errorbar(
        [teachers[t]["loss"] for t in taught],
        [row["gain"][t]["mean"] for t in taught],
        [row["gain"][t]["half"] for t in taught],
        color=COLOURS[index],
        marker=MARKERS[index],
        ms=4,
        lw=1.2,
        elinewidth=0.9,
        ls="--" if row["held_out"] else "-",
    )
    axis.axhline(0, color="0.5", lw=0.8)
    axis.axvline(row["alone"], color=COLOURS[index], lw=0.8, ls=":")
