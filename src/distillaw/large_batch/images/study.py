"""Run a study: every cell that has no result yet, several at once in processes, and stop at any moment.

One process per core (CPU) or a few per GPU; each reads the data once and trains one cell after the other. A cell that
diverges is a result and does not stop the others; a process that dies stops the study, and the same command goes on.
"""

import heapq
import json
import multiprocessing
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from distillaw.errors import DistillawError, RunError
from distillaw.large_batch.images.columns import ColumnRun, check_channels, notes, plan_cells
from distillaw.large_batch.images.image_files import ImageData, load_images
from distillaw.large_batch.images.results import CELLS, RECORD
from distillaw.large_batch.images.spec import ImageStudy
from distillaw.large_batch.images.train import CellRun, Feeds, make_feeds, train_cell
from distillaw.runs.files import read_json, write_json
from distillaw.runs.lock import held
from distillaw.runs.process import available_cores
from distillaw.version import __version__

J = TypeVar("J")
Beat = Callable[[Any], None]
"""What a job may call with how far it is; it does not return where nobody listens any more."""
Worker = Callable[[Any, Beat], Any]


class WorkerStart(Protocol):
    """Made once, sent to every process; picklable."""

    def __call__(self, place: int) -> Worker:
        """Prepare the process with this number, and say what does a job."""


def run_all(
    jobs: Sequence[J],
    start: WorkerStart,
    *,
    workers: int,
    done: Callable[[J, Any], None],
    progressed: Callable[[J, Any], None],
) -> None:
    """Do every job, in order, as processes come free.

    Args:
        jobs: picklable.
        start: what each process begins with.
        workers: processes.
        done: called here with each job and its answer as it ends.
        progressed: called here with a job under way and what it told its beat.

    Raises:
        RunError: a process died.
        DistillawError: what a job raised; jobs under way are stopped.
    """
    context = multiprocessing.get_context("spawn")
    links: dict[Connection, tuple[multiprocessing.process.BaseProcess, J | None]] = {}
    waiting = list(jobs)
    try:
        for place in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, start, place), daemon=True)
            process.start()
            theirs.close()
            links[ours] = (process, None)
            _give(links, ours, waiting)
        while any(job is not None for _, job in links.values()):
            busy = [link for link, (_, job) in links.items() if job is not None]
            for link in wait(busy):
                assert isinstance(link, Connection)
                job = links[link][1]
                assert job is not None
                kind, answer = _hear(link, links[link][0], workers)
                if kind == "beat":
                    progressed(job, answer)
                    continue
                done(job, answer)
                _give(links, link, waiting)
    finally:
        for process, _ in links.values():
            process.terminate()
        for process, _ in links.values():
            process.join()


def _give(links: dict, link: Connection, waiting: list) -> None:
    """The next job to a process, or none."""
    job = waiting.pop(0) if waiting else None
    links[link] = (links[link][0], job)
    if job is not None:
        link.send(job)


def _hear(link: Connection, process: multiprocessing.process.BaseProcess, workers: int) -> tuple[str, Any]:
    """(`beat` or `done`, what was said)."""
    try:
        kind, answer = link.recv()
    except (EOFError, ConnectionResetError):
        process.join(5)
        code = process.exitcode or 0
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise RunError(
            f"one of {workers} processes died ({how}), most likely for want of memory; give fewer --workers. What is "
            "finished is kept, the same command continues"
        ) from None
    if kind == "error":
        raise answer
    return kind, answer


def _serve(link: Connection, start: WorkerStart, place: int) -> None:
    """The life of a process. Ctrl-C is its parent's business, which ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work: Worker | DistillawError = start(place)
    except DistillawError as error:
        work = error
    while True:
        try:
            job = link.recv()
        except EOFError:
            return
        link.send(_attempt(work, job, lambda value: _beat(link, value)))


def _beat(link: Connection, value: Any) -> None:
    """Say how far the job is; end if the parent is gone, for another run may be at its folder by now."""
    parent = multiprocessing.parent_process()
    if parent is None or not parent.is_alive():
        sys.exit(1)
    link.send(("beat", value))


def _attempt(work: "Worker | DistillawError", job: Any, beat: Beat) -> tuple[str, Any]:
    if isinstance(work, DistillawError):
        return "error", work
    try:
        return "done", work(job, beat)
    except DistillawError as error:
        return "error", error
    except Exception as error:  # whatever a library raises must reach the user, not die with this process
        return "error", RunError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")


class Watch(Protocol):
    """Who is told how a study goes."""

    def finished(self, cell: ColumnRun, result: Mapping[str, Any]) -> None:
        """A cell has its result: done or diverged."""

    def progressed(self, cell: ColumnRun, step: int) -> None:
        """A cell is so far, and that is on disk."""


class Silent:
    """Tells nobody."""

    def finished(self, cell: ColumnRun, result: Mapping[str, Any]) -> None:
        """Ignored."""

    def progressed(self, cell: ColumnRun, step: int) -> None:
        """Ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlan:
    """A study with its data read and its cells named."""

    study: ImageStudy
    path: Path
    """Of the data."""
    data: ImageData | None
    """None in a plan on its way to another process, which reads the data itself."""
    fingerprint: str
    cells: tuple[ColumnRun, ...]
    out: Path

    def folder(self, cell: ColumnRun) -> Path:
        """Where a cell lies."""
        return self.out / CELLS / cell.folder(self.study, self.fingerprint)

    def is_done(self, cell: ColumnRun) -> bool:
        """Whether it has its result."""
        return (self.folder(cell) / "result.json").exists()


def make_plan(study: ImageStudy, path: Path, out: Path) -> ImagePlan:
    """Read the data and settle the cells; writes nothing.

    Raises:
        ConfigError: a study that does not fit the data.
        DataError: data that cannot be used.
    """
    data = load_images(path).first(study.data.train_images)
    check_channels(study, channels=data.shape[0])
    cells = plan_cells(study, images=len(data.train))
    return ImagePlan(
        study=study, path=Path(path), data=data, fingerprint=data.fingerprint(), cells=tuple(cells), out=out
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CellJob:
    """One cell to train."""

    plan: ImagePlan
    cell: ColumnRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Starter:
    """Reads the data in a fresh process and trains what it is sent."""

    plan: ImagePlan
    device: str

    def __call__(self, place: int) -> Callable[[CellJob, Beat], Mapping[str, Any]]:
        """Prepare a process."""
        import torch

        torch.set_num_threads(1)  # results then do not depend on the number of processes
        torch.backends.cudnn.deterministic = True
        study = self.plan.study
        data = self.plan.data or load_images(self.plan.path).first(study.data.train_images)
        feeds = make_feeds(data, study, _device(self.device, place))
        return lambda job, beat: _train(job, feeds, beat)


def run_study(
    plan: ImagePlan, *, device: str, workers: int, command: str = "", watch: Watch | None = None
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


def _train_all(
    plan: ImagePlan, todo: Sequence[ColumnRun], *, device: str, workers: int, watch: Watch
) -> None:
    bare = replace(plan, data=None)
    jobs = [CellJob(plan=bare, cell=cell) for cell in todo]
    if workers == 1:
        train = Starter(plan=plan, device=device)(0)
        for job in jobs:
            watch.finished(job.cell, train(job, lambda step, cell=job.cell: watch.progressed(cell, step)))
        return
    run_all(
        jobs,
        Starter(plan=bare, device=device),
        workers=min(workers, len(jobs)),
        done=lambda job, result: watch.finished(job.cell, result),
        progressed=lambda job, step: watch.progressed(job.cell, step),
    )


def _train(job: CellJob, feeds: Feeds, beat: Beat) -> Mapping[str, Any]:
    result = train_cell(job.plan.study, job.cell, feeds, job.plan.folder(job.cell), beat=beat)
    return {key: value for key, value in result.items() if key not in ("wrong", "curves")}


def _device(name: str, place: int) -> str:
    """`cuda` shares the processes out over all devices."""
    if name != "cuda":
        return name
    import torch

    return f"cuda:{place % torch.cuda.device_count()}"


def _describe(plan: ImagePlan, *, command: str, device: str, workers: int) -> dict[str, object]:
    """The record file."""
    data = plan.data
    assert data is not None
    return {
        "schema_version": 1,
        "kind": "large-batch",
        "name": plan.study.name,
        "version": __version__,
        "command": command,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "spec": plan.study.to_json(),
        "data": {
            "path": str(plan.path),
            "format": data.format,
            "train_images": len(data.train),
            "test_images": len(data.test),
            "classes": data.classes,
            "shape": list(data.shape),
            "fingerprint": plan.fingerprint,
        },
        "device": device,
        "workers": workers,
        "machine": machine(),
        "notes": notes(plan.study, list(plan.cells), images=len(data.train)),
        "cells": [
            {"column": cell.column, "seed": cell.seed, "folder": cell.folder(plan.study, plan.fingerprint)}
            for cell in plan.cells
        ],
    }


def machine() -> str:
    """What computed, in words."""
    import torch

    cores = f"{available_cores()} cores, {platform.machine()}"
    return f"{torch.cuda.get_device_name()}, {cores}" if torch.cuda.is_available() else f"{cores}, no GPU"


TIMED_SECONDS = 0.4
"""Of each column: many steps of the small networks, and a dry run of a few seconds in all."""
LONGEST_STEP = 3.0
"""Seconds; a step that should take longer is not run but scaled from the small batch's."""
WARM_STEPS = 3
"""Not timed: the first steps allocate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What one cell of a column is expected to take."""

    cell: ColumnRun
    epochs: float
    seconds_per_step: float
    is_scaled: bool
    """Not timed itself."""
    params: int

    @property
    def seconds(self) -> float:
        """Of one cell on one process that has a core (or the device) to itself."""
        return self.cell.steps * self.seconds_per_step


def foresee(plan: ImagePlan, *, device: str) -> list[Forecast]:
    """Time each column of a study.

    Args:
        plan: with its data.
        device: cpu, cuda or cuda:N.
    """
    assert plan.data is not None
    torch.set_num_threads(1)
    feeds = make_feeds(plan.data, plan.study, device)
    firsts = sorted((cell for cell in plan.cells if cell.seed == 0), key=lambda cell: cell.batch)
    # the small batch, ordinary norm: what the others are scaled from where they are too slow to time
    smallest = replace(firsts[0], batch=min(plan.study.batches.small, firsts[0].batch), ghost=0)
    unit, _ = _time_step(plan, smallest, feeds)
    return [_forecast(plan, cell, feeds, unit / smallest.batch) for cell in firsts]


def _forecast(plan: ImagePlan, cell: ColumnRun, feeds: Feeds, seconds_per_image: float) -> Forecast:
    scaled = seconds_per_image * cell.batch
    is_scaled = scaled > LONGEST_STEP
    timed, params = _time_step(plan, cell, feeds, only_build=is_scaled)
    return Forecast(
        cell=cell,
        epochs=cell.steps / cell.steps_per_epoch,
        seconds_per_step=scaled if is_scaled else timed,
        is_scaled=is_scaled,
        params=params,
    )


def _time_step(
    plan: ImagePlan, cell: ColumnRun, feeds: Feeds, *, only_build: bool = False
) -> tuple[float, int]:
    """(seconds of a step, parameters)."""
    run = CellRun(plan.study, cell, feeds)
    if only_build:
        return 0.0, run.params
    loss, steps = run.advance(), 0
    for _ in range(WARM_STEPS - 1):
        loss = run.advance()
    float(loss)
    began = time.monotonic()
    while time.monotonic() - began < TIMED_SECONDS:
        loss = run.advance()
        steps += 1
        if steps % 10 == 0:
            float(loss)  # a GPU runs ahead of the clock
    float(loss)
    return (time.monotonic() - began) / steps, run.params


def wall_seconds(cells: Sequence[ColumnRun], forecasts: Sequence[Forecast], *, workers: int) -> float:
    """How long so many processes take for the cells, in the order they are run."""
    by_column = {forecast.cell.column: forecast.seconds for forecast in forecasts}
    free = [0.0] * workers
    for cell in cells:
        heapq.heappush(free, heapq.heappop(free) + by_column[cell.column])
    return max(free)
