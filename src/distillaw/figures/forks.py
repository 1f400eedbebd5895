"""What a larger batch costs after a fork, against the batch, under each loss."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from distillaw.figures.style import DASHED, INK, MUTED, SERIES, count_axis, in_style, new_figure, set_title

STYLES = {"distilled": (SERIES[0], "o"), "supervised": (SERIES[1], "s")}


@in_style
def draw_excess(record: Mapping[str, Any], fork: Mapping[str, Any]) -> Figure:
    """A panel per checkpoint; one for all where each loss is branched from its own checkpoint only."""
    panels = _panels(fork)
    figure, axes = new_figure(
        1, len(panels), width=4.8 if len(panels) == 1 else 3.4 * len(panels), height=3.2
    )
    for ax, (title, arms) in zip(axes[0], panels.items(), strict=True):
        for shift, arm in enumerate(arms):
            _draw_arm(ax, arm, shift=1 + 0.04 * (shift - (len(arms) - 1) / 2))
        ax.axhline(0, color=INK, linewidth=0.7)
        count_axis(ax, [k * record["run"]["batch_tokens"] for k in record["test"]["multiples"]])
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        ax.set_xlabel("batch, tokens")
        set_title(ax, title)
        ax.legend(loc="upper left", fontsize="small")
    lowest, highest = min(ax.get_ylim()[0] for ax in axes[0]), max(ax.get_ylim()[1] for ax in axes[0])
    for ax in axes[0]:
        ax.set_ylim(lowest, highest)
    axes[0][0].set_ylabel("excess loss, nats/token")
    return figure


def _panels(fork: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    arms = fork["arms"]
    if len(arms) > 1 and all(arm["trunk"] == arm["loss"] for arm in arms):
        return {"each loss from its own checkpoint": arms}
    trunks = dict.fromkeys(arm["trunk"] for arm in arms)
    return {f"{trunk} checkpoint": [arm for arm in arms if arm["trunk"] == trunk] for trunk in trunks}


def _draw_arm(ax: Axes, arm: Mapping[str, Any], *, shift: float) -> None:
    color, marker = STYLES[arm["loss"]]
    rows = [row for row in arm["rows"] if row["excess"] is not None]
    x, y = [row["batch_tokens"] * shift for row in rows], [row["excess"] for row in rows]
    ax.plot(x, y, marker=marker, color=color, markersize=4.5, label=arm["loss"])
    for place, row in zip(x, rows, strict=True):
        ax.plot([place, place], row["excess_interval"], color=color, linewidth=2.4, alpha=0.4)
    first = arm["decisions"][0]
    ax.axhline(first["tolerance"], color=color, linestyle=DASHED, linewidth=0.9)
    if first["status"] in ("BRACKETED", "FIRST_FAILS"):
        ax.axvline(first["critical_batch"], color=color, linestyle=":", linewidth=1.0)
    for row in arm["rows"]:
        if row["excess"] is None:
            ax.annotate("diverged", (row["batch_tokens"], 0), rotation=90, fontsize="x-small", color=MUTED)
