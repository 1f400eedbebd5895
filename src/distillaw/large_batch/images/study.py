"""Run a study: every cell that has no result yet, several at once in processes, and stop at any moment.

One process per core (CPU) or a few per GPU; each reads the data once and trains one cell after the other. A cell that
diverges is a result and does not stop the others; a process that dies stops the study, and the same command goes on.
"""

import heapq
import math
import multiprocessing
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from distillaw.errors import ConfigError, DistillawError, RunError
from distillaw.large_batch.diffusion import fit_alpha
from distillaw.large_batch.images.image_files import ImageData, load_images
from distillaw.large_batch.images.networks import build_network
from distillaw.large_batch.images.results import CELLS, LANDSCAPE, RECORD
from distillaw.large_batch.images.spec import ColumnRun, ImageStudy, check_channels, notes, plan_cells
from distillaw.large_batch.images.train import CellRun, make_feeds, seed_of, train_cell
from distillaw.runs.files import as_read, read_json, write_json
from distillaw.runs.lock import held
from distillaw.runs.process import available_cores
from distillaw.version import __version__

J = TypeVar("J")
Beat = Callable[[Any], None]
"""What a job may call with how far it is; it does not return where nobody listens any more."""
Start = Callable[[int], Callable[[Any, Beat], Any]]
"""Made once, sent to every process, so picklable: prepares the process of a number, and gives what does a job."""


def run_all(
    jobs: Sequence[J],
    start: Start,
    *,
    workers: int,
    done: Callable[[J, Any], None],
    progressed: Callable[[J, Any], None],
) -> None:
    """Do every job, picklable, in order, as processes come free.

    Called here: `done` with each job and its answer as it ends, `progressed` with a job under way and what it told its
    beat.

    Raises:
        RunError: a process died.
        DistillawError: what a job raised; jobs under way are stopped.
    """
    context = multiprocessing.get_context("spawn")
    processes: dict[Connection, BaseProcess] = {}
    busy: dict[Connection, J] = {}
    waiting = list(jobs)

    def give(link: Connection) -> None:
        if waiting:
            busy[link] = waiting.pop(0)
            link.send(busy[link])

    try:
        for place in range(workers):
            ours, theirs = context.Pipe()
            processes[ours] = context.Process(target=_serve, args=(theirs, start, place), daemon=True)
            processes[ours].start()
            theirs.close()
            give(ours)
        while busy:
            for link in wait(list(busy)):
                assert isinstance(link, Connection)
                try:
                    kind, answer = link.recv()
                except (EOFError, ConnectionResetError):
                    raise RunError(_death(processes[link], workers)) from None
                if kind == "error":
                    raise answer
                if kind == "beat":
                    progressed(busy[link], answer)
                else:
                    done(busy.pop(link), answer)
                    give(link)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join()


def _death(process: BaseProcess, workers: int) -> str:
    process.join(5)
    code = process.exitcode or 0
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return (
        f"one of {workers} processes died ({how}), most likely for want of memory; give fewer --workers. What is "
        "finished is kept, the same command continues"
    )


def _serve(link: Connection, start: Start, place: int) -> None:
    """The life of a process. Ctrl-C is its parent's business, which ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def beat(value: Any) -> None:
        parent = multiprocessing.parent_process()
        if parent is None or not parent.is_alive():  # another run may be at its folder by now
            sys.exit(1)
        link.send(("beat", value))

    work = None
    while True:
        try:
            job = link.recv()
        except EOFError:
            return
        try:
            work = work or start(place)
            answer = "done", work(job, beat)
        except DistillawError as error:
            answer = "error", error
        except Exception as error:  # whatever a library raises must reach the user, not die with this process
            answer = "error", RunError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        link.send(answer)


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

    @property
    def todo(self) -> list[ColumnRun]:
        """Cells without a result."""
        return [cell for cell in self.cells if not (self.folder(cell) / "result.json").exists()]

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the settings before reading numbers."""
        assert self.data is not None
        return notes(self.study, list(self.cells), images=len(self.data.train))


def read_data(study: ImageStudy, path: Path) -> ImageData:
    """The images that a study is about; errors as of `make_plan`."""
    data = load_images(path, crop=study.data.crop or study.data.resize)
    return data.first(study.data.train_images, test=study.data.test_images)


def make_plan(study: ImageStudy, path: Path, out: Path) -> ImagePlan:
    """Read the data and settle the cells; writes nothing.

    Raises:
        ConfigError: a study that does not fit the data.
        DataError: data that cannot be used.
    """
    data = read_data(study, path)
    check_channels(study, channels=data.shape[0])
    cells = tuple(plan_cells(study, images=len(data.train)))
    return ImagePlan(study=study, path=Path(path), data=data, fingerprint=data.fingerprint(), cells=cells, out=out)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellTrainer:
    """Reads the data in a fresh process and trains the cells that it is sent."""

    plan: ImagePlan
    device: str

    def __call__(self, place: int) -> Callable[[ColumnRun, Beat], Mapping[str, Any]]:
        """Prepare a process; `cuda` shares the processes out over all devices."""
        torch.set_num_threads(1)  # results then do not depend on the number of processes
        torch.backends.cudnn.deterministic = True
        plan, device = self.plan, self.device
        if device == "cuda":
            device = f"cuda:{place % torch.cuda.device_count()}"
        data = plan.data or read_data(plan.study, plan.path)
        feeds = make_feeds(data, plan.study, device)

        def train(cell: ColumnRun, beat: Beat) -> Mapping[str, Any]:
            result = train_cell(plan.study, cell, feeds, plan.folder(cell), beat=beat)
            return {key: value for key, value in result.items() if key not in ("wrong", "curves")}

        return train


def run_study(
    plan: ImagePlan,
    *,
    device: str,
    workers: int,
    command: str = "",
    finished: Callable[[ColumnRun, Mapping[str, Any]], None] = lambda cell, result: None,
    progressed: Callable[[ColumnRun, int], None] = lambda cell, step: None,
) -> None:
    """Train every cell that has no result; where all have one, nothing is written.

    Args:
        device: cpu, cuda or cuda:N; with `cuda`, several devices are shared out.
        workers: processes; 1 trains in this one.
        finished: told of each cell and its result, done or diverged.
        progressed: told how many steps of a cell are on disk.

    Raises:
        RunError: the folder is in use or cannot be written, a process died.
    """
    with held(plan.out, f"the study in {plan.out}"):
        todo, place = plan.todo, plan.out / RECORD
        record = _describe(plan, command=command, device=device, workers=workers)
        old = read_json(place) if place.exists() else {}
        spent = float(old.get("seconds", 0.0))
        known = ("cells", "spec", "data")
        if not todo and all(old.get(key) == as_read(record[key]) for key in known):
            return
        began = time.monotonic()
        try:
            write_json(place, record | {"seconds": spent})
            if workers == 1:
                train = CellTrainer(plan=plan, device=device)(0)
                for cell in todo:
                    finished(cell, train(cell, lambda step, cell=cell: progressed(cell, step)))
            else:
                trainer = CellTrainer(plan=replace(plan, data=None), device=device)
                count = min(workers, len(todo))
                run_all(todo, trainer, workers=count, done=finished, progressed=progressed)
        finally:
            write_json(place, record | {"seconds": spent + time.monotonic() - began})


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
        "spec": asdict(plan.study),
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
        "notes": plan.notes,
        "cells": [
            {"column": cell.column, "seed": cell.seed, "folder": cell.folder(plan.study, plan.fingerprint)}
            for cell in plan.cells
        ],
    }


def machine() -> str:
    """What computed, in words."""
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
    """Time each column of a study that has its data, on cpu, cuda or cuda:N."""
    assert plan.data is not None
    torch.set_num_threads(1)
    feeds = make_feeds(plan.data, plan.study, device)
    firsts = sorted((cell for cell in plan.cells if cell.seed == 0), key=lambda cell: cell.batch)
    # the small batch, ordinary norm: what the others are scaled from where they are too slow to time
    smallest = replace(firsts[0], batch=min(plan.study.batches.small, firsts[0].batch), ghost=0)
    per_image = _time_step(CellRun(plan.study, smallest, feeds)) / smallest.batch
    found = []
    for cell in firsts:
        run, scaled = CellRun(plan.study, cell, feeds), per_image * cell.batch
        is_scaled = scaled > LONGEST_STEP
        found.append(
            Forecast(
                cell=cell,
                epochs=cell.steps / cell.steps_per_epoch,
                seconds_per_step=scaled if is_scaled else _time_step(run),
                is_scaled=is_scaled,
                params=run.params,
            )
        )
    return found


def _time_step(run: CellRun) -> float:
    """Seconds of a step."""
    loss = run.advance()
    for _ in range(WARM_STEPS - 1):
        loss = run.advance()
    float(loss)
    began, steps = time.monotonic(), 0
    while time.monotonic() - began < TIMED_SECONDS:
        loss = run.advance()
        steps += 1
        if steps % 10 == 0:
            float(loss)  # a GPU runs ahead of the clock
    float(loss)
    return (time.monotonic() - began) / steps


def wall_seconds(cells: Sequence[ColumnRun], forecasts: Sequence[Forecast], *, workers: int) -> float:
    """How long so many processes take for the cells, in the order they are run."""
    by_column = {forecast.cell.column: forecast.seconds for forecast in forecasts}
    free = [0.0] * workers
    for cell in cells:
        heapq.heappush(free, heapq.heappop(free) + by_column[cell.column])
    return max(free)


# --- the paper's test of alpha ---------------------------------------------------------------------------------


def measure_landscape(
    study: ImageStudy,
    path: Path,
    out: Path,
    *,
    steps: int,
    farthest: float,
    images: int,
    device: str = "cpu",
    seed: int = 0,
    command: str = "",
) -> dict[str, Any]:
    """How losses scatter at random distances from fresh weights, on images; fit alpha and write `landscape.json`.

    Weights w_0 are Glorot's, v is a random direction of unit length over all parameters, z uniform in [0, c]:
    L(w_0 + z v) - L(w_0) for many v, on the same images. The network is in training mode, normalised by the statistics
    of these images, since running statistics of fresh weights mean nothing.

    Args:
        path: of the images.
        steps: directions v, 1000 in the paper.
        farthest: c, the largest distance; 10 in the paper.
        images: the first so many training images, all at once.
        device: cpu, cuda or cuda:N.

    Raises:
        ConfigError: a distance that is not positive, more images than there are.
        DataError: too few steps for a fit, or losses that are not finite.
    """
    if not 0 < farthest < math.inf:
        raise ConfigError(f"farthest = {farthest:g}: a distance above 0")
    data = read_data(study, path)
    if not 2 <= images <= len(data.train):
        raise ConfigError(f"images = {images}: from 2 to the {len(data.train)} of the training set")
    torch.set_num_threads(1)
    began = time.monotonic()
    feeds = make_feeds(data, study, device)
    dropout = torch.Generator(device).manual_seed(seed)
    model = build_network(study.network, feeds.shape, seed=seed_of(seed, 0), dropout=dropout)
    _glorot(model, seed=seed_of(seed, 1))
    model.to(device).train()
    pixels_BCHW, labels_B = feeds.train.plain(0, images)
    random = torch.Generator().manual_seed(seed_of(seed, 2))

    @torch.no_grad()
    def loss() -> float:
        dropout.manual_seed(seed)  # the same masks at every step
        return float(functional.cross_entropy(model(pixels_BCHW), labels_B))

    start_P = parameters_to_vector(model.parameters()).detach().clone()
    at_start = loss()
    distances = farthest * torch.rand(steps, generator=random, dtype=torch.float64).numpy()
    differences = np.empty(steps)
    for i, distance in enumerate(distances):
        direction_P = torch.randn(len(start_P), generator=random).to(device)
        vector_to_parameters(start_P + distance / direction_P.norm() * direction_P, model.parameters())
        differences[i] = loss() - at_start
    found = {
        "command": command,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "device": device,
        "seconds": time.monotonic() - began,
        "network": asdict(study.network),
        "data": {"path": str(path), "images": images, "fingerprint": data.fingerprint()},
        "params": len(start_P),
        "steps": steps,
        "farthest": farthest,
        "seed": seed,
        "loss_at_start": at_start,
        **asdict(fit_alpha(distances, differences)),
    }
    write_json(out / LANDSCAPE, found)
    return found


def _glorot(model: nn.Module, *, seed: int) -> None:
    """Uniform weights of Glorot and Bengio 2010, zero biases; norms stay at one and zero."""
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=random)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
