"""The tables of a large-batch report."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from distillaw.large_batch.images.results import ColumnScore, Gain, ImageWalk
from distillaw.large_batch.images.spec import Paper, PaperRow
from distillaw.large_batch.images.words import gain_name, outcome
from distillaw.table import Column, Table, number, text


def column_table(scores: Sequence[ColumnScore], row: PaperRow | None) -> Table:
    """Ours beside the paper's, one row per column."""

    def paper(score: ColumnScore) -> float | None:
        return row.accuracy.get(score.column) if row else None

    def paper_share(score: ColumnScore) -> float | None:
        return _paper_share(row, score.column) if row else None

    printed = [number(f"paper, {row.network}", ".2f", unit="%", of=paper)] if row else []
    printed_share = [number("paper", _share, of=paper_share)] if row else []
    return Table.of(
        [
            text("column", of=attrgetter("column")),
            number("ours", _own, unit="%", sort=attrgetter("mean")),
            *printed,
            number("gap closed", _closed, sort=attrgetter("closed")),
            *printed_share,
            number("training", ".2f", unit="%", of=attrgetter("train")),
            number("fresh statistics", ".2f", unit="%", of=attrgetter("fresh")),
            number("s.d. of seeds", ".2f", of=attrgetter("seed_spread")),
        ],
        scores,
    )


def gain_table(gains: Sequence[Gain]) -> Table:
    """Every comparison."""
    return Table.of(
        [
            text("comparison", of=gain_name),
            number("points", ".2f", of=attrgetter("mean")),
            text("95 % interval", of=lambda gain: _range(gain.interval, 2)),
            number("s.e. of seeds", ".3f", of=attrgetter("se_seeds")),
            number("s.e. of images", ".3f", of=attrgetter("se_images")),
            number("p", lambda p: "< 0.0001" if p < 1e-4 else f"{p:.4f}", of=attrgetter("p")),
            text("significant", of=lambda gain: "yes" if gain.is_significant else "no"),
            number("paper", ".2f", of=attrgetter("paper")),
            text("", of=outcome),
        ],
        gains,
    )


def walk_table(walks: Sequence[ImageWalk], paper: Paper) -> Table:
    """Both fits, means over seeds."""
    printed = {entry.batch: entry for entry in paper.distances}

    def printed_end(walk: ImageWalk) -> float | None:
        entry = printed.get(walk.batch)
        return None if entry is None else entry.after if walk.is_corrected else entry.before

    def mean_of_fits(name: str) -> Callable[[ImageWalk], float]:
        return lambda walk: sum(getattr(fit, name) for fit in walk.fits.values()) / len(walk.fits)

    def interval(name: str) -> Column:
        return text("95 % interval", of=lambda walk: _range(getattr(walk, name).interval, 3))

    return Table.of(
        [
            text("batch", of=lambda walk: str(walk.batch)),
            text("correction", of=lambda walk: "after" if walk.is_corrected else "before"),
            text("cells", of=attrgetter("column")),
            number("last step", ",", of=attrgetter("last_step")),
            number("a", ".3f", of=mean_of_fits("a")),
            number("b", ".3f", of=attrgetter("slope.value")),
            interval("slope"),
            number("R² of a + b ln t", ".4f", of=mean_of_fits("log_r2")),
            number("p", ".3f", of=attrgetter("power.value")),
            interval("power"),
            number("R² of c t^p", ".4f", of=mean_of_fits("power_r2")),
            number("log better", _log_wins, sort=attrgetter("log_wins")),
            number("distance at the end", ".2f", of=attrgetter("end.value")),
            number("b, first tensor", ".3f", of=attrgetter("first_tensor_slope.value")),
            number("paper's Figure 2: end (Resnet44)", ".1f", of=printed_end),
        ],
        walks,
    )


def cell_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Every cell that ended."""

    def key(name: str) -> Callable[[Mapping[str, Any]], Any]:
        return lambda result: result.get(name)

    return Table.of(
        [
            text("column", of=key("column")),
            number("seed", of=key("seed")),
            number("batch", of=key("batch")),
            number("ghost", lambda ghost: str(ghost or ""), of=key("ghost")),
            number("peak rate", ".4g", of=key("peak_lr")),
            number("steps", ",", of=key("steps")),
            number("test accuracy", ".2f", unit="%", of=key("accuracy")),
            number("test loss", ".4f", of=key("loss")),
            number("training accuracy", ".2f", unit="%", of=key("train_accuracy")),
            number("statistics re-estimated", ".2f", unit="%", of=key("fresh_accuracy")),
            number("CPU seconds", ".0f", of=key("cpu_seconds")),
            text("state", of=key("state")),
        ],
        results,
    )


def _own(score: ColumnScore) -> str:
    return f"{score.mean:.2f}{_bracket(_range(score.interval, 2))}"


def _closed(score: ColumnScore) -> str:
    return "" if score.closed is None else _share(score.closed) + _bracket(_share_range(score))


def _log_wins(walk: ImageWalk) -> str:
    return f"{walk.log_wins} of {len(walk.fits)}"


def _share(share: float) -> str:
    return f"{100 * share:.0f} %"


def _range(interval: tuple[float, float] | None, digits: int) -> str:
    return "" if interval is None else f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"


def _bracket(text: str) -> str:
    return f" ({text})" if text else ""


def _share_range(score: ColumnScore) -> str:
    if score.closed is None:
        return ""
    if score.closed_interval is None:
        return "unbounded"
    low, high = score.closed_interval
    return f"{100 * low:.0f} to {100 * high:.0f} %"


def _paper_share(row: PaperRow, column: str) -> float | None:
    return row.gap_closed(column) if column in row.accuracy and column not in ("SB", "LB") else None
