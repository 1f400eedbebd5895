"""One worker process, wherever it runs: takes jobs from the scheduler, trains them, reports (sweep/channel.py).

In: {"jobs": [...]} or {"stop": true}. Out: {"event": "ready" | "progress" | "ended" | "leaving", ...}. A worker stops
cleanly, checkpoint saved, when it is asked to, by message or by signal (Slurm warns so before it takes a node away),
and when the scheduler is gone. A killed one is simply replaced, since everything it knew is on disk.
"""

import os

# One thread per worker unless it is given more; set before torch is imported.
os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"})

import contextlib
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from distillaw.errors import DistillawError, RunError
from distillaw.runs.config import from_table
from distillaw.runs.late import wait_for_files
from distillaw.runs.lock import Claim, make_claim
from distillaw.runs.store import StudyFolder
from distillaw.sweep.channel import KEY_FILE, call, receive, send
from distillaw.sweep.jobs import Job
from distillaw.train.loop import StopTraining
from distillaw.train.parallel import keep_freed_memory

REPORT_SECONDS = 0.5
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
"""What asks a worker to save and leave: the usual one, and the one that Slurm sends ahead of a time limit."""


class Reporter:
    """Sends progress now and then, and raises StopTraining when the worker should end."""

    def __init__(self, connection: Connection, claim: Claim) -> None:
        self.asked: str = ""
        """Why the worker should leave; empty as long as it should not."""
        self._connection, self._claim = connection, claim
        self._tokens, self._sent, self._cpu = 0, time.monotonic(), 0.0

    def __call__(self, tokens: int, loss: float) -> None:
        """The `Report` of the training loop."""
        self._tokens += tokens
        if self.should_leave():
            raise StopTraining("asked to stop; the checkpoint is saved")
        now = time.monotonic()
        if now - self._sent > REPORT_SECONDS:
            self.send({"event": "progress", "tokens": self._tokens, "loss": loss})
            self._tokens, self._sent = 0, now

    def should_leave(self) -> bool:
        """Whether a signal, the scheduler or its silence asks for the end."""
        if self._claim.is_lost:
            self.asked = "another scheduler took this worker for dead"
        elif not self.asked and self._connection.poll():  # while it works, it hears of nothing but the end
            self.asked = "asked to" if receive(self._connection) else "the scheduler is gone"
        return bool(self.asked)

    def send(self, message: dict[str, object]) -> None:
        """Send a message; a vanished scheduler ends the worker."""
        try:
            send(self._connection, message)
        except OSError:
            self.asked = "the scheduler is gone"
            raise StopTraining(self.asked) from None

    def flush(self) -> dict[str, object]:
        """What the last message of a job says besides: tokens not yet told, processor seconds since the last one."""
        cpu, tokens = time.process_time(), self._tokens
        spent, self._cpu, self._tokens = cpu - self._cpu, cpu, 0
        return {"tokens": tokens, "cpu_seconds": spent}

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Signals ask for the end while this lasts."""
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the scheduler decides
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self.asked = f"by {signal.Signals(number).name}"


def serve(folder: str, name: str, address: str, threads: int = 1, place: str = "") -> int:
    """Serve jobs until there is no more to do.

    Args:
        folder: the study's, the same path on every machine.
        name: this worker's among all of the scheduler.
        address: where the scheduler is (`sweep.channel.call`).
        threads: of torch.
        place: where this runs, as the executor wants to know it.

    Returns:
        Exit code: 0, also when the scheduler is gone (a job of a queue whose scheduler has ended).
    """
    study = StudyFolder(Path(folder))
    try:
        connection = call(address, study.workers / KEY_FILE)
        send(connection, {"event": "hello", "name": name, "place": place})
    except OSError as error:
        print(f"worker {name}: {error}; nothing to do", file=sys.stderr)
        return 0
    claim = make_claim(study.workers / f"{name}.json", f"the worker {name}")
    reporter = Reporter(connection, claim)
    try:
        with reporter.listening():
            _serve(study, connection, reporter, threads)
            with contextlib.suppress(StopTraining):
                reporter.send({"event": "leaving", "why": reporter.asked, **reporter.flush()})
    finally:
        claim.release()
        connection.close()
    return 0


def _serve(study: StudyFolder, connection: Connection, reporter: Reporter, threads: int) -> None:
    keep_freed_memory()
    import torch
    from transformers.utils.logging import disable_progress_bar

    from distillaw.train import trunk as _warm_up  # noqa: F401 - imported before the first job is timed

    torch.set_num_threads(threads)
    disable_progress_bar()
    with contextlib.suppress(StopTraining):
        reporter.send({"event": "ready"})
        while not reporter.asked:
            if not connection.poll(REPORT_SECONDS):
                continue
            message = receive(connection)
            if message is None or "jobs" not in message:
                return
            _work([from_table(Job, job, "job") for job in message["jobs"]], study, reporter)


def _work(jobs: list[Job], study: StudyFolder, reporter: Reporter) -> None:
    missing = [run_id for job in jobs for run_id in _missing(job, study)]
    failed: dict[str, str] = {}
    try:
        diverged = _train(jobs, study, reporter)
    except StopTraining:
        raise
    except (DistillawError, MemoryError, OSError) as error:
        for job in jobs:
            failed |= _mark_failed(job, study, str(error) or type(error).__name__)
    except Exception as error:  # a defect of ours: the trace goes to the worker's log, the study goes on
        traceback.print_exc()
        for job in jobs:
            failed |= _mark_failed(job, study, f"{type(error).__name__}: {error} (trace in {study.workers})")
    else:
        for job in jobs:
            if job.trunk in diverged:
                failed |= _mark_failed(job, study, str(diverged[job.trunk]), diverged=True)
    done = [run_id for run_id in missing if run_id not in failed]
    reporter.send({"event": "ended", "done": done, "failed": failed, **reporter.flush()})


def _train(jobs: list[Job], study: StudyFolder, reporter: Reporter) -> dict:
    import torch

    from distillaw.train.parallel import Ranks
    from distillaw.train.trunk import train_trunks

    _wait_for_inputs(jobs, study)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted: dict = {}
    for job in jobs:  # a trunk may come as two jobs, the grid's budgets and a held-out one
        wanted[job.trunk] = (*wanted.get(job.trunk, ()), *job.budgets)
    return train_trunks(wanted, study, ranks=Ranks(device=device), report=reporter)


def _wait_for_inputs(jobs: list[Job], study: StudyFolder) -> None:
    """Wait until text and teachers are here: another machine wrote them, and NFS may show them late."""
    teachers = {job.trunk.teacher_run for job in jobs if not job.trunk.teacher_fingerprint}
    files = [study.run(run_id).path / "result.json" for run_id in teachers if run_id]
    if late := wait_for_files([study.data / "manifest.json", *files]):
        raise RunError(
            f"{late[0]} is not here, though the scheduler sees it: is {study.path} one folder, shared between machines?"
        )


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
    sys.exit(serve(*sys.argv[1:4], threads=int(sys.argv[4])))
