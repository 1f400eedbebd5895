"""Where training runs: executors that the scheduler hands tasks to. This machine is here, clusters.py has the others.

`submit` gives a `concurrent.futures.Future`, done when `sweep/worker.py` has trained the task's jobs, or when whatever
trained them is gone. A thread per task waits; the process that trains is of the place's own kind. Everybody sees the
study folder under the same path, and all that a task leaves behind is there.

Not a `ProcessPoolExecutor`: one killed process breaks all of its futures and does not say which task it had or how it
ended, and its processes import the caller's script again and outlive a killed parent.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from distillaw.runs.execution import HERE, Execution
from distillaw.runs.lock import is_visible
from distillaw.runs.places import appending, remove_file
from distillaw.runs.store import StudyFolder
from distillaw.sweep.ready import TrunkJob

GONE_SECONDS = 60.0
"""How long a process that has closed its connection may take to end as well, before it is ended."""


class Lost(Exception):  # noqa: N818 - what became of a worker, not what is wrong with the program
    """Whatever trained a task ended before the task did."""

    def __init__(self, how: str, *, is_fault: bool) -> None:
        super().__init__(how)
        self.how = how
        """In words: `killed by SIGKILL`, `PREEMPTED`."""
        self.is_fault = is_fault
        """Whether its jobs may be to blame (killed, out of memory); a node taken away says nothing of them."""


@dataclass(slots=True, kw_only=True)
class TrainingTask:
    """Trunks that are trained side by side on one stream, on their way through an executor."""

    jobs: Sequence[TrunkJob]
    holder: str
    """Token of the scheduler's hold on the study folder: who has it no more is obeyed no more."""
    number: int = 0
    """Below the executor's `workers`; no other task in training has it."""
    where: str = ""
    """For people: `pid 4711`, `Slurm job 17`."""
    log: str = ""
    """The file or folder that holds what its worker printed."""
    record: Path | None = None
    """The worker's, there from when it can train (runs/lock.py)."""
    waits_for: str = "loading libraries, model and text"
    handle: Any = None
    """The place's own."""
    is_killed: bool = False
    """Whether its worker is to end now; a place that does not obey is asked again."""

    def has_begun(self) -> bool:
        """Whether a worker has come as far as to train it."""
        return self.record is not None and is_visible(self.record)


class Executor(ABC):
    """A place that trains tasks."""

    name: str
    threads = 1
    """Cores of each worker."""
    execution = HERE
    """Processes of each worker and how they share models."""
    has_devices = False
    """Whether each worker has an accelerator: then students of one shape are trained as one batched model."""

    def __init__(self, study: StudyFolder, workers: int) -> None:
        self.study, self.workers = study, workers
        self._closing = threading.Event()
        """Whoever waits for a task waits no more."""
        self._pool = ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="task")

    def submit(self, task: TrainingTask) -> "Future[dict[str, Any]]":
        """Have a task trained.

        The result is what `sweep.worker.train` returns. Raises `Lost` if its worker ended, RunError if the place takes
        none.
        """
        return self._pool.submit(self._train, task)

    def warm_up(self) -> None:  # noqa: B027 - most places have nothing to do
        """Get ready while the caller prepares the text."""

    @abstractmethod
    def _train(self, task: TrainingTask) -> dict[str, Any]:
        """Start or take a worker, wait for the task's end; called in a thread of its own."""

    @abstractmethod
    def kill(self, task: TrainingTask) -> None:
        """End its worker now, or take it out of the queue."""

    def stop(self, task: TrainingTask) -> None:
        """Ask for the end, checkpoints saved: a worker whose record is gone saves and leaves."""
        if task.has_begun() and task.record is not None:
            remove_file(task.record)
        else:
            self.kill(task)

    def close(self) -> None:
        """Let go of the place: tasks that have not ended are lost."""
        self._closing.set()
        self._pool.shutdown(cancel_futures=True)

    def _new_name(self, number: int) -> str:
        return f"{self.name}-{number}-{secrets.token_hex(4)}"

    def _order(self, task: TrainingTask, name: str) -> str:
        """What the worker of that name is told (`sweep.worker.train`): JSON."""
        task.record = self.study.workers / f"{name}.json"
        order = {"folder": str(self.study.path), "name": name, "holder": task.holder, "threads": self.threads}
        order |= {"processes": self.execution.processes, "sharding": self.execution.sharding}
        return json.dumps(order | {"jobs": [asdict(job) for job in task.jobs]})


@dataclass(slots=True)
class _Child:
    """A worker process of this machine, which lives through many tasks: torch is imported once."""

    process: subprocess.Popen[bytes]
    connection: Connection
    name: str
    log: Path


class LocalExecutor(Executor):
    """This machine: a single-threaded process per core, or one per CUDA device where there are any.

    With processes, workers take so many cores or devices each.
    """

    name = "local"

    def __init__(self, study: StudyFolder, workers: int, execution: Execution = HERE) -> None:
        super().__init__(study, workers)
        self.execution, self.threads = execution, execution.processes
        self._devices = cuda_devices()
        self.has_devices = bool(self._devices)
        self._children: dict[int, _Child] = {}

    def warm_up(self) -> None:
        """All processes begin to import."""
        for number in range(self.workers):
            self._children[number] = self._start(number)

    def _train(self, task: TrainingTask) -> dict[str, Any]:
        number = task.number
        child = self._children.get(number)
        if child is None or child.process.poll() is not None:
            child = self._children[number] = self._start(number)
        task.where, task.log, task.handle = f"pid {child.process.pid}", str(child.log), child.process
        try:
            child.connection.send_bytes(self._order(task, child.name).encode())
            report = json.loads(child.connection.recv_bytes())
        except (OSError, EOFError):
            raise self._ended(number, child) from None
        if report["why"]:
            self._ended(number, child)
        return report

    def _ended(self, number: int, child: _Child) -> Lost:
        """Wait until a process that has let go of its connection is gone; how it ended."""
        child.connection.close()
        self._children.pop(number, None)
        try:
            code = child.process.wait(GONE_SECONDS)
        except subprocess.TimeoutExpired:
            child.process.kill()
            code = child.process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Lost(how, is_fault=code != 0)

    def _start(self, number: int) -> _Child:
        """A new process, with devices of its own (or shared in turn) where there are any, one for each of its ranks."""
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        if self._devices:
            count, ranks = len(self._devices), self.execution.processes
            own = [self._devices[(number * ranks + rank) % count] for rank in range(min(ranks, count))]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        name, log = self._new_name(number), self.study.workers / f"local-{number}.log"
        ours, theirs = socket.socketpair()
        # the folder as an argument, so that whoever lists processes sees whose worker it is
        command = [sys.executable, "-m", "distillaw.sweep.worker", str(self.study.path), name]
        with appending(log) as stream, theirs:
            process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=environment,
                pass_fds=[theirs.fileno()],
            )
        return _Child(process, Connection(ours.detach()), name, log)

    def stop(self, task: TrainingTask) -> None:
        """By signal, which is noticed after the next step."""
        if task.handle is not None:
            task.handle.terminate()

    def kill(self, task: TrainingTask) -> None:
        """At once."""
        if task.handle is not None:
            task.handle.kill()

    def close(self) -> None:
        """The processes end as their connections do."""
        for number, child in list(self._children.items()):
            if not (self.study.workers / f"{child.name}.json").exists():
                child.process.kill()  # it imports, for a task that never came
            self._ended(number, child)
        super().close()


def cuda_devices() -> list[str]:
    """CUDA devices this process may use, as CUDA_VISIBLE_DEVICES names them; asked of the driver, not of torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device and device != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return [str(n) for n, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]
