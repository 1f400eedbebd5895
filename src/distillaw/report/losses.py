"""The two pictures of a study's losses: against the teacher's loss (the capacity gap) and against tokens."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from distillaw.planning.cells import Cell
from distillaw.planning.record import budget_text
from distillaw.report.svg import (
    INK,
    MUTED,
    PAPER,
    SERIES,
    Picture,
    count_axis,
    new_figure,
    set_title,
    spread,
    to_svg,
)


def capacity_gap(cells: Sequence[Cell]) -> Picture | None:
    """Student loss against teacher loss, one panel per student size (column) and token budget (row)."""
    cells = [cell for cell in cells if cell.taught]
    if not cells:
        return None
    sizes, budgets = sorted({c.params for c in cells}), sorted({c.tokens for c in cells})
    figure, axes = new_figure(
        len(budgets), len(sizes), width=3.3 * len(sizes) + 0.4, height=2.35 * len(budgets) + 0.3
    )
    for row, budget in enumerate(budgets):
        for column, size in enumerate(sizes):
            cell = next((c for c in cells if (c.params, c.tokens) == (size, budget)), None)
            if cell is None:
                axes[row][column].set_axis_off()
            else:
                _gap_panel(axes[row][column], cell, is_last=row == len(budgets) - 1, is_first=column == 0)
    name = "capacity-gap"
    alt = "Student loss against teacher loss. " + " ".join(_gap_words(cell) for cell in cells)
    return Picture(
        name=name, title="Student loss against teacher loss", alt=alt, svg=to_svg(figure, name=name, alt=alt),
        caption="Each panel is one student size and token budget; better teachers stand to the right. A capacity gap "
        "is a curve that turns up again at the right. Points are means over seeds (small dots: single seeds), bars "
        "the 90 % interval of the paired difference from the same student without a teacher (dashed). The best "
        "teacher is filled. The vertical scales differ.",
    )  # fmt: skip


def _gap_panel(ax: Axes, cell: Cell, *, is_last: bool, is_first: bool) -> None:
    color = SERIES[0]
    x = [t.teacher_loss for t in cell.taught]
    ax.axhline(cell.alone, color=INK, linestyle=(0, (4, 3)), linewidth=1.1)
    ax.plot(x, [t.loss for t in cell.taught], color=color)
    for j, t in enumerate(cell.taught):
        ax.plot([t.teacher_loss] * 2, [t.loss - t.half, t.loss + t.half], color=color, linewidth=1.1)
        if len(t.seeds) > 1:
            ax.plot([t.teacher_loss] * len(t.seeds), t.seeds, "o", color=color, markersize=2.2, alpha=0.6)
        ax.plot(t.teacher_loss, t.loss, "o", markersize=5.5, markeredgecolor=color, markeredgewidth=1.3,
                markerfacecolor=color if t.is_best else PAPER, zorder=3)  # fmt: skip
        side = 1 if j % 2 else -1  # neighbours are often close: names go above and below in turn
        ax.annotate(_short(t.teacher), (t.teacher_loss, t.loss + side * t.half), xytext=(0, 3 * side), ha="center",
                    va="bottom" if side > 0 else "top", textcoords="offset points", fontsize=8,
                    color=MUTED, bbox={"facecolor": PAPER, "alpha": 0.7, "edgecolor": "none", "pad": 0.4})  # fmt: skip
    set_title(ax, f"{cell.label} student, {budget_text(cell.tokens)} tokens")
    ax.margins(x=0.16, y=0.16)
    ax.invert_xaxis()
    ax.annotate("no\nteacher", (1.0, cell.alone), xycoords=("axes fraction", "data"), xytext=(3, 0), ha="left",
                va="center", textcoords="offset points", fontsize=8, color=INK, annotation_clip=False)  # fmt: skip
    if is_last:
        ax.set_xlabel("teacher loss, nats/token  (better →)")
    if is_first:
        ax.set_ylabel("student loss, nats/token")


def _short(teacher: str) -> str:
    return teacher.replace(" teacher", "").replace(" tokens", "")


def _gap_words(cell: Cell) -> str:
    pairs = ", ".join(f"{t.loss:.3f} from the {t.teacher} of loss {t.teacher_loss:.3f}" for t in cell.taught)
    return f"{cell.label} on {budget_text(cell.tokens)} tokens: {cell.alone:.3f} without a teacher, {pairs}."


def token_curves(cells: Sequence[Cell]) -> Picture | None:
    """Student loss against tokens, with and without teachers, one panel per student size."""
    sizes = sorted({c.params for c in cells})
    if not sizes:
        return None
    figure, axes = new_figure(1, len(sizes), width=3.3 * len(sizes) + 1.0, height=3.3)
    teachers = _teachers(cells)
    for column, size in enumerate(sizes):
        own = [c for c in cells if c.params == size]
        _token_panel(axes[0][column], own, teachers)
        axes[0][column].set_xlabel("training tokens")
    axes[0][0].set_ylabel("student loss, nats/token")
    name = "token-curves"
    alt = "Student loss against training tokens. " + " ".join(_gap_words(cell) for cell in cells)
    return Picture(
        name=name, title="Loss against tokens, distilled and not", alt=alt, svg=to_svg(figure, name=name, alt=alt),
        caption="Black: without a teacher, band: 90 % interval over seeds. Colours: distilled, band: 90 % interval of "
        "the paired difference from the black line, seeds and held-out documents. Where colour and black meet, the "
        "teacher no longer helps. Single losses are less certain than these differences: their held-out standard "
        "errors are in the table of runs.",
    )  # fmt: skip


def _teachers(cells: Sequence[Cell]) -> dict[str, str]:
    """A colour per teacher run, worst teacher first."""
    found = {t.teacher_run: t.teacher_loss for cell in cells for t in cell.taught}
    order = sorted(found, key=lambda run: -found[run])
    return {run: SERIES[i % len(SERIES)] for i, run in enumerate(order)}


def _token_panel(ax: Axes, cells: Sequence[Cell], colors: dict[str, str]) -> None:
    x = [float(c.tokens) for c in cells]
    lines = [("no teacher", INK, [(c.tokens, c.alone, float(c.seed_half)) for c in cells])]
    for run, color in colors.items():
        points = [(c.tokens, t.loss, t.half) for c in cells for t in c.taught if t.teacher_run == run]
        if points:
            name = next(t.teacher for c in cells for t in c.taught if t.teacher_run == run)
            lines.append((_short(name), color, points))
    for _, color, points in lines:
        tokens, losses, halves = zip(*points, strict=True)
        ax.plot(tokens, losses, "o-", color=color, markersize=4)
        ax.fill_between(
            tokens, [m - h for m, h in zip(losses, halves, strict=True)],
            [m + h for m, h in zip(losses, halves, strict=True)], color=color, alpha=0.14, linewidth=0,
        )  # fmt: skip
    count_axis(ax, x)
    set_title(ax, f"{cells[0].label} student")
    _end_labels(ax, lines, last=max(x))


def _end_labels(ax: Axes, lines: list, *, last: float) -> None:
    """Names at the right ends, moved apart where they would overlap."""
    low, high = ax.get_ylim()
    gap = (high - low) * 0.062
    ends = [points[-1] for _, _, points in lines]
    placed = spread([loss for _, loss, _ in ends], gap)
    for (name, color, _), (tokens, loss, _), y in zip(lines, ends, placed, strict=True):
        ax.annotate(name, (tokens, loss), xytext=(1.03, (y - low) / (high - low)), textcoords="axes fraction",
                    va="center", fontsize=8, color=color, annotation_clip=False,
                    arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 0,
                                "shrinkB": 3})  # fmt: skip
