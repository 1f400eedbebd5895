"""The tables of a large-batch report."""

from collections.abc import Mapping, Sequence
from typing import Any

from distillaw.large_batch.images.results import ColumnScore, Gain, Mean, Walk
from distillaw.large_batch.images.spec import Paper, PaperRow
from distillaw.large_batch.images.words import gain_name, outcome
from distillaw.report.content import Table, Value, number


def column_table(scores: Sequence[ColumnScore], row: PaperRow | None) -> Table:
    """Ours beside the paper's, one row per column."""
    paper = [] if row is None else [f"paper, {row.network}, %"]
    columns = ["column", "ours, %", *paper, "gap closed", *["paper"] * len(paper), "training, %",
               "fresh statistics, %", "s.d. of seeds"]  # fmt: skip
    return Table(columns=columns, rows=[_column_row(score, row) for score in scores])


def _column_row(score: ColumnScore, row: PaperRow | None) -> list[Value]:
    printed = [] if row is None else [number(row.accuracy.get(score.column), 2)]
    closed = [] if row is None else [_share(_paper_share(row, score.column))]
    own = f"{score.mean:.2f}{_bracket(_range(score.interval, 2))}"
    return [
        _text(score.column), Value(text=own, sort=score.mean), *printed, _share(score.closed, _share_range(score)),
        *closed, number(score.train, 2), number(score.fresh, 2), number(score.seed_spread, 2),
    ]  # fmt: skip


def gain_table(gains: Sequence[Gain]) -> Table:
    """Every comparison."""
    rows = [
        [_text(gain_name(gain)), number(gain.mean, 2), _text(_range(gain.interval, 2)), number(gain.se_seeds, 3),
         number(gain.se_images, 3), Value(text="" if gain.p is None else _p(gain.p), sort=gain.p or 0.0),
         _text("yes" if gain.is_significant else "no"), number(gain.paper, 2), _text(outcome(gain))]
        for gain in gains
    ]  # fmt: skip
    return Table(columns=["comparison", "points", "95 % interval", "s.e. of seeds", "s.e. of images", "p",
                          "significant", "paper", ""], rows=rows)  # fmt: skip


def walk_table(walks: Sequence[Walk], paper: Paper) -> Table:
    """Both fits, means over seeds."""
    printed = {entry.batch: entry for entry in paper.distances}
    rows = []
    for walk in walks:
        fits = list(walk.fits.values())
        entry = printed.get(walk.batch)
        end = None if entry is None else entry.after if walk.is_corrected else entry.before
        rows.append([
            _text(str(walk.batch)), _text("after" if walk.is_corrected else "before"), _text(walk.column),
            Value(text=f"{walk.last_step:,}", sort=walk.last_step), number(_average([f.a for f in fits]), 3),
            *_mean(walk.slope, 3), number(_average([f.log_r2 for f in fits]), 4), *_mean(walk.power, 3),
            number(_average([f.power_r2 for f in fits]), 4),
            Value(text=f"{walk.log_wins} of {len(fits)}", sort=walk.log_wins),
            number(walk.end.value, 2), number(walk.first_tensor_slope.value, 3), number(end, 1),
        ])  # fmt: skip
    columns = ["batch", "correction", "cells", "last step", "a", "b", "95 % interval", "R² of a + b ln t", "p",
               "95 % interval", "R² of c t^p", "log better", "distance at the end", "b, first tensor",
               "paper's Figure 2: end (Resnet44)"]  # fmt: skip
    return Table(columns=columns, rows=rows)


def cell_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Every cell that ended."""
    rows = [
        [_text(r["column"]), Value(text=str(r["seed"]), sort=r["seed"]), Value(text=str(r["batch"]), sort=r["batch"]),
         Value(text=str(r["ghost"] or ""), sort=r["ghost"]), Value(text=f"{r['peak_lr']:.4g}", sort=r["peak_lr"]),
         Value(text=f"{r['steps']:,}", sort=r["steps"]), number(r.get("accuracy"), 2), number(r.get("loss"), 4),
         number(r.get("train_accuracy"), 2), number(r.get("fresh_accuracy"), 2), number(r["cpu_seconds"], 0),
         _text(r["state"])]
        for r in results
    ]  # fmt: skip
    return Table(columns=["column", "seed", "batch", "ghost", "peak rate", "steps", "test accuracy, %", "test loss",
                          "training accuracy, %", "statistics re-estimated, %", "CPU seconds", "state"],
                 rows=rows)  # fmt: skip


def _text(text: str) -> Value:
    return Value(text=text, kind="text")


def _range(interval: tuple[float, float] | None, digits: int) -> str:
    return "" if interval is None else f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"


def _bracket(text: str) -> str:
    return f" ({text})" if text else ""


def _share(share: float | None, interval: str = "") -> Value:
    text = "" if share is None else f"{100 * share:.0f} %{_bracket(interval)}"
    return Value(text=text, sort=share or 0.0)


def _share_range(score: ColumnScore) -> str:
    if score.closed is None:
        return ""
    if score.closed_interval is None:
        return "unbounded"
    low, high = score.closed_interval
    return f"{100 * low:.0f} to {100 * high:.0f} %"


def _paper_share(row: PaperRow, column: str) -> float | None:
    return row.gap_closed(column) if column in row.accuracy and column not in ("SB", "LB") else None


def _mean(mean: Mean, digits: int) -> tuple[Value, Value]:
    return number(mean.value, digits), _text(_range(mean.interval, digits))


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _p(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"
