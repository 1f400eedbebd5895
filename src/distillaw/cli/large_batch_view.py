"""What `distillaw large-batch` prints: the plan before, a line per cell meanwhile, the columns after."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

from distillaw.cli.console import print_table
from distillaw.cli.progress import Meter
from distillaw.large_batch.images.columns import ColumnRun, notes
from distillaw.large_batch.images.study import Forecast, ImagePlan, wall_seconds
from distillaw.quantities import format_count, format_seconds
from distillaw.table import Table, number, text

STEP_IMAGES = 100
"""A step costs about as much as so many images besides its own; for the time that is left."""


class CellWatch:
    """A line for each cell that ends; how far all are goes to a meter, in images."""

    def __init__(self, plan: ImagePlan, meter: Meter) -> None:
        todo = [cell for cell in plan.cells if not plan.is_done(cell)]
        self._meter, self._count, self._ended = meter, len(todo), 0
        self._under_way: dict[ColumnRun, float] = {}
        done = len(plan.cells) - len(todo)
        kept = f"; {done} are done already" if done else ""
        meter.note(f"{plan.study.name}: {len(todo)} cells to train{kept}")
        meter.expect(sum(map(_work, todo)))

    def finished(self, cell: ColumnRun, result: Mapping[str, Any]) -> None:
        """One line."""
        self._meter.advance(_work(cell) - self._under_way.pop(cell, 0.0))
        self._ended += 1
        if result["state"] == "diverged":
            came = f"diverged: {result['error']}"
        elif "accuracy" in result:
            came = f"{result['accuracy']:.2f} %"
        else:
            came = "walked"
        self._meter.note(
            f"{self._ended}/{self._count} {cell.column} seed {cell.seed}: {came}, "
            f"{format_seconds(result['seconds'])}"
        )

    def progressed(self, cell: ColumnRun, step: int) -> None:
        """The meter moves."""
        done = _work(cell) * step / cell.steps
        self._meter.advance(done - self._under_way.get(cell, 0.0))
        self._under_way[cell] = done


def _work(cell: ColumnRun) -> float:
    return float(cell.steps * (cell.batch + STEP_IMAGES))


def print_dry(plan: ImagePlan, forecasts: Sequence[Forecast], *, workers: int, device: str) -> None:
    """The cells of one seed, and what all will take."""
    study = plan.study
    assert plan.data is not None
    print(
        f"{study.name}: {study.network.kind}, {format_count(forecasts[0].params)} parameters, "
        f"{len(plan.data.train):,} training and {len(plan.data.test):,} test images "
        f"({plan.data.format})"
    )
    columns = [
        text("column", of=attrgetter("cell.column")),
        number("batch", of=attrgetter("cell.batch")),
        number("ghost", of=lambda forecast: forecast.cell.ghost or None, missing="-"),
        number("peak rate", ".4g", of=attrgetter("cell.peak_lr")),
        number("steps", ",", of=attrgetter("cell.steps")),
        number("at the peak", ",", of=attrgetter("cell.first_phase")),
        number("epochs", ".4g", of=attrgetter("epochs")),
        number("s/cell", of=lambda forecast: f"{'~' if forecast.is_scaled else ''}{forecast.seconds:.0f}"),
    ]
    print_table(Table.of(columns, forecasts))
    todo = [cell for cell in plan.cells if not plan.is_done(cell)]
    seconds = wall_seconds(todo, forecasts, workers=workers)
    print(
        f"{len(todo)} of {len(plan.cells)} cells to train, {study.seeds} seeds: about "
        f"{format_seconds(seconds)} with {workers} at once on {device}"
    )
    if any(forecast.is_scaled for forecast in forecasts):
        print("~ not timed: the small batch's time, scaled by the images; likely too much")
    for note in notes(study, list(plan.cells), images=len(plan.data.train)):
        print(f"note: {note}")


def dry_json(
    plan: ImagePlan, forecasts: Sequence[Forecast], *, workers: int, device: str
) -> dict[str, object]:
    """The same as one object."""
    assert plan.data is not None
    todo = [cell for cell in plan.cells if not plan.is_done(cell)]
    return {
        "name": plan.study.name,
        "params": forecasts[0].params,
        "device": device,
        "workers": workers,
        "columns": [
            {
                **asdict(forecast.cell),
                "epochs": forecast.epochs,
                "seconds_per_step": forecast.seconds_per_step,
                "is_scaled": forecast.is_scaled,
                "seconds": forecast.seconds,
            }
            for forecast in forecasts
        ],
        "cells": len(plan.cells),
        "cells_to_train": len(todo),
        "seconds": wall_seconds(todo, forecasts, workers=workers),
        "notes": notes(plan.study, list(plan.cells), images=len(plan.data.train)),
    }


def print_summary(summary: Mapping[str, Any], report: Path) -> None:
    """Columns with intervals, comparisons, what reproduces."""
    print(summary["headline"])
    columns = [
        text("column", of=itemgetter("column")),
        number("seeds", of=lambda score: len(score["accuracy"])),
        number("accuracy %", ".2f", of=itemgetter("mean")),
        number("95 % interval", _range, of=itemgetter("interval"), missing="-"),
        number("paper", ".2f", of=itemgetter("paper"), missing="-"),
        number("gap closed", lambda closed: f"{100 * closed:.0f} %", of=itemgetter("closed"), missing="-"),
        number("training %", ".2f", of=itemgetter("train")),
    ]
    print_table(Table.of(columns, summary["columns"]))
    for line in (*summary["sentences"], *summary["verdicts"], *summary["walk_sentences"]):
        print(f"- {line}")
    for line in summary["problems"]:
        print(f"mind: {line}")
    print(f"report: {report}")


def _range(interval: Sequence[float]) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}"
