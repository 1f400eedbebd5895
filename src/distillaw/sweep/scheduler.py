"""The scheduler: hands out jobs as they become ready, to workers that may run anywhere (sweep/executor.py).

All state is on disk: kill anything at any moment and run again, here or elsewhere. How far a task is, the logs of its
runs say. Two kinds of death are told apart. One that the job may have caused (killed, out of memory) counts against it,
and the second ends it; one that came from outside (preempted, time limit, node lost) does not: another worker goes on
from the checkpoint. What it holds and leaves in the folder:

    .lock, .lock.json   the hold (runs/lock.py)
    workers/*.json      a record per worker while it lives
    journal.jsonl       one line per event, appended: began, ended (a task), lost (a worker), again, changed, stopped
    scheduler.json      what is in training now: where, what, how far; replaced every few seconds

Nothing is decided from the last two; a disk that is full costs lines there, never a run.
"""

import contextlib
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from distillaw.errors import DistillawError, RunError
from distillaw.runs.files import append_json_lines, read_json, write_json, write_text
from distillaw.runs.lock import LATE_SECONDS, Claim, held, is_alive, read_holder, wait_for_files
from distillaw.runs.places import remove_file
from distillaw.runs.spec import shared_batches, shared_stream
from distillaw.runs.store import StudyFolder, saved_step
from distillaw.sweep.executor import Executor, Lost, TrainingTask
from distillaw.sweep.ready import ReadyJobs, TrunkJob

WAIT_SECONDS = 600.0
"""How long a worker of an earlier scheduler may take to save and end: the largest checkpoints over slow networks."""
NOTICE_SECONDS = 5.0
"""How old scheduler.json may be; `study status --watch` looks as often."""


@contextlib.contextmanager
def hold_study(study: StudyFolder, say: Callable[[str], None]) -> Iterator[Claim]:
    """Hold the folder for the duration, once no worker of an earlier scheduler lives.

    Workers of a killed scheduler notice, save and end by themselves, but not in the same instant; a new worker on the
    same trunk beside them would be one too many.

    Raises:
        RunError: another process works on it, or it cannot be written.
    """
    with held(study.path, f"the study {study.path}", say) as claim:
        wait_for_former_workers(study, say)
        yield claim


def wait_for_former_workers(study: StudyFolder, say: Callable[[str], None]) -> None:
    """Wait until no worker of an earlier scheduler lives, and remove what dead ones left.

    One that does not end within ten minutes (it hangs, or was suspended) loses its record, and with it its work: it
    looks for the record every two seconds, and ends without it.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    records = sorted(study.workers.glob("*.json"))
    with ThreadPoolExecutor(max_workers=32) as pool:  # each of another machine is watched for half a minute
        list(pool.map(lambda record: _wait_for(record, say, deadline), records))


def _wait_for(record: Path, say: Callable[[str], None], deadline: float) -> None:
    is_told = False
    while (holder := read_holder(record)) is not None and is_alive(record, holder):
        if not is_told:
            say(f"waiting for a worker of an earlier scheduler to save and end: {holder}")
            is_told = True
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    remove_file(record)


JOURNAL, NOTICE = "journal.jsonl", "scheduler.json"


def log_event(folder: Path, event: str, **facts: object) -> None:
    """Append to the journal of a study, stamped with this machine's clock; for people, nothing is computed from it."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with contextlib.suppress(DistillawError):
        append_json_lines(folder / JOURNAL, [{"at": at, "event": event, **facts}])


def read_notice(folder: Path) -> dict:
    """What scheduler.json says; empty if there is none."""
    with contextlib.suppress(DistillawError):
        return read_json(folder / NOTICE)
    return {}


TICK_SECONDS = 0.1
"""How long the beginning of a task may go unnoticed; its end is noticed at once."""
LOOK_SECONDS = 0.5
"""How often the logs of what is in training are read."""
STOP_SECONDS = 20.0
"""How long workers may take to save their checkpoints after being asked to stop."""
MAX_CRASHES = 2
"""A job whose worker dies this often (killed, out of memory) is marked failed: once may be chance."""
MAX_FRUITLESS = 10
"""A job that loses this many workers in a row, none of its own fault, before any saved a step is marked failed; and
as many workers in a row that end before they can train end the call."""
PROBE_BYTES = 1 << 16
"""Written to see whether anything can be: more than a file system keeps beside a name."""
TAIL_BYTES = 1 << 13
"""Of a log, its last rows; a row has some hundred."""


class Display:
    """What the scheduler tells the person who watches; this one says nothing: failures are listed at the end."""

    def started(self, job: TrunkJob, worker: int) -> None:
        """A worker has taken a job."""

    def progressed(self, job: TrunkJob, tokens: int, loss: float | None) -> None:
        """A job has trained on further tokens; the loss is its training loss just now."""

    def finished(self, job: TrunkJob) -> None:
        """All runs of a job are on disk."""

    def failed(self, job: TrunkJob, error: str) -> None:
        """A job is given up."""

    def note(self, message: str) -> None:
        """Something the person who watches should know."""

    def expect(self, tokens: float) -> None:
        """So many tokens more than was known, of work whose extent shows as it goes."""


@dataclass(slots=True, kw_only=True)
class StudyOutcome:
    """What one call of the scheduler did."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    """What the study still lacks because something it needs has failed, in words."""
    busy_seconds: float = 0.0
    """CPU seconds of scheduler and workers, tokenising and imports included; a killed worker's last job is not."""
    wall_seconds: float = 0.0
    workers: int = 0

    def then(self, later: "StudyOutcome") -> "StudyOutcome":
        """Both calls as one; what failed or waits is what still does."""
        return StudyOutcome(
            done=[*self.done, *later.done],
            failed=later.failed,
            waiting=later.waiting,
            busy_seconds=self.busy_seconds + later.busy_seconds,
            wall_seconds=self.wall_seconds + later.wall_seconds,
            workers=max(self.workers, later.workers),
        )


@dataclass(slots=True)
class _Entry:
    """A task that was handed out."""

    task: TrainingTask
    seen: dict[str, float]
    """Trunk -> tokens in its logs when they were last read."""
    saved: list[int]
    """How far its jobs were on disk when it was handed out (`_saved`)."""
    since: float | None = None
    """When its training began; None before that."""
    tokens: float = 0.0
    """Trained on since it began."""

    def facts(self) -> dict[str, object]:
        """What the journal and scheduler.json say of it; nothing of jobs before their training began."""
        jobs = self.task.jobs if self.since is not None else ()
        return {
            "where": self.task.where,
            "trunks": [job.trunk.trunk_id for job in jobs],
            "runs": [run_id for job in jobs for run_id in job.run_ids],
            "tokens": round(self.tokens),
            "seconds": time.monotonic() - self.since if self.since is not None else 0.0,
        }

    def record(self) -> dict[str, object]:
        """Its entry in scheduler.json."""
        state = f"starting: {self.task.waits_for}" if self.since is None else "busy"
        return {"number": self.task.number, "log": self.task.log, "state": state, **self.facts()}


class Scheduler:
    """Runs jobs until none is left; used in a `with` block, which owns the workers."""

    def __init__(self, study: StudyFolder, executor: Executor, *, display: Display, claim: Claim) -> None:
        self._study, self._executor, self._display, self._claim = study, executor, display, claim
        self._entries: dict[Future[dict[str, Any]], _Entry] = {}
        self._crashes: Counter[str] = Counter()
        self._fruitless: Counter[str] = Counter()
        self._false_starts, self._any_has_begun, self._is_stopping = 0, False, False
        self._unheard: BrokenPipeError | None = None
        self._outcome = StudyOutcome(workers=executor.workers)
        own = {"host": socket.gethostname(), "pid": os.getpid()}
        self._place = {"executor": executor.name, "threads": executor.threads, **own}
        self._began, self._cpu_before = time.monotonic(), time.process_time()
        self._looked, self._noticed = 0.0, -float("inf")

    def __enter__(self) -> Self:
        """Workers start with `warm_up`, or when the first job needs them."""
        facts = ("where", "trunks", "tokens", "seconds")
        for worker in read_notice(self._study.path).get("workers", ()):
            if worker["trunks"]:  # the scheduler before this one was killed
                log_event(self._study.path, "cut", **{key: worker[key] for key in facts})
        log_event(self._study.path, "began", workers=self._executor.workers, **self._place)
        self._write_notice()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop all workers, checkpoints saved, and settle the outcome."""
        try:
            self._stop()
        finally:
            self._executor.close()
            self._outcome.wall_seconds = wall = time.monotonic() - self._began
            self._outcome.busy_seconds += time.process_time() - self._cpu_before
            log_event(self._study.path, "stopped", wall_seconds=wall, cpu_seconds=self._outcome.busy_seconds)
            with contextlib.suppress(OSError):
                remove_file(self._study.path / NOTICE)

    def warm_up(self) -> None:
        """Have workers import torch while the caller prepares the text."""
        self._executor.warm_up()

    def run(self, ready: Callable[[], ReadyJobs]) -> StudyOutcome:
        """Train until no ready job is left; `ready` is asked again after every finished one.

        The outcome's times are settled when the `with` block ends.

        Raises:
            RunError: workers cannot be started, the disk is full, or another process took the folder.
            BrokenPipeError: who watched is gone (`study run ... 2>&1 | head`); what had ended by then is booked.
            KeyboardInterrupt: passed on; leaving the `with` block has the workers save their checkpoints.
        """
        while self._hand_out(ready()):
            self._write_notice()
            self._wait()
        return self._outcome

    # --- handing out ----------------------------------------------------------------------------------------

    def _hand_out(self, ready: ReadyJobs) -> bool:
        """Give ready jobs to free workers; False when nothing is left to do."""
        busy = {job.trunk.trunk_id for entry in self._entries.values() for job in entry.task.jobs}
        open_jobs = [job for job in ready.jobs if job.trunk.trunk_id not in busy and self._is_open(job)]
        free = self._executor.workers - len(self._entries)
        for jobs in share_out(open_jobs, free, self._crashes, stacked=self._executor.has_devices):
            taken = {entry.task.number for entry in self._entries.values()}
            number = next(n for n in range(self._executor.workers) if n not in taken)
            task = TrainingTask(jobs=jobs, holder=self._claim.token, number=number)
            seen = {job.trunk.trunk_id: logged(self._study, job)[0] for job in jobs}
            entry = _Entry(task, seen, self._saved(jobs))
            self._entries[self._executor.submit(task)] = entry
        return bool(self._entries)

    def _is_open(self, job: TrunkJob) -> bool:
        """Whether it has unfinished runs and none that failed (those wait for the next call, or for ever)."""
        states = {self._study.run(run_id).state() for run_id in job.run_ids}
        return "failed" not in states and states != {"done"}

    # --- watching -------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Watch until a task has ended, or nobody listens any more."""
        while not (ended := wait(self._entries, TICK_SECONDS, FIRST_COMPLETED).done) and not self._unheard:
            began = self._look()
            self._claim.check()
            if began or time.monotonic() - self._noticed > NOTICE_SECONDS:
                self._write_notice()
        for future in ended:
            self._end(future)
        if self._unheard:
            raise self._unheard

    def _tell(self, show: Callable[..., None], *what: object) -> None:
        """Have the display show it; that its pipe is closed is no reason to book less, so it is raised later."""
        try:
            show(*what)
        except BrokenPipeError as error:
            self._unheard = error

    def _look(self) -> bool:
        """See which tasks have begun, and how far they are; whether any began since the last look."""
        is_time, began = time.monotonic() - self._looked > LOOK_SECONDS, False
        for entry in self._entries.values():
            if entry.since is None and entry.task.has_begun():
                self._begin(entry)
                began = True
            elif entry.since is not None and is_time:
                self._read_logs(entry)
        if is_time:
            self._looked = time.monotonic()
        return began

    def _begin(self, entry: _Entry) -> None:
        entry.since, self._any_has_begun, self._false_starts = time.monotonic(), True, 0
        for job in entry.task.jobs:
            self._tell(self._display.started, job, entry.task.number)

    def _read_logs(self, entry: _Entry) -> None:
        for job in entry.task.jobs:
            name = job.trunk.trunk_id
            there, loss = logged(self._study, job)
            tokens = max(0.0, there - entry.seen[name])
            entry.seen[name] = there
            entry.tokens += tokens
            if tokens:
                self._tell(self._display.progressed, job, round(tokens), loss)

    # --- tasks that end -------------------------------------------------------------------------------------

    def _end(self, future: "Future[dict[str, Any]]") -> None:
        entry = self._entries.pop(future)
        error = future.exception()
        if error is not None and not isinstance(error, Lost):
            if not self._is_stopping:
                raise error
            return
        if entry.since is None and (error is None or entry.task.has_begun()):
            self._begin(entry)
        if entry.since is not None:
            self._read_logs(entry)
        if error is None:
            self._reported(entry, future.result())
        else:
            self._lost(entry, error)

    def _reported(self, entry: _Entry, report: Mapping[str, Any]) -> None:
        """A worker has come to the end of its task, or left it in good order."""
        done, failed, spent = list(report["done"]), dict(report["failed"]), report["cpu_seconds"]
        for run_id in self._unseen(done):
            done.remove(run_id)
            failed[run_id] = (
                f"{entry.task.where} has finished it, but result.json is not here after {LATE_SECONDS:g} s: "
                f"is {self._study.path} one folder, shared between machines?"
            )
        self._outcome.busy_seconds += spent
        self._outcome.done.extend(done)
        died = report.get("died", "")
        event, how = ("lost", died or f"asked to leave {report['why']}") if died or report["why"] else ("ended", "")
        self._log(event, entry, how=how, done=done, failed=failed, cpu_seconds=spent)
        if failed and not self._is_stopping:
            self._check_disk()
        for job in entry.task.jobs:
            errors = {run_id: failed[run_id] for run_id in job.run_ids if run_id in failed}
            if errors:
                self._fail(job, errors)
            elif not self._is_open(job):
                self._tell(self._display.finished, job)
        if how:
            self._replace(entry, how, is_fault=bool(died))

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

    def _lost(self, entry: _Entry, lost: Lost) -> None:
        """A worker is gone: its jobs go to another one, or are given up."""
        task = entry.task
        if task.record is not None:
            remove_file(task.record)
        if entry.since is not None:
            self._log("lost", entry, how=lost.how)
        if self._is_stopping:
            return
        if lost.is_fault:
            self._check_disk()
        if entry.since is None:
            self._false_starts += 1
            if (lost.is_fault and not self._any_has_begun) or self._false_starts >= MAX_FRUITLESS:
                raise RunError(f"a worker ended ({task.where}: {lost.how}) before its first job; see {task.log}")
        self._replace(entry, lost.how, is_fault=lost.is_fault)

    def _replace(self, entry: _Entry, how: str, *, is_fault: bool = False) -> None:
        """What a worker has left goes to another one, unless workers died of it, or saved nothing of it, too often."""
        if self._is_stopping:
            return
        is_vain = not is_fault and self._saved(entry.task.jobs) == entry.saved
        for job in filter(self._is_open, entry.task.jobs if entry.since is not None else ()):
            name, see = job.trunk.trunk_id, f"see {entry.task.log}"
            self._crashes.update([name] * is_fault)
            self._fruitless[name] = self._fruitless[name] + 1 if is_vain else 0
            if (times := self._crashes[name]) >= MAX_CRASHES:
                error = f"its worker died {times} times ({how}; out of memory?); {see}"
            elif (times := self._fruitless[name]) >= MAX_FRUITLESS:
                lost = f"{times} workers in a row were lost before they saved a step ({how})"
                error = f"{lost}: give them more time; {see}"
            else:
                continue
            self._fail(job, self._study.fail(job.run_ids, error))
        if any(self._is_open(job) for job in entry.task.jobs):
            gone = f"{entry.task.where} is gone ({how}); another goes on from its checkpoints"
            self._tell(self._display.note, gone)

    def _saved(self, jobs: Sequence[TrunkJob]) -> list[int]:
        """The steps that trunks and cooldowns have saved, and which runs are done: all progress changes it."""
        runs = [self._study.run(run_id) for job in jobs for run_id in job.run_ids]
        folders = [self._study.trunk(job.trunk.trunk_id) for job in jobs] + [run.path for run in runs]
        return [*(saved_step(folder / "state") for folder in folders), *(run.state() == "done" for run in runs)]

    def _fail(self, job: TrunkJob, errors: dict[str, str]) -> None:
        self._outcome.failed.update(errors)
        self._tell(self._display.failed, job, next(iter(errors.values())))

    def _stop(self) -> None:
        """Ask all workers to save and end; the slow ones are killed."""
        self._is_stopping = True
        has_begun = any(entry.since is not None for entry in self._entries.values())
        if has_begun:
            self._tell(self._display.note, "stopping: the workers save their checkpoints")
        for end in (self._executor.stop, self._executor.kill):
            for entry in self._entries.values():
                end(entry.task)
            for future in wait(self._entries, STOP_SECONDS).done:
                self._end(future)

    # --- the record -----------------------------------------------------------------------------------------

    def _log(self, event: str, entry: _Entry, **facts: object) -> None:
        place = {"cores": self._executor.threads, "executor": self._executor.name}
        log_event(self._study.path, event, **entry.facts(), **place, **facts)

    def _write_notice(self) -> None:
        entries = [entry.record() for entry in self._entries.values()]
        notice = {"most_workers": self._executor.workers, "workers": entries, **self._place}
        self._noticed = time.monotonic()
        with contextlib.suppress(DistillawError):  # a full disk
            write_json(self._study.path / NOTICE, notice)


def logged(study: StudyFolder, job: TrunkJob) -> tuple[float, float | None]:
    """Tokens of a job that the logs of its trunk and runs tell of, cooldowns included, and the latest training loss."""
    held = 1 - job.trunk.recipe.cooldown
    logs = {study.run(job.trunk.run_id(budget)).path: held * budget for budget in job.budgets}
    tokens, latest, loss = 0.0, -1.0, None
    for folder, before in {study.trunk(job.trunk.trunk_id): 0.0, **logs}.items():
        row, written = _last_row(folder / "metrics.jsonl")
        if row:
            tokens += max(0.0, row["tokens"] - before)
            latest, loss = max((latest, loss), (written, row["loss"]), key=lambda one: one[0])
    return tokens, loss


def _last_row(log: Path) -> tuple[dict[str, Any], float]:
    """The last whole row of a log, and when it was written."""
    try:
        with log.open("rb") as stream:
            written = os.fstat(stream.fileno()).st_mtime
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - TAIL_BYTES))
            rows = stream.read().split(b"\n")[:-1]
        return (json.loads(rows[-1]) if rows else {}), written
    except (OSError, ValueError):
        return {}, 0.0


def share_out(
    ready: Sequence[TrunkJob], workers: int, crashes: Mapping[str, int], *, stacked: bool = False
) -> list[list[TrunkJob]]:
    """The next jobs for some free workers: students of one stream and teacher together, unless a core would idle.

    Args:
        ready: jobs in the order they should start.
        crashes: how often a trunk's worker has died; such trunks are trained alone.
        stacked: students of one stream go together whatever teaches them; those of one shape are one batched model.
    """
    groups: dict[object, list[TrunkJob]] = {}
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
