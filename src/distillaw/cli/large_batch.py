"""`distillaw large-batch run`: the experiments of the large-batch paper on images, from a TOML file."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from distillaw.cli.console import print_table
from distillaw.cli.machine import count_workers, torch_device
from distillaw.cli.options import OutFolder, values_of
from distillaw.cli.output import Output, same_command
from distillaw.cli.progress import metered
from distillaw.errors import ConfigError
from distillaw.large_batch.images.spec import ColumnRun, read_study
from distillaw.quantities import format_count, format_seconds
from distillaw.runs.pace import Meter
from distillaw.table import Table, number, text

if TYPE_CHECKING:
    from distillaw.large_batch.images.study import Forecast, ImagePlan


app = App(name="large-batch", help="Compare large with small batches on images, column by column: Hoffer et al. 2017.")

CUDA_WORKERS = 4
"""Processes on one GPU: small networks leave it idle between kernels."""
STEP_IMAGES = 100
"""A step costs about as much as so many images besides its own; for the time that is left."""


@app.command
def run(
    spec: Path,
    *,
    data: Path,
    out: OutFolder,
    device: str = "auto",
    workers: int = 0,
    seeds: int | None = None,
    dry_run: bool = False,
    output: Output = Output(),
) -> None:
    """Run a study of columns SB, LB, +LR, +GBN, +RA with seeds, and write its report.

    The same command goes on where it was stopped; a finished cell is never run again.

    Args:
        spec: the study's TOML file, e.g. studies/large-batch/mnist_f1_demo.toml.
        data: images: an .npz file, MNIST's idx files, CIFAR's batches, Parquet or Arrow of Hugging Face, or
            train/CLASS/*.png beside test/.
        out: folder of the study.
        device: cpu, cuda, cuda:N or auto.
        workers: cells at once; 0: one per core, or four per GPU.
        seeds: another number of seeds than the file's.
        dry_run: say the cells, their settings and, from a few timed steps, how long they take, and stop.
    """
    study = read_study(spec)
    _require_torch()
    from distillaw.large_batch.images.study import foresee, make_plan, run_study
    from distillaw.report.large_batch import summarise, write_large_batch_report

    study = study if seeds is None else replace(study, seeds=seeds)
    place = torch_device(device)
    plan, count = make_plan(study, data, out), _count(workers, place)
    if dry_run:
        forecasts = foresee(plan, device=place)
        found = _foreseen(plan, forecasts, workers=count, device=place)
        output.answer(found, _print_foreseen, plan, forecasts, found)
        output.suggest(same_command(without="--dry-run"))
        return
    with metered(study.name, 0.0, "images", quiet=output.quiet) as meter:
        watch = CellWatch(plan, meter)
        told = {"finished": watch.finished, "progressed": watch.progressed}
        run_study(plan, device=place, workers=count, command=same_command(), **told)
    path = write_large_batch_report(out)
    summary = summarise(out)
    output.answer({**summary, "report": str(path)}, _print_summary, summary, path)
    output.suggest(f"distillaw report {shlex.quote(str(out))}")


@app.command
def landscape(
    spec: Path,
    *,
    data: Path,
    out: OutFolder,
    device: str = "auto",
    steps: int = 1000,
    farthest: float = 10.0,
    images: int = 256,
    seed: int = 0,
    output: Output = Output(),
) -> None:
    """Measure the exponent alpha of the loss around fresh weights, as the paper's appendix does; write landscape.json.

    A random walk on a potential of exponent alpha goes as (log t)^(2/alpha); the paper finds 2.

    Args:
        spec: the study's TOML file, whose network and images are taken.
        data: as for `run`.
        out: folder for landscape.json; that of the study shows it in its report.
        device: cpu, cuda, cuda:N or auto.
        steps: random directions, one distance each.
        farthest: largest distance.
        images: training images that the loss is taken on.
        seed: of weights and directions.
    """
    study = read_study(spec)
    _require_torch()
    from distillaw.large_batch.images.study import measure_landscape
    from distillaw.large_batch.images.words import alpha_sentence
    from distillaw.report.large_batch import landscape_table

    asked = {"steps": steps, "farthest": farthest, "images": images, "seed": seed}
    found = measure_landscape(study, data, out, **asked, device=torch_device(device), command=same_command())

    def show() -> None:
        print(f"{study.network.kind}, {format_count(found['params'])} parameters. {alpha_sentence(found)}")
        print_table(landscape_table(found))

    output.answer(found, show)


def _count(asked: int, device: str) -> int:
    """Processes to start."""
    if asked or not device.startswith("cuda"):
        return count_workers(asked)
    import torch

    return CUDA_WORKERS * (torch.cuda.device_count() if device == "cuda" else 1)


def _require_torch() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "matplotlib", "jinja2") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f'a large-batch study needs {", ".join(missing)}: pip install "distillaw[train,report]" (torch first)'
        )


class CellWatch:
    """A line for each cell that ends; how far all are goes to a meter, in images."""

    def __init__(self, plan: "ImagePlan", meter: Meter) -> None:
        todo = plan.todo
        self._meter, self._count, self._ended = meter, len(todo), 0
        self._under_way: dict[ColumnRun, float] = {}
        done = len(plan.cells) - len(todo)
        kept = f"; {done} are done already" if done else ""
        meter.note(f"{plan.study.name}: {len(todo)} cells to train{kept}")
        meter.expect(sum(map(_work, todo)))

    def finished(self, cell: "ColumnRun", result: Mapping[str, Any]) -> None:
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
            f"{self._ended}/{self._count} {cell.column} seed {cell.seed}: {came}, {format_seconds(result['seconds'])}"
        )

    def progressed(self, cell: "ColumnRun", step: int) -> None:
        """The meter moves."""
        done = _work(cell) * step / cell.steps
        self._meter.advance(done - self._under_way.get(cell, 0.0))
        self._under_way[cell] = done


def _work(cell: "ColumnRun") -> float:
    return float(cell.steps * (cell.batch + STEP_IMAGES))


def _foreseen(plan: "ImagePlan", forecasts: "Sequence[Forecast]", *, workers: int, device: str) -> dict[str, Any]:
    """The columns, and what all cells will take."""
    from distillaw.large_batch.images.study import wall_seconds

    return {
        "name": plan.study.name,
        "params": forecasts[0].params,
        "device": device,
        "workers": workers,
        "columns": [
            asdict(each.cell) | values_of(each, "epochs seconds_per_step is_scaled seconds") for each in forecasts
        ],
        "cells": len(plan.cells),
        "cells_to_train": len(plan.todo),
        "seconds": wall_seconds(plan.todo, forecasts, workers=workers),
        "notes": plan.notes,
    }


def _print_foreseen(plan: "ImagePlan", forecasts: "Sequence[Forecast]", found: Mapping[str, Any]) -> None:
    study, images = plan.study, plan.data
    assert images is not None
    print(
        f"{study.name}: {study.network.kind}, {format_count(found['params'])} parameters, "
        f"{len(images.train):,} training and {len(images.test):,} test images ({images.format})"
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
    print(
        f"{found['cells_to_train']} of {found['cells']} cells to train, {study.seeds} seeds: about "
        f"{format_seconds(found['seconds'])} with {found['workers']} at once on {found['device']}"
    )
    if any(forecast.is_scaled for forecast in forecasts):
        print("~ not timed: the small batch's time, scaled by the images; likely too much")
    for note in found["notes"]:
        print(f"note: {note}")


def _print_summary(summary: Mapping[str, Any], report: Path) -> None:
    """Columns with intervals, comparisons, what reproduces."""
    print(summary["headline"])
    columns = [
        text("column", of=itemgetter("column")),
        number("seeds", of=lambda score: len(score["accuracy"])),
        number("accuracy %", ".2f", of=itemgetter("mean")),
        number("95 % interval", "{0[0]:.2f} to {0[1]:.2f}".format, of=itemgetter("interval"), missing="-"),
        number("paper", ".2f", of=itemgetter("paper"), missing="-"),
        number("gap closed", "{:.0%}".format, of=itemgetter("closed"), missing="-"),
        number("training %", ".2f", of=itemgetter("train")),
    ]
    print_table(Table.of(columns, summary["columns"]))
    for line in (*summary["sentences"], *summary["verdicts"], *summary["walk_sentences"]):
        print(f"- {line}")
    for line in summary["problems"]:
        print(f"mind: {line}")
    print(f"report: {report}")
