"""The scheduler: hands out jobs as they become ready, to workers that may run anywhere (sweep/executor.py).

All state is on disk: kill anything at any moment and run again, here or elsewhere. Two kinds of death are told apart.
One that the job may have caused (killed, out of memory) counts against it, and the second ends it; one that came from
outside (preempted, time limit, node lost) does not: another worker goes on from the checkpoint.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from typing import Any, Self

from distillaw.errors import RunError
from distillaw.runs.files import write_text
from distillaw.runs.late import LATE_SECONDS, wait_for_files
from distillaw.runs.lock import Claim
from distillaw.runs.places import remove_file
from distillaw.runs.spec import shared_batches, shared_stream
from distillaw.runs.store import StudyFolder
from distillaw.sweep.channel import receive, send
from distillaw.sweep.executor import Ending, Executor, Handle
from distillaw.sweep.jobs import Board, Job
from distillaw.sweep.journal import Journal, Notice
from distillaw.sweep.outcome import Display, Outcome

TICK_SECONDS = 1.0
STOP_SECONDS = 20.0
"""How long workers may take to save their checkpoints after being asked to stop."""
GONE_SECONDS = 60.0
"""How long a worker whose connection has ended may take to end as well, before it is ended."""
MAX_CRASHES = 2
"""A job whose worker dies this often (killed, out of memory) is marked failed."""
MAX_FRUITLESS = 10
"""A job that loses this many workers in a row, none of its own fault, before any trained a step is marked failed; and
as many workers in a row that end before they are ready end the call."""
PROBE_BYTES = 1 << 16


@dataclass(slots=True)
class Worker:
    """One worker and the jobs it has: trunks that it trains side by side on one stream."""

    handle: Handle
    number: int
    connection: Connection | None = None
    is_ready: bool = False
    is_leaving: bool = False
    """It was asked to go, or said that it does."""
    why: str = ""
    """Why it left, in its own words: by which signal."""
    gone_at: float | None = None
    """When its connection ended."""
    jobs: list[Job] = field(default_factory=list)
    tokens: int = 0
    """Trained on for these jobs, so far."""
    since: float = field(default_factory=time.monotonic)
    """When it got its jobs, or had its last one."""

    @property
    def is_free(self) -> bool:
        """Whether it can take jobs."""
        return self.is_ready and not self.is_leaving and not self.jobs and self.connection is not None

    @property
    def is_starting(self) -> bool:
        """Whether it may yet become ready."""
        return not self.is_ready and not self.is_leaving and self.gone_at is None

    def record(self) -> dict[str, object]:
        """What scheduler.json says of it."""
        state = "busy" if self.jobs else "idle"
        return {
            "number": self.number, "where": self.handle.where, "log": self.handle.log,
            "state": f"starting: {self.handle.waits_for()}" if self.is_starting else state,
            "trunks": [job.trunk.trunk_id for job in self.jobs],
            "runs": [run_id for job in self.jobs for run_id in job.run_ids],
            "tokens": self.tokens, "seconds": time.monotonic() - self.since if self.jobs else 0.0,
        }  # fmt: skip


class Scheduler:
    """Runs jobs until none is left; used in a `with` block, which owns the workers."""

    def __init__(
        self, study: StudyFolder, executor: Executor, *, display: Display, claim: Claim | None = None
    ) -> None:
        self._study, self._executor, self._display, self._claim = study, executor, display, claim
        self._workers: list[Worker] = []
        self._crashes: dict[str, int] = {}
        self._fruitless: dict[str, int] = {}
        self._false_starts, self._any_was_ready, self._is_stopping = 0, False, False
        self._outcome = Outcome(workers=executor.workers)
        self._began, self._cpu_before = time.monotonic(), time.process_time()
        self._journal, self._notice = Journal(study.path), Notice(study.path)

    def __enter__(self) -> Self:
        """Workers start with `warm_up`, or when the first job needs them."""
        if cut := [worker for worker in self._notice.read().get("workers", ()) if worker["trunks"]]:
            for worker in cut:  # the scheduler before this one was killed
                self._journal.add(
                    "cut", **{key: worker[key] for key in ("where", "trunks", "tokens", "seconds")}
                )
        self._journal.add(
            "began", executor=self._executor.name, workers=self._executor.workers, threads=self._executor.threads,
            host=socket.gethostname(), pid=os.getpid(),
        )  # fmt: skip
        self._write_notice()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop all workers, checkpoints saved, and settle the outcome."""
        try:
            self._stop()
        finally:
            self._executor.close()
            self._outcome.wall_seconds = time.monotonic() - self._began
            self._outcome.busy_seconds += time.process_time() - self._cpu_before
            self._journal.add(
                "stopped", wall_seconds=self._outcome.wall_seconds, cpu_seconds=self._outcome.busy_seconds
            )
            self._notice.remove()

    def warm_up(self) -> None:
        """Start every worker now, so that they import torch while the caller prepares the text."""
        while len(self._workers) < self._executor.workers:
            self._start_worker()

    def run(self, board: Callable[[], Board]) -> Outcome:
        """Train until the board has no unfinished job; `board` is asked again after every finished one.

        The outcome's times are settled when the `with` block ends.

        Raises:
            RunError: workers cannot be started, the disk is full, or another process took the folder.
            KeyboardInterrupt: passed on; leaving the `with` block has the workers save their checkpoints.
        """
        while self._assign(board()):
            self._write_notice()
            self._wait()
        return self._outcome

    # --- handing out ----------------------------------------------------------------------------------------

    def _assign(self, board: Board) -> bool:
        """Give ready jobs to free workers; False when nothing is left to do."""
        running = {job.trunk.trunk_id for worker in self._workers for job in worker.jobs}
        ready = [job for job in board.jobs if job.trunk.trunk_id not in running and self._is_open(job)]
        busy = sum(bool(worker.jobs) for worker in self._workers)
        while len(self._workers) < min(self._executor.workers, len(ready) + busy):
            self._start_worker()
        free = [worker for worker in self._workers if worker.is_free]
        expected = len(free) + sum(worker.is_starting for worker in self._workers)
        for worker, jobs in zip(
            free, share_out(ready, expected, self._crashes, stacked=self._executor.has_devices), strict=False
        ):
            self._give(worker, jobs)
        return bool(ready) or busy > 0

    def _is_open(self, job: Job) -> bool:
        """Whether it has unfinished runs and none that failed (those wait for the next call, or for ever)."""
        states = [self._study.run(run_id).state() for run_id in job.run_ids]
        return "failed" not in states and any(state != "done" for state in states)

    def _start_worker(self) -> None:
        number = next(n for n in range(self._executor.workers) if all(w.number != n for w in self._workers))
        self._workers.append(Worker(self._executor.start(number), number))

    def _give(self, worker: Worker, jobs: list[Job]) -> None:
        worker.jobs, worker.tokens, worker.since = jobs, 0, time.monotonic()
        self._send(worker, {"jobs": [asdict(job) for job in jobs]})
        for job in jobs:
            self._display.started(job, worker.number)

    def _send(self, worker: Worker, message: Mapping[str, object]) -> None:
        assert worker.connection is not None
        try:
            send(worker.connection, message)
        except OSError:
            pass  # it died: the end of its connection tells

    # --- listening ------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Handle messages until something has changed for the board or the workers."""
        while not self._listen():
            if self._claim is not None:
                self._claim.check()
            if self._notice.is_due():
                self._write_notice()

    def _listen(self) -> bool:
        """Handle what comes within a moment; True if a job ended, or a worker came or went."""
        connections = {w.connection: w for w in self._workers if w.connection is not None}
        is_ending = any(worker.gone_at is not None for worker in self._workers)
        changed = False
        for ready in wait_for_any(list(connections), timeout=0.05 if is_ending else TICK_SECONDS):
            assert isinstance(ready, Connection)
            changed |= self._read(connections[ready])
        for worker in list(self._workers):
            changed |= self._look_after(worker)
        return changed

    def _look_after(self, worker: Worker) -> bool:
        """See whether a worker has come, ended, or been idle too long; True if it ended."""
        now = time.monotonic()
        if worker.connection is None and worker.gone_at is None:
            worker.connection = worker.handle.connect()
        if worker.connection is not None:
            if worker.is_free and now - worker.since > self._executor.idle_seconds:
                worker.is_leaving = True
                self._send(worker, {"stop": True})
            return False
        ending = worker.handle.ending()
        if ending is not None:
            self._ended(worker, ending)
            return True
        if worker.gone_at is not None and now - worker.gone_at > GONE_SECONDS:
            worker.gone_at = now
            worker.handle.kill()
        return False

    def _read(self, worker: Worker) -> bool:
        """Handle one message of a worker; True if its jobs ended or it became ready."""
        assert worker.connection is not None
        message = receive(worker.connection)
        if message is not None:
            return self._handle(worker, message)
        worker.connection.close()
        worker.connection, worker.gone_at = None, time.monotonic()
        return False

    def _handle(self, worker: Worker, message: dict[str, Any]) -> bool:
        event = message["event"]
        self._outcome.busy_seconds += message.get("cpu_seconds", 0.0)
        if event == "ready":
            worker.is_ready, worker.since = True, time.monotonic()
            self._any_was_ready, self._false_starts = True, 0
            return True
        if event in ("progress", "ended") and worker.jobs:
            self._progressed(worker, int(message["tokens"]), message.get("loss"))
        if event == "leaving":
            worker.is_leaving, worker.why = True, message["why"]
        if event == "ended":
            self._jobs_ended(worker, message)
        return event == "ended"

    def _progressed(self, worker: Worker, tokens: int, loss: float | None) -> None:
        worker.tokens += tokens
        for job in worker.jobs:
            if tokens:
                self._fruitless.pop(job.trunk.trunk_id, None)
            self._display.progressed(job, tokens // len(worker.jobs), loss)

    def _jobs_ended(self, worker: Worker, message: dict[str, Any]) -> None:
        jobs, worker.jobs = worker.jobs, []
        done, failed = list(message["done"]), dict(message["failed"])
        for run_id in self._unseen(done):
            done.remove(run_id)
            failed[run_id] = (
                f"{worker.handle.where} has finished it, but result.json is not here after {LATE_SECONDS:g} s: "
                f"is {self._study.path} one folder, shared between machines?"
            )
        self._log_work("ended", worker, jobs, done=done, failed=failed, cpu_seconds=message["cpu_seconds"])
        worker.since = time.monotonic()
        if failed and not self._is_stopping:
            self._check_disk()
        self._outcome.done.extend(done)
        for job in jobs:
            errors = {run_id: failed[run_id] for run_id in job.run_ids if run_id in failed}
            if errors:
                self._fail(job, errors)
            else:
                self._display.finished(job)

    def _unseen(self, done: Sequence[str]) -> list[str]:
        """Runs that were finished elsewhere and whose results do not show here, however long one waits."""
        files = {self._study.run(run_id).path / "result.json": run_id for run_id in done}
        return [files[file] for file in wait_for_files(list(files))]

    def _check_disk(self) -> None:
        """A failed run on a full disk is no failure of the run: stop, so that nothing is trained in vain.

        Raises:
            RunError: nothing can be written.
        """
        probe = self._study.path / ".probe"
        try:
            write_text(probe, "." * PROBE_BYTES)
        finally:
            remove_file(probe, known=True)

    # --- workers that end -----------------------------------------------------------------------------------

    def _ended(self, worker: Worker, ending: Ending) -> None:
        """A worker is gone: its jobs go to another one, or are given up."""
        self._workers.remove(worker)
        how = f"asked to leave {worker.why}, {ending.how}" if worker.why else ending.how
        if worker.jobs:
            self._log_work("lost", worker, worker.jobs, how=how)
        if self._is_stopping:
            return
        if not worker.is_ready and not worker.is_leaving:
            self._false_start(worker, ending)
        is_fault = ending.is_fault and not worker.is_leaving
        for job in worker.jobs:
            self._lose(job, worker, ending, is_fault=is_fault)
        if worker.jobs and not is_fault:
            self._display.note(
                f"{worker.handle.where} is gone ({how}); another worker goes on from its checkpoints"
            )

    def _false_start(self, worker: Worker, ending: Ending) -> None:
        self._false_starts += 1
        if (ending.is_fault and not self._any_was_ready) or self._false_starts >= MAX_FRUITLESS:
            raise RunError(
                f"a worker ended ({worker.handle.where}: {ending.how}) before its first job; see {worker.handle.log}"
            )

    def _lose(self, job: Job, worker: Worker, ending: Ending, *, is_fault: bool) -> None:
        """Count the loss of a job's worker, and give the job up if that has happened too often."""
        counts, most = (self._crashes, MAX_CRASHES) if is_fault else (self._fruitless, MAX_FRUITLESS)
        if not is_fault and worker.tokens:
            return
        times = counts[job.trunk.trunk_id] = counts.get(job.trunk.trunk_id, 0) + 1
        if times < most:
            return
        if is_fault:
            self._give_up(
                job, f"its worker died {times} times ({ending.how}; out of memory?); see {worker.handle.log}"
            )
        else:
            self._give_up(job, f"{times} workers in a row were lost before they trained a step ({ending.how}): give "
                               f"them more time; see {worker.handle.log}")  # fmt: skip

    def _give_up(self, job: Job, error: str) -> None:
        open_runs = [run_id for run_id in job.run_ids if self._study.run(run_id).state() != "done"]
        for run_id in open_runs:
            self._study.run(run_id).set_status("failed", error=error)
        self._fail(job, dict.fromkeys(open_runs, error))

    def _fail(self, job: Job, errors: dict[str, str]) -> None:
        self._outcome.failed.update(errors)
        self._display.failed(job, next(iter(errors.values()), "its runs are done"))

    def _stop(self) -> None:
        """Ask all workers to save and end; the slow ones are killed."""
        self._is_stopping = True
        if any(worker.jobs for worker in self._workers):
            self._display.note("stopping: the workers save their checkpoints")
        for worker in self._workers:
            if worker.connection is not None:
                self._send(worker, {"stop": True})
            elif worker.gone_at is None:
                worker.handle.kill()
        deadline, was_killed = time.monotonic() + STOP_SECONDS, False
        while self._workers and not (was_killed and time.monotonic() > deadline):
            self._listen()
            if not was_killed and time.monotonic() > deadline:
                for worker in self._workers:
                    worker.handle.kill()
                deadline, was_killed = time.monotonic() + STOP_SECONDS, True

    # --- the record -----------------------------------------------------------------------------------------

    def _log_work(self, event: str, worker: Worker, jobs: list[Job], **facts: object) -> None:
        seconds = time.monotonic() - worker.since
        self._journal.add(
            event, where=worker.handle.where, trunks=[job.trunk.trunk_id for job in jobs],
            runs=[run_id for job in jobs for run_id in job.run_ids], tokens=worker.tokens, seconds=seconds,
            cores=self._executor.threads, executor=self._executor.name, **facts,
        )  # fmt: skip

    def _write_notice(self) -> None:
        self._notice.write({
            "executor": self._executor.name, "host": socket.gethostname(), "pid": os.getpid(),
            "most_workers": self._executor.workers, "threads": self._executor.threads,
            "workers": [worker.record() for worker in self._workers],
        })  # fmt: skip


def share_out(
    ready: Sequence[Job], workers: int, crashes: Mapping[str, int], *, stacked: bool = False
) -> list[list[Job]]:
    """The next jobs for some free workers: students of one stream and teacher together, unless a core would idle.

    Args:
        ready: jobs in the order they should start.
        workers: how many are free.
        crashes: how often a trunk's worker has died; such trunks are trained alone.
        stacked: students of one stream go together whatever teaches them; those of one shape are one batched model.
    """
    groups: dict[object, list[Job]] = {}
    for job in ready:
        trunk = job.trunk
        alone = trunk.trunk_id in crashes or (trunk.teacher_run is None and not stacked)
        key = trunk.trunk_id if alone else shared_batches(trunk) if stacked else shared_stream(trunk)
        groups.setdefault(key, [])
        if all(other.trunk.trunk_id != trunk.trunk_id for other in groups[key]):  # one checkpoint, one worker
            groups[key].append(job)
    tasks = list(groups.values())
    while len(tasks) < workers and len(longest := max(tasks, key=len, default=[])) > 1:
        tasks.remove(longest)
        if stacked:  # shapes stay together
            longest = sorted(longest, key=lambda job: job.trunk.params)
            tasks += [longest[: len(longest) // 2], longest[len(longest) // 2 :]]
        else:
            tasks += [longest[0::2], longest[1::2]]
    return tasks[:workers]
