"""What `distillaw large-batch` prints: the plan before, a line per cell meanwhile, the columns after."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distillaw.cli.console import console, numbers_table, print_table
from distillaw.cli.progress import Meter
from distillaw.large_batch.images.columns import Cell, notes
from distillaw.large_batch.images.study import Forecast, Plan, wall_seconds
from distillaw.quantities import format_count, format_seconds

STEP_IMAGES = 100
"""A step costs about as much as so many images besides its own; for the time that is left."""


class CellWatch:
    """A line for each cell that ends; how far all are goes to a meter, in images."""

    def __init__(self, plan: Plan, meter: Meter) -> None:
        todo = [cell for cell in plan.cells if not plan.is_done(cell)]
        self._meter, self._count, self._ended = meter, len(todo), 0
        self._under_way: dict[Cell, float] = {}
        done = len(plan.cells) - len(todo)
        kept = f"; {done} are done already" if done else ""
        meter.note(f"{plan.study.name}: {len(todo)} cells to train{kept}")
        meter.expect(sum(map(_work, todo)))

    def finished(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """One line."""
        self._meter.advance(_work(cell) - self._under_way.pop(cell, 0.0))
        self._ended += 1
        if result["state"] == "diverged":
            came = f"diverged: {result['error']}"
        elif "accuracy" in result:
            came = f"{result['accuracy']:.2f} %"
        else:
            came = "walked"
        self._meter.note(f"{self._ended}/{self._count} {cell.column} seed {cell.seed}: {came}, "
                         f"{format_seconds(result['seconds'])}")  # fmt: skip

    def progressed(self, cell: Cell, step: int) -> None:
        """The meter moves."""
        done = _work(cell) * step / cell.steps
        self._meter.advance(done - self._under_way.get(cell, 0.0))
        self._under_way[cell] = done


def _work(cell: Cell) -> float:
    return float(cell.steps * (cell.batch + STEP_IMAGES))


def print_dry(plan: Plan, forecasts: Sequence[Forecast], *, workers: int, device: str) -> None:
    """The cells of one seed, and what all will take."""
    output, study = console(), plan.study
    assert plan.data is not None
    output.print(f"{study.name}: {study.network.kind}, {format_count(forecasts[0].params)} parameters, "
                 f"{len(plan.data.train):,} training and {len(plan.data.test):,} test images "
                 f"({plan.data.format})", markup=False)  # fmt: skip
    table = numbers_table(
        "column", ">batch", ">ghost", ">peak rate", ">steps", ">at the peak", ">epochs", ">s/cell"
    )
    for forecast in forecasts:
        cell = forecast.cell
        seconds = f"{'~' if forecast.is_scaled else ''}{forecast.seconds:.0f}"
        table.add_row(
            cell.column, str(cell.batch), str(cell.ghost or "-"), f"{cell.peak_lr:.4g}", f"{cell.steps:,}",
            f"{cell.first_phase:,}", f"{forecast.epochs:.4g}", seconds,
        )  # fmt: skip
    print_table(table)
    todo = [cell for cell in plan.cells if not plan.is_done(cell)]
    seconds = wall_seconds(todo, forecasts, workers=workers)
    output.print(f"{len(todo)} of {len(plan.cells)} cells to train, {study.seeds} seeds: about "
                 f"{format_seconds(seconds)} with {workers} at once on {device}", markup=False)  # fmt: skip
    if any(forecast.is_scaled for forecast in forecasts):
        output.print(
            "~ not timed: the small batch's time, scaled by the images; likely too much", markup=False
        )
    for note in notes(study, list(plan.cells), images=len(plan.data.train)):
        output.print(f"note: {note}", markup=False)


def dry_json(plan: Plan, forecasts: Sequence[Forecast], *, workers: int, device: str) -> dict[str, object]:
    """The same as one object."""
    assert plan.data is not None
    todo = [cell for cell in plan.cells if not plan.is_done(cell)]
    return {
        "name": plan.study.name, "params": forecasts[0].params, "device": device, "workers": workers,
        "columns": [
            {**asdict(forecast.cell), "epochs": forecast.epochs, "seconds_per_step": forecast.seconds_per_step,
             "is_scaled": forecast.is_scaled, "seconds": forecast.seconds}
            for forecast in forecasts
        ],
        "cells": len(plan.cells), "cells_to_train": len(todo),
        "seconds": wall_seconds(todo, forecasts, workers=workers),
        "notes": notes(plan.study, list(plan.cells), images=len(plan.data.train)),
    }  # fmt: skip


def print_summary(summary: Mapping[str, Any], report: Path) -> None:
    """Columns with intervals, comparisons, what reproduces."""
    output = console()
    output.print(summary["headline"], markup=False)
    table = numbers_table(
        "column", ">seeds", ">accuracy %", ">95 % interval", ">paper", ">gap closed", ">training %"
    )
    for score in summary["columns"]:
        closed = score["closed"]
        table.add_row(
            score["column"], str(len(score["accuracy"])), f"{score['mean']:.2f}", _range(score["interval"], 2),
            "-" if score["paper"] is None else f"{score['paper']:.2f}",
            "-" if closed is None else f"{100 * closed:.0f} %", f"{score['train']:.2f}",
        )  # fmt: skip
    print_table(table)
    for line in (*summary["sentences"], *summary["verdicts"], *summary["walk_sentences"]):
        output.print(f"- {line}", markup=False)
    for line in summary["problems"]:
        output.print(f"mind: {line}", markup=False)
    output.print(f"report: {report}", markup=False)


def _range(interval: Sequence[float] | None, digits: int) -> str:
    return "-" if interval is None else f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"
