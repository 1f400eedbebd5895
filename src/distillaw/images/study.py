"""Run a study: every cell that has no result yet, several at once in processes, and stop at any moment.

One process per core (CPU) or a few per GPU; each reads the data once and trains one cell after the other. A cell that
diverges is a result and does not stop the others; a process that dies stops the study, and the same command goes on.
"""

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from distillaw.images.columns import Cell, check_channels, notes, plan_cells
from distillaw.images.dataset import ImageData
from distillaw.images.files import load_images
from distillaw.images.pool import Beat, run_all
from distillaw.images.record import CELLS, RECORD
from distillaw.images.spec import ImageStudy
from distillaw.images.train import Feeds, make_feeds, train_cell
from distillaw.runs.files import read_json, write_json
from distillaw.runs.lock import held
from distillaw.sweep.executor import available_cores
from distillaw.version import __version__


class Watch(Protocol):
    """Who is told how a study goes."""

    def finished(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """A cell has its result: done or diverged."""

    def progressed(self, cell: Cell, step: int) -> None:
        """A cell is so far, and that is on disk."""


class Silent:
    """Tells nobody."""

    def finished(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """Ignored."""

    def progressed(self, cell: Cell, step: int) -> None:
        """Ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A study with its data read and its cells named."""

    study: ImageStudy
    path: Path
    """Of the data."""
    data: ImageData | None
    """None in a plan on its way to another process, which reads the data itself."""
    fingerprint: str
    cells: tuple[Cell, ...]
    out: Path

    def folder(self, cell: Cell) -> Path:
        """Where a cell lies."""
        return self.out / CELLS / cell.folder(self.study, self.fingerprint)

    def is_done(self, cell: Cell) -> bool:
        """Whether it has its result."""
        return (self.folder(cell) / "result.json").exists()


def make_plan(study: ImageStudy, path: Path, out: Path) -> Plan:
    """Read the data and settle the cells; writes nothing.

    Raises:
        ConfigError: a study that does not fit the data.
        DataError: data that cannot be used.
    """
    data = load_images(path).first(study.data.train_images)
    check_channels(study, channels=data.shape[0])
    cells = plan_cells(study, images=len(data.train))
    return Plan(
        study=study, path=Path(path), data=data, fingerprint=data.fingerprint(), cells=tuple(cells), out=out
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One cell to train."""

    plan: Plan
    cell: Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Starter:
    """Reads the data in a fresh process and trains what it is sent."""

    plan: Plan
    device: str

    def __call__(self, place: int) -> Callable[[Job, Beat], Mapping[str, Any]]:
        """Prepare a process."""
        import torch

        torch.set_num_threads(1)  # results then do not depend on the number of processes
        torch.backends.cudnn.deterministic = True
        study = self.plan.study
        data = self.plan.data or load_images(self.plan.path).first(study.data.train_images)
        feeds = make_feeds(data, study, _device(self.device, place))
        return lambda job, beat: _train(job, feeds, beat)


def run_study(
    plan: Plan, *, device: str, workers: int, command: str = "", watch: Watch | None = None
) -> None:
    """Train every cell that has no result; where all have one, nothing is written.

    Args:
        plan: the study.
        device: cpu, cuda or cuda:N; with `cuda`, several devices are shared out.
        workers: processes; 1 trains in this one.
        command: what the user typed, for the record.
        watch: told how it goes.

    Raises:
        RunError: the folder is in use or cannot be written, a process died.
    """
    watch = watch or Silent()
    with held(plan.out, f"the study in {plan.out}"):
        todo = [cell for cell in plan.cells if not plan.is_done(cell)]
        record = _describe(plan, command=command, device=device, workers=workers)
        old = read_json(plan.out / RECORD) if (plan.out / RECORD).exists() else {}
        spent = float(old.get("seconds", 0.0))  # type: ignore[arg-type]
        if not todo and all(
            old.get(key) == json.loads(json.dumps(record[key])) for key in ("cells", "spec", "data")
        ):
            return
        began = time.monotonic()
        try:
            write_json(plan.out / RECORD, record | {"seconds": spent})
            _train_all(plan, todo, device=device, workers=workers, watch=watch)
        finally:
            write_json(plan.out / RECORD, record | {"seconds": spent + time.monotonic() - began})


def _train_all(plan: Plan, todo: Sequence[Cell], *, device: str, workers: int, watch: Watch) -> None:
    bare = replace(plan, data=None)
    jobs = [Job(plan=bare, cell=cell) for cell in todo]
    if workers == 1:
        train = Starter(plan=plan, device=device)(0)
        for job in jobs:
            watch.finished(job.cell, train(job, lambda step, cell=job.cell: watch.progressed(cell, step)))
        return
    run_all(
        jobs, Starter(plan=bare, device=device), workers=min(workers, len(jobs)),
        done=lambda job, result: watch.finished(job.cell, result),
        progressed=lambda job, step: watch.progressed(job.cell, step),
    )  # fmt: skip


def _train(job: Job, feeds: Feeds, beat: Beat) -> Mapping[str, Any]:
    result = train_cell(job.plan.study, job.cell, feeds, job.plan.folder(job.cell), beat=beat)
    return {key: value for key, value in result.items() if key not in ("wrong", "curves")}


def _device(name: str, place: int) -> str:
    """`cuda` shares the processes out over all devices."""
    if name != "cuda":
        return name
    import torch

    return f"cuda:{place % torch.cuda.device_count()}"


def _describe(plan: Plan, *, command: str, device: str, workers: int) -> dict[str, object]:
    """The record file."""
    data = plan.data
    assert data is not None
    return {
        "schema_version": 1, "kind": "large-batch", "name": plan.study.name, "version": __version__,
        "command": command, "date": time.strftime("%Y-%m-%d", time.gmtime()), "spec": plan.study.to_json(),
        "data": {
            "path": str(plan.path), "format": data.format, "train_images": len(data.train),
            "test_images": len(data.test), "classes": data.classes, "shape": list(data.shape),
            "fingerprint": plan.fingerprint,
        },
        "device": device, "workers": workers, "machine": machine(),
        "notes": notes(plan.study, list(plan.cells), images=len(data.train)),
        "cells": [
            {"column": cell.column, "seed": cell.seed, "folder": cell.folder(plan.study, plan.fingerprint)}
            for cell in plan.cells
        ],
    }  # fmt: skip


def machine() -> str:
    """What computed, in words."""
    import torch

    cores = f"{available_cores()} cores, {platform.machine()}"
    return f"{torch.cuda.get_device_name()}, {cores}" if torch.cuda.is_available() else f"{cores}, no GPU"
