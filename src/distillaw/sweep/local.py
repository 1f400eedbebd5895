"""The local scheduler: one single-threaded worker process per core, jobs handed out as they become ready.

Small models run fastest one to a core. Workers live through many jobs, so torch is imported once each; the
scheduler itself never imports it. All state is on disk: kill anything at any moment and run again.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, Self

from distillaw.errors import RunError
from distillaw.runs.spec import shared_stream
from distillaw.runs.store import StudyFolder
from distillaw.sweep.jobs import Board, Job

STOP_SECONDS = 20.0
"""How long workers may take to save their checkpoints after being asked to stop."""
MAX_CRASHES = 2
"""A job whose worker dies this often (killed, out of memory) is marked failed."""


class Display(Protocol):
    """What the scheduler tells the person who watches."""

    def started(self, job: Job, worker: int) -> None:
        """A worker has taken a job."""

    def progressed(self, job: Job, tokens: int, loss: float | None) -> None:
        """A job has trained on further tokens; the loss is its training loss just now."""

    def finished(self, job: Job) -> None:
        """All runs of a job are on disk."""

    def failed(self, job: Job, error: str) -> None:
        """A job is given up."""

    def note(self, message: str) -> None:
        """Something the person who watches should know."""


@dataclass(slots=True)
class Worker:
    """One worker process and the jobs it has: trunks that it trains side by side on one stream."""

    process: subprocess.Popen[bytes]
    number: int
    jobs: list[Job] = field(default_factory=list)
    is_ready: bool = False
    pending: bytes = b""
    """Output read so far that is not yet a whole line."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What one call of the scheduler did."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    """What the study still lacks because something it needs has failed, in words."""
    busy_seconds: float = 0.0
    """CPU seconds of scheduler and workers, from the operating system, tokenising included."""
    wall_seconds: float = 0.0
    workers: int = 0


class LocalScheduler:
    """Runs jobs on this machine until none is left; used in a `with` block, which owns the worker processes."""

    def __init__(self, study: StudyFolder, *, workers: int, display: Display) -> None:
        self._study, self._count, self._display = study, workers, display
        self._workers: list[Worker] = []
        self._selector = selectors.DefaultSelector()
        self._crashes: dict[str, int] = {}
        self._any_was_ready = False
        self._outcome = Outcome(workers=workers)
        self._began, self._before = time.monotonic(), os.times()

    def __enter__(self) -> Self:
        """Workers start with `warm_up`, or when the first job needs them."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop all workers, checkpoints saved, and settle the outcome."""
        self._stop()
        after, before = os.times(), self._before
        self._outcome.wall_seconds = time.monotonic() - self._began
        self._outcome.busy_seconds = sum(after[:4]) - sum(before[:4])  # user and system, own and children's

    def warm_up(self) -> None:
        """Start every worker now, so that they import torch while the caller prepares the text."""
        while len(self._workers) < self._count:
            self._start_worker()

    def run(self, board: Callable[[], Board]) -> Outcome:
        """Train until the board has no unfinished job; `board` is asked again after every finished one.

        The outcome's times are settled when the `with` block ends.

        Raises:
            RunError: workers cannot be started.
            KeyboardInterrupt: passed on; leaving the `with` block has the workers save their checkpoints.
        """
        while self._assign(board()):
            self._wait()
        return self._outcome

    def _assign(self, board: Board) -> bool:
        """Give ready jobs to free workers; False when nothing is left to do."""
        running = {job.trunk.trunk_id for worker in self._workers for job in worker.jobs}
        ready = [job for job in board.jobs if job.trunk.trunk_id not in running and self._is_open(job)]
        workers = self._free_workers(len(ready))
        for worker, jobs in zip(workers, share_out(ready, len(workers), self._crashes), strict=False):
            worker.jobs = jobs
            self._send(worker)
            for job in jobs:
                self._display.started(job, worker.number)
        return any(worker.jobs for worker in self._workers)

    def _is_open(self, job: Job) -> bool:
        """Whether it has unfinished runs and none that failed (those wait for the next call, or for ever)."""
        states = [self._study.run(run_id).state() for run_id in job.run_ids]
        return "failed" not in states and any(state != "done" for state in states)

    def _free_workers(self, wanted: int) -> list[Worker]:
        for worker in [w for w in self._workers if w.process.poll() is not None and not w.jobs]:
            self._forget(worker)
        while len(self._workers) < min(self._count, wanted + sum(bool(w.jobs) for w in self._workers)):
            self._start_worker()
        return [worker for worker in self._workers if not worker.jobs]

    def _start_worker(self) -> None:
        number = next(n for n in range(self._count) if all(w.number != n for w in self._workers))
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        with (self._study.path / f"worker-{number}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "distillaw.sweep.worker", str(self._study.path)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0, env=environment,
            )  # fmt: skip
        worker = Worker(process, number)
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        self._workers.append(worker)

    def _send(self, worker: Worker) -> None:
        assert worker.process.stdin is not None
        try:
            message = {"jobs": [asdict(job) for job in worker.jobs]}
            worker.process.stdin.write(json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            pass  # it died: its end of output tells

    def _wait(self) -> None:
        """Handle messages until some job has ended, so that the board is asked only when it may have changed."""
        while True:
            for key, _ in self._selector.select(timeout=1.0):
                if self._read(key.data):
                    return

    def _read(self, worker: Worker) -> bool:
        """Handle what a worker has written; True if its job ended."""
        assert worker.process.stdout is not None
        raw = os.read(worker.process.stdout.fileno(), 1 << 16)
        if not raw:
            return self._crashed(worker)
        *lines, worker.pending = (worker.pending + raw).split(b"\n")
        ended = [self._handle(worker, json.loads(line)) for line in lines]
        return any(ended)

    def _handle(self, worker: Worker, message: dict[str, Any]) -> bool:
        """Act on one message; True if the worker's jobs ended."""
        if message["event"] == "ready":
            worker.is_ready = self._any_was_ready = True
            return False
        if message["event"] == "progress":
            for job in worker.jobs:
                self._display.progressed(job, int(message["tokens"]) // len(worker.jobs), message["loss"])
            return False
        jobs, worker.jobs = worker.jobs, []
        self._outcome.done.extend(message["done"])
        for job in jobs:
            errors = {
                run_id: message["failed"][run_id] for run_id in job.run_ids if run_id in message["failed"]
            }
            if errors:
                self._fail(job, errors)
            else:
                self._display.finished(job)
        return True

    def _crashed(self, worker: Worker) -> bool:
        """A worker's output ended: retry its jobs on a new one, or give them up."""
        jobs, code = worker.jobs, worker.process.wait()
        self._forget(worker)
        if not jobs:
            return False
        if not worker.is_ready and not self._any_was_ready:
            raise RunError(
                f"a worker ended with code {code} before its first job; see {self._study.path}/worker-*.log"
            )
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        for job in jobs:
            crashes = self._crashes[job.trunk.trunk_id] = self._crashes.get(job.trunk.trunk_id, 0) + 1
            if crashes >= MAX_CRASHES:
                self._give_up(job, f"its worker died {crashes} times ({how}; out of memory?); "
                                   f"see {self._study.path}/worker-*.log")  # fmt: skip
        return True

    def _give_up(self, job: Job, error: str) -> None:
        open_runs = [run_id for run_id in job.run_ids if self._study.run(run_id).state() != "done"]
        for run_id in open_runs:
            self._study.run(run_id).set_status("failed", error=error)
        self._fail(job, dict.fromkeys(open_runs, error))

    def _fail(self, job: Job, errors: dict[str, str]) -> None:
        self._outcome.failed.update(errors)
        self._display.failed(job, next(iter(errors.values())))

    def _forget(self, worker: Worker) -> None:
        self._workers.remove(worker)
        assert worker.process.stdout is not None and worker.process.stdin is not None
        self._selector.unregister(worker.process.stdout)
        worker.process.stdout.close()
        try:
            worker.process.stdin.close()
        except BrokenPipeError:
            pass

    def _stop(self) -> None:
        """Ask all workers to save and end; the slow ones are killed."""
        if any(worker.jobs for worker in self._workers):
            self._display.note("stopping: the workers save their checkpoints")
        for worker in self._workers:
            if worker.jobs:
                worker.process.terminate()
            if worker.process.stdin:
                worker.process.stdin.close()
        deadline = time.monotonic() + STOP_SECONDS
        for worker in list(self._workers):
            try:
                worker.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            self._forget(worker)


def share_out(ready: Sequence[Job], workers: int, crashes: Mapping[str, int]) -> list[list[Job]]:
    """The next jobs for some free workers: students of one stream and teacher together, unless a core would idle.

    Args:
        ready: jobs in the order they should start.
        workers: how many are free.
        crashes: how often a trunk's worker has died; such trunks are trained alone.
    """
    groups: dict[object, list[Job]] = {}
    for job in ready:
        trunk = job.trunk
        alone = trunk.teacher_run is None or trunk.trunk_id in crashes
        key = trunk.trunk_id if alone else shared_stream(trunk)
        groups.setdefault(key, [])
        if all(other.trunk.trunk_id != trunk.trunk_id for other in groups[key]):  # one checkpoint, one worker
            groups[key].append(job)
    tasks = list(groups.values())
    while len(tasks) < workers and len(longest := max(tasks, key=len, default=[])) > 1:
        tasks.remove(longest)
        tasks += [longest[0::2], longest[1::2]]
    return tasks[:workers]


def available_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: respects taskset and containers
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
