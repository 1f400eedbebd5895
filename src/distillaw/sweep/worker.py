"""One worker process: takes jobs from standard input, trains them on one thread, reports on standard output.

Lines are JSON objects. In: {"jobs": [...]}. Out: {"event": "ready" | "progress" | "ended", ...}. A worker
stops cleanly, checkpoint saved, when it is asked to (SIGTERM) or when its parent is gone; a killed one is
simply replaced, since everything it knew is on disk.
"""

import os

# One thread per worker; set before torch is imported.
os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"})

import json
import signal
import sys
import time
import traceback
from pathlib import Path

from distillaw.errors import DistillawError
from distillaw.runs.config import from_table
from distillaw.runs.store import StudyFolder
from distillaw.sweep.jobs import Job
from distillaw.train.loop import StopTraining
from distillaw.train.memory import keep_freed_memory

REPORT_SECONDS = 0.5


class Reporter:
    """Sends progress now and then, and raises StopTraining when the worker should end."""

    def __init__(self) -> None:
        self.stop = False
        self._parent = os.getppid()
        self._tokens, self._sent = 0, time.monotonic()

    def __call__(self, tokens: int, loss: float) -> None:
        """The `Report` of the training loop."""
        self._tokens += tokens
        if self.stop or os.getppid() != self._parent:
            raise StopTraining("asked to stop; the checkpoint is saved")
        now = time.monotonic()
        if now - self._sent > REPORT_SECONDS:
            send({"event": "progress", "tokens": self._tokens, "loss": loss})
            self._tokens, self._sent = 0, now

    def flush(self) -> None:
        """Send what has not been sent."""
        send({"event": "progress", "tokens": self._tokens, "loss": None})
        self._tokens = 0


_CHANNEL = 1
"""File descriptor of the scheduler's pipe; `main` moves it, so that nothing a library prints can reach it."""


def send(message: dict[str, object]) -> None:
    """Write one JSON line to the scheduler; a vanished scheduler ends the worker."""
    try:
        os.write(_CHANNEL, json.dumps(message).encode() + b"\n")
    except OSError:
        raise StopTraining("the scheduler is gone") from None


def main() -> int:
    """Serve jobs until standard input ends."""
    global _CHANNEL
    study = StudyFolder(Path(sys.argv[1]))
    _CHANNEL = os.dup(1)
    os.dup2(2, 1)
    reporter = Reporter()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the scheduler decides
    signal.signal(signal.SIGTERM, lambda *_: setattr(reporter, "stop", True))
    keep_freed_memory()
    import torch
    from transformers.utils.logging import disable_progress_bar

    from distillaw.train import trunk as _warm_up  # noqa: F401 - imported before the first job is timed

    torch.set_num_threads(1)
    disable_progress_bar()
    send({"event": "ready"})
    for line in sys.stdin:
        jobs = [from_table(Job, job, "job") for job in json.loads(line)["jobs"]]
        try:
            _work(jobs, study, reporter)
        except StopTraining:
            return 0
        if reporter.stop:
            return 0
    return 0


def _work(jobs: list[Job], study: StudyFolder, reporter: Reporter) -> None:
    from distillaw.train.trunk import train_trunks

    missing = [run_id for job in jobs for run_id in _missing(job, study)]
    failed: dict[str, str] = {}
    try:
        diverged = train_trunks({job.trunk: job.budgets for job in jobs}, study, report=reporter)
    except StopTraining:
        raise
    except (DistillawError, MemoryError, OSError) as error:
        for job in jobs:
            failed |= _mark_failed(job, study, str(error) or type(error).__name__)
    except Exception as error:  # a defect of ours: the trace goes to the worker's log, the study goes on
        traceback.print_exc()
        for job in jobs:
            failed |= _mark_failed(
                job, study, f"{type(error).__name__}: {error} (trace in {study.path}/worker-*.log)"
            )
    else:
        for job in jobs:
            if job.trunk in diverged:
                failed |= _mark_failed(job, study, str(diverged[job.trunk]), diverged=True)
    reporter.flush()
    send({"event": "ended", "done": [r for r in missing if r not in failed], "failed": failed})


def _missing(job: Job, study: StudyFolder) -> list[str]:
    return [run_id for run_id in job.run_ids if study.run(run_id).state() != "done"]


def _mark_failed(job: Job, study: StudyFolder, message: str, *, diverged: bool = False) -> dict[str, str]:
    """Note the failure in every unfinished run of a job; returns run id -> message."""
    failed = _missing(job, study)
    try:
        for run_id in failed:
            study.run(run_id).set_status("failed", error=message, diverged=diverged)
    except DistillawError as error:  # the disk is full: the scheduler still hears of it
        message = f"{message}; and its status could not be written: {error}"
    return dict.fromkeys(failed, message)


if __name__ == "__main__":
    sys.exit(main())
