"""What trains a task, wherever it runs: a process of this machine, a Slurm job, a task of Ray.

A worker stops cleanly, checkpoint saved, when a signal asks it to (Slurm warns so before it takes a node away), when
its record in workers/ is removed, and when the scheduler that sent it holds the study no more. A killed one is simply
replaced, since everything it knew is on disk.
"""

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from distillaw.errors import DistillawError, RunError
from distillaw.runs.config import from_table
from distillaw.runs.lock import LOCK, Claim, HolderWatch, make_claim, record_of, wait_for_files
from distillaw.runs.store import StudyFolder
from distillaw.sweep.ready import TrunkJob

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""One thread per worker unless it is given more; read when torch is imported."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
"""What asks a worker to save and leave: the usual one, and the one that Slurm sends ahead of a time limit."""
IDLE_SECONDS = 0.5
"""How soon an idle worker of this machine heeds a signal."""


def train(order: str) -> dict[str, Any]:
    """Train a task (`sweep.executor.TrainingTask.order`) in this process, as a worker of its own.

    Returns:
        `done`: runs that it finished; `failed`: run -> error; `cpu_seconds` since the task before, imports included;
        `why` it left early, empty if it did not.
    """
    told, before = json.loads(order), time.process_time()
    _prepare(told["threads"])
    with _working(Path(told["folder"]), told["name"], before) as worker:
        return _train(told, worker)


def _serve(folder: str, name: str, connection: Connection) -> None:
    """Train what comes over a connection until it ends: a worker of this machine, which imports torch once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prepare(1)
    with _working(Path(folder), name) as worker:
        while not worker.why:
            try:
                order = connection.recv_bytes() if connection.poll(IDLE_SECONDS) else None
            except (EOFError, OSError):  # the scheduler lets go
                return
            if order is not None:
                report = json.dumps(_train(json.loads(order), worker)).encode()
                with contextlib.suppress(OSError):  # the next look sees that nobody listens
                    connection.send_bytes(report)


def _prepare(threads: int) -> None:
    os.environ.update(ONE_THREAD)
    import torch
    from transformers.utils.logging import disable_progress_bar

    from distillaw.models.parallel import keep_freed_memory
    from distillaw.train import trunk as _warm_up  # noqa: F401 - imported before the first job is timed

    keep_freed_memory()
    torch.set_num_threads(threads)
    disable_progress_bar()


@dataclass(slots=True)
class _Worker:
    """Whether this process should go on: the `Report` of the training loop."""

    counted: float = 0.0
    """CPU seconds of this process that earlier reports told of, or that are not the study's."""
    claim: Claim | None = None
    scheduler: HolderWatch | None = None
    why: str = ""
    """Why it should leave; empty as long as it should not."""

    def __call__(self, tokens: int, loss: float) -> None:
        from distillaw.train.loop import StopTraining

        if self.is_to_leave():
            raise StopTraining("asked to stop; the checkpoint is saved")

    def is_to_leave(self) -> bool:
        """Whether a signal, its own record or the scheduler's says so."""
        assert self.claim is not None and self.scheduler is not None
        if not self.why and self.claim.is_lost:
            self.why = "since its record was removed"
        elif not self.why and self.scheduler.is_over():
            self.why = "since its scheduler is gone"
        return bool(self.why)

    def note(self, number: int, frame: object) -> None:
        """Handles a signal."""
        self.why = f"by {signal.Signals(number).name}"


@contextlib.contextmanager
def _working(folder: Path, name: str, counted: float = 0.0) -> Iterator[_Worker]:
    """A worker that listens to signals, and whose record says that it can train."""
    worker = _Worker(counted)
    before = {number: signal.signal(number, worker.note) for number in SIGNALS}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the scheduler decides
    worker.claim = make_claim(StudyFolder(folder).workers / f"{name}.json", f"the worker {name}")
    try:
        yield worker
    finally:
        worker.claim.release()
        for number, handler in before.items():
            signal.signal(number, handler)


def _train(told: dict[str, Any], worker: _Worker) -> dict[str, Any]:
    from distillaw.train.loop import StopTraining

    study = StudyFolder(Path(told["folder"]))
    jobs = [from_table(TrunkJob, job, "job") for job in told["jobs"]]
    missing = study.unfinished(run_id for job in jobs for run_id in job.run_ids)
    # after its own record was made: either a new scheduler sees that record, or this worker the new scheduler
    worker.scheduler = HolderWatch(record_of(study.path / LOCK), told["holder"])
    failed: dict[str, str] = {}
    with contextlib.suppress(StopTraining):
        if not worker.is_to_leave():
            failed = _try(jobs, study, worker)
    left = study.unfinished(missing)
    done = [run_id for run_id in missing if run_id not in left]
    before, worker.counted = worker.counted, time.process_time()
    return {"done": done, "failed": failed, "cpu_seconds": worker.counted - before, "why": worker.why}


def _try(jobs: list[TrunkJob], study: StudyFolder, worker: _Worker) -> dict[str, str]:
    """Train; what failed is marked so in its folder. Returns run -> error."""
    from distillaw.train.loop import StopTraining

    failed: dict[str, str] = {}
    try:
        diverged = _train_trunks(jobs, study, worker)
    except StopTraining:
        raise
    except (DistillawError, MemoryError, OSError) as error:
        for job in jobs:
            failed |= study.fail(job.run_ids, str(error) or type(error).__name__)
    except Exception as error:  # a defect of ours: the trace goes to the worker's log, the study goes on
        traceback.print_exc()
        for job in jobs:
            failed |= study.fail(job.run_ids, f"{type(error).__name__}: {error} (trace in {study.workers})")
    else:
        for job in jobs:
            if job.trunk in diverged:
                failed |= study.fail(job.run_ids, str(diverged[job.trunk]), diverged=True)
    return failed


def _train_trunks(jobs: list[TrunkJob], study: StudyFolder, worker: _Worker) -> dict:
    import torch

    from distillaw.models.parallel import Ranks
    from distillaw.train.trunk import train_trunks

    _wait_for_inputs(jobs, study)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted: dict = {}
    for job in jobs:  # a trunk may come as two jobs, the grid's budgets and a held-out one
        wanted[job.trunk] = (*wanted.get(job.trunk, ()), *job.budgets)
    return train_trunks(wanted, study, ranks=Ranks(device=device), report=worker)


def _wait_for_inputs(jobs: list[TrunkJob], study: StudyFolder) -> None:
    """Wait until text and teachers are here: another machine wrote them, and NFS may show them late."""
    teachers = {job.trunk.teacher_run for job in jobs if not job.trunk.teacher_fingerprint}
    files = [study.run(run_id).path / "result.json" for run_id in teachers if run_id]
    if late := wait_for_files([study.data / "manifest.json", *files]):
        raise RunError(
            f"{late[0]} is not here, though the scheduler sees it: is {study.path} one folder, shared between machines?"
        )


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], Connection(int(sys.argv[3])))
