"""What a study will take: a few steps of each column are timed, the rest is multiplication.

Steps that would take long are not run: their time is the small batch's, scaled by the images, which is too much rather
than too little.
"""

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from distillaw.images.columns import Cell
from distillaw.images.study import Plan
from distillaw.images.train import CellRun, Feeds, make_feeds

TIMED_SECONDS = 0.4
LONGEST_STEP = 3.0
WARM_STEPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What one cell of a column is expected to take."""

    cell: Cell
    epochs: float
    seconds_per_step: float
    is_scaled: bool
    """Not timed itself."""
    params: int

    @property
    def seconds(self) -> float:
        """Of one cell on one process that has a core (or the device) to itself."""
        return self.cell.steps * self.seconds_per_step


def foresee(plan: Plan, *, device: str) -> list[Forecast]:
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


def _forecast(plan: Plan, cell: Cell, feeds: Feeds, seconds_per_image: float) -> Forecast:
    scaled = seconds_per_image * cell.batch
    is_scaled = scaled > LONGEST_STEP
    timed, params = _time_step(plan, cell, feeds, only_build=is_scaled)
    return Forecast(
        cell=cell, epochs=cell.steps / cell.steps_per_epoch, seconds_per_step=scaled if is_scaled else timed,
        is_scaled=is_scaled, params=params,
    )  # fmt: skip


def _time_step(plan: Plan, cell: Cell, feeds: Feeds, *, only_build: bool = False) -> tuple[float, int]:
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


def wall_seconds(cells: Sequence[Cell], forecasts: Sequence[Forecast], *, workers: int) -> float:
    """How long so many processes take for the cells, in the order they are run."""
    by_column = {forecast.cell.column: forecast.seconds for forecast in forecasts}
    free = [0.0] * workers
    for cell in cells:
        heapq.heappush(free, heapq.heappop(free) + by_column[cell.column])
    return max(free)
