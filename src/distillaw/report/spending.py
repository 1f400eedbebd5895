"""Where a study's compute went, and the search for learning rate and batch that came before it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from distillaw.planning.record import Run, StudyRecord
from distillaw.quantities import format_count
from distillaw.report.svg import INK, MUTED, PAPER, SERIES, Picture, new_figure, set_title, to_svg

COOLDOWN = 0.2
"""Share of a token budget spent cooling down, where study.json does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """One part of the bill."""

    part: str
    flop: float
    seconds: float


def executed_tokens(budgets: Sequence[int], cooldown: float) -> float:
    """Tokens that one trunk with cooldown branches really trains on (spec experiments.md section 6.1).

    (1 - c) D_max + c sum_i D_i
    """
    return (1 - cooldown) * max(budgets) + cooldown * sum(budgets)


def compute_spent(record: StudyRecord) -> list[Spent]:
    """FLOP executed by part, trunks counted once, tuning included; measured seconds beside them."""
    cooldown = _cooldown(record)
    trunks: dict[str, list[Run]] = {}
    for run in record.runs:
        trunks.setdefault(str(run.row.get("group") or run.run_id), []).append(run)
    found: dict[str, list[float]] = {part: [0.0, 0.0] for part in PARTS}
    for runs in trunks.values():
        longest = max(runs, key=lambda run: run.tokens)
        share = executed_tokens([run.tokens for run in runs], cooldown) / longest.tokens
        for part, flop in _parts(longest):
            if math.isfinite(flop):
                found[part][0] += share * flop
        seconds = longest.number("seconds")
        found[_parts(longest)[0][0]][1] += seconds * share if math.isfinite(seconds) else 0.0
    return [Spent(part=part, flop=flop, seconds=s) for part, (flop, s) in found.items() if flop > 0]


PARTS = ("teacher training", "students without a teacher", "distilled students", "teacher logits", "search")


def _parts(run: Run) -> list[tuple[str, float]]:
    train, logits = run.number("train_flops"), run.number("teacher_flops_spent")
    if not math.isfinite(logits):  # a table from before teachers were shared
        logits = run.number("teacher_flops")
    if run.purpose == "tuning":
        return [("search", train + (logits if math.isfinite(logits) else 0.0))]
    if run.row.get("role") == "teacher":
        return [("teacher training", train)]
    if run.teacher_run is None:
        return [("students without a teacher", train)]
    return [("distilled students", train), ("teacher logits", logits)]


def _cooldown(record: StudyRecord) -> float:
    spec = record.info.get("spec")
    training = spec.get("training") if isinstance(spec, Mapping) else None
    share = training.get("cooldown") if isinstance(training, Mapping) else None
    return float(share) if isinstance(share, int | float) and 0 < share < 1 else COOLDOWN


def flop_bars(spent: Sequence[Spent]) -> Picture | None:
    """FLOP by part as plain bars with their numbers written on."""
    if not spent:
        return None
    total = sum(s.flop for s in spent)
    figure, axes = new_figure(1, 1, width=7.0, height=0.36 * len(spent) + 0.75)
    ax = axes[0][0]
    ax.grid(False)
    rows = range(len(spent), 0, -1)
    ax.barh(list(rows), [s.flop for s in spent], height=0.62, color=SERIES[0], alpha=0.85)
    for y, s in zip(rows, spent, strict=True):
        ax.annotate(f"{flop_text(s.flop)} ({100 * s.flop / total:.0f} %)", (s.flop, y), xytext=(5, 0), va="center",
                    textcoords="offset points", fontsize=8.5, color=INK)  # fmt: skip
    ax.set_yticks(list(rows), [s.part for s in spent])
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(0, max(s.flop for s in spent) * 1.22)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_text(value)))
    ax.set_xlabel("FLOP executed")
    name = "flop"
    alt = f"FLOP executed, {flop_text(total)} in all: " + ", ".join(
        f"{s.part} {flop_text(s.flop)}" for s in spent
    )
    return Picture(
        name=name, title="Where the compute went", alt=alt, svg=to_svg(figure, name=name, alt=alt),
        caption=f"Model FLOP, {flop_text(total)} in all. Token budgets of one trunk share its training, which is "
        "counted once. Forward passes of the teachers (their logits) are counted where students were distilled.",
    )  # fmt: skip


def power_text(value: float) -> str:
    """A number with its power of ten as people write it: 3.2 x 10^13, typographically."""
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    mantissa = value / 10.0**exponent
    digits = "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(d)] for d in str(abs(exponent)))
    power = f"10{'⁻' * (exponent < 0)}{digits}"
    return power if abs(mantissa - 1) < 1e-6 else f"{mantissa:.3g} × {power}"


def flop_text(value: float) -> str:
    """A FLOP count with two digits after the point: 1.66 x 10^11 FLOP."""
    return f"{power_text(float(f'{value:.3g}'))} FLOP"


def tuning_curves(tuning: Mapping[str, object]) -> Picture | None:
    """The searches: loss against learning rate (above) and batch (below), one panel per arm and size."""
    arms = tuning.get("arms")
    found = [a for a in arms if isinstance(a, Mapping)] if isinstance(arms, Sequence) else []
    found = [a for a in found if _grid(a, "learning_rate", "peak_lr") or _grid(a, "batch", "batch_tokens")]
    if not found:
        return None
    figure, axes = new_figure(2, len(found), width=2.35 * len(found) + 0.5, height=4.3)
    words = []
    for column, arm in enumerate(found):
        for row, (search, key, label) in enumerate(_SEARCHES):
            words.append(_tuning_panel(axes[row][column], arm, search, key, label))
            if column == 0:
                axes[row][column].set_ylabel("loss, nats/token")
        set_title(axes[0][column], f"{arm.get('arm')}, {_size(arm)}")
    name = "tuning"
    alt = "Search for learning rate and batch. " + " ".join(word.replace("!", ".") for word in words)
    doubts = [word.rstrip("!") for word in words if word.endswith("!")]
    verdict = "Every chosen value is the lowest tried and lies inside its search range."
    if doubts:
        verdict = f"Not at an interior lowest value: {'; '.join(doubts)}."
    return Picture(
        name=name, title="Search for learning rate and batch", alt=alt, svg=to_svg(figure, name=name, alt=alt),
        caption=f"{verdict} An untuned rate fakes a capacity gap, so both arms are tuned alike at the smallest and the "
        "largest student and interpolated between; the batch is one for the whole study. The chosen value is filled; "
        "missing points diverged.",
    )  # fmt: skip


_SEARCHES = (("learning_rate", "peak_lr", "peak learning rate"), ("batch", "batch_tokens", "batch, tokens"))


def _size(arm: Mapping) -> str:
    params = arm.get("params")
    return str(arm.get("size") or (format_count(float(params)) if isinstance(params, int | float) else ""))


def _grid(arm: Mapping, search: str, key: str) -> list[tuple[float, float]]:
    found = arm.get(search)
    grid = found.get("grid", []) if isinstance(found, Mapping) else []
    points = [(e.get(key), e.get("loss")) for e in grid if isinstance(e, Mapping)]
    return sorted((float(x), float(y)) for x, y in points if x is not None and y is not None)


def _tuning_panel(ax: Axes, arm: Mapping, search: str, key: str, label: str) -> str:
    points = _grid(arm, search, key)
    ax.set_xlabel(label)
    if not points:
        ax.set_axis_off()
        return ""
    chosen = arm[search].get("best")
    x, y = zip(*points, strict=True)
    where, is_fine = _where(points, chosen, interior=bool(arm[search].get("interior")))
    ax.plot(x, y, color=SERIES[0])
    for px, py in points:
        is_chosen = chosen is not None and math.isclose(px, float(chosen), rel_tol=1e-6)
        ax.plot(px, py, "o", markersize=6, markeredgecolor=SERIES[0], markeredgewidth=1.3,
                markerfacecolor=SERIES[0] if is_chosen else PAPER)  # fmt: skip
        if is_chosen:
            ax.annotate(where, (px, py), xytext=(0, -9), ha="center", va="top", textcoords="offset points",
                        fontsize=8, color=INK if is_fine else SERIES[1])  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(list(x)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.2g}" if key == "peak_lr" else f"{v:,.0f}"))
    ax.tick_params(axis="x", labelsize=8, colors=MUTED)
    ax.margins(x=0.14, y=0.3)
    best = "none" if chosen is None else f"{float(chosen):.3g}"
    return f"{arm.get('arm')} {_size(arm)}: {label} {best}, {where}{'.' if is_fine else '!'}"


def _where(points: Sequence[tuple[float, float]], chosen: object, *, interior: bool) -> tuple[str, bool]:
    """Where the chosen value stands among those tried, and whether that is as it should be."""
    lowest = min(loss for _, loss in points)
    loss = next(
        (y for x, y in points if isinstance(chosen, int | float) and math.isclose(x, chosen, rel_tol=1e-6)),
        None,
    )
    if loss is not None and loss > lowest + 1e-9:
        return f"{loss - lowest:.3f} above the lowest", False
    return ("interior", True) if interior else ("at the edge", False)
