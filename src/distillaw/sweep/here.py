"""Trunks trained in this process (or by the ranks that torchrun started), with progress and an orderly end."""

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence

import torch

from distillaw.errors import RunError
from distillaw.runs.process import available_cores
from distillaw.runs.store import StudyFolder
from distillaw.sweep.jobs import Job
from distillaw.sweep.outcome import Display
from distillaw.train.log import Mirror
from distillaw.train.loop import Report, StopRequest, StopTraining
from distillaw.train.parallel import ALONE, Ranks
from distillaw.train.trunk import train_trunks

SMALL_PARAMS = 5_000_000
"""Total parameters below which a step is faster on one thread than on two."""


def train_here(
    jobs: Sequence[Job],
    study: StudyFolder,
    *,
    ranks: Ranks = ALONE,
    display: Display | None = None,
    mirror: Mirror | None = None,
) -> None:
    """Train trunks that read one stream side by side; each teacher reads every batch once for all of its students.

    Args:
        jobs: trunks and budgets.
        study: where tokens, trunks and runs lie.
        ranks: the processes that train together.
        display: told about every job; None: nobody watches.
        mirror: given every row of the log as well.

    Raises:
        DistillawError: as `train_trunks`; the first of several that diverged.
        RunError: asked to stop by SIGTERM (checkpoints saved).
        KeyboardInterrupt: asked to stop by Ctrl-C (checkpoints saved).
    """
    set_threads(ranks, max(job.trunk.total_params for job in jobs))
    if display:
        for job in jobs:
            display.started(job, 0)

    def report(tokens: int, loss: float) -> None:
        if display:
            for job in jobs:
                display.progressed(job, tokens // len(jobs), loss if len(jobs) == 1 else None)

    with stoppable(report) as request:
        errors = train_trunks(
            {job.trunk: job.budgets for job in jobs}, study, ranks=ranks, report=request, mirror=mirror
        )
    for job in jobs:
        if display and job.trunk in errors:
            display.failed(job, str(errors[job.trunk]))
        elif display:
            display.finished(job)
    if errors:
        raise next(iter(errors.values()))


@contextlib.contextmanager
def stoppable(report: Report) -> Iterator[Report]:
    """The report for training that Ctrl-C and SIGTERM end in an orderly way.

    Raises:
        RunError: asked to stop by SIGTERM (checkpoints saved).
        KeyboardInterrupt: asked to stop by Ctrl-C (checkpoints saved).
    """
    with StopRequest(report) as request:
        try:
            yield request
        except StopTraining:
            if request.received == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise RunError("asked to stop: the checkpoint is saved and the same command continues") from None


def set_threads(ranks: Ranks, total_params: int) -> None:
    """All cores, divided among the ranks of this machine; one for a small model, which threads only slow down."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world))
    torch.set_num_threads(1 if total_params < SMALL_PARAMS else max(1, available_cores() // here))
