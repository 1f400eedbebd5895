"""Executors against a queue and a cluster of a few lines: what they ask, and what they make of answers."""

import json
import os
import pickle
import signal
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest

from distillaw.runs.lock import held
from distillaw.runs.store import StudyFolder
from distillaw.sweep import clusters, worker
from distillaw.sweep.clusters import RayExecutor, SlurmExecutor, WorkerOptions
from distillaw.sweep.executor import Lost, TrainingTask

COMMANDS = {
    "sbatch": 'n=$(($(cat jobs) + 1)); echo $n > jobs; echo "Submitted batch job $n"',
    "squeue": 'echo "$3" >> asked; for f in states/*; do echo "${f#states/}|$(cat $f)"; done',
    "scancel": "echo $1 >> cancelled; [ $(wc -l < cancelled) -lt $(cat deaf) ] || echo 'CANCELLED|None' > states/$1",
    "srun": "",
}


class Queue:
    """What the commands read and write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "states").mkdir(parents=True)
        (folder / "jobs").write_text("0")
        (folder / "deaf").write_text("0")
        for name, script in COMMANDS.items():
            (folder / name).write_text(f"#!/bin/sh\ncd {folder}\n{script}\n")
            (folder / name).chmod(0o755)

    def put(self, job: int, state: str) -> None:
        """The state of a job from now on."""
        (self.folder / "next").write_text(f"{state}\n")
        os.replace(self.folder / "next", self.folder / "states" / str(job))

    def lines(self, name: str) -> list[str]:
        """What a command was called with."""
        file = self.folder / name
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def queue(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path / 'queue'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(clusters, "POLL_SECONDS", 0.01)
    return Queue(tmp_path / "queue")


@pytest.fixture
def slurm(queue, tmp_path):
    pytest.importorskip("submitit")
    (tmp_path / "study").mkdir()
    executor = SlurmExecutor(StudyFolder(tmp_path / "study"), 3, WorkerOptions())
    yield executor
    executor.close()


def task(number: int = 0) -> TrainingTask:
    return TrainingTask(jobs=[], holder="", number=number)


def eventually(look):
    deadline = time.monotonic() + 60
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
    return found


def lost(future: Future) -> Lost:
    error = future.exception(timeout=60)
    assert isinstance(error, Lost), error
    return error


def test_all_jobs_are_asked_for_at_once(queue, slurm):
    for job in (1, 2, 3):
        queue.put(job, "RUNNING|None")
    tasks = [task(n) for n in range(3)]
    futures = [slurm.submit(each) for each in tasks]
    eventually(lambda: "--jobs=1,2,3" in queue.lines("asked"))
    for job in (1, 2, 3):
        queue.put(job, "PREEMPTED|None" if job == 2 else "FAILED|None")
    ends = [(lost(future).how, each.where) for each, future in zip(tasks, futures, strict=True)]
    assert sorted(ends) == [("FAILED", "Slurm job 1"), ("FAILED", "Slurm job 3"), ("PREEMPTED", "Slurm job 2")]


def test_a_state_in_words_says_what_a_job_waits_for(queue, slurm):
    queue.put(1, "PENDING|Resources")
    waiting = task()
    slurm.submit(waiting)
    eventually(lambda: waiting.waits_for == "pending (Resources)")


@pytest.mark.parametrize(("state", "is_fault"), [("PREEMPTED", False), ("NODE_FAIL", False), ("OUT_OF_MEMORY", True)])
def test_a_job_that_ends_otherwise_is_lost_and_its_state_tells_whose_fault(queue, slurm, state, is_fault):
    queue.put(1, f"{state}|None")
    error = lost(slurm.submit(task()))
    assert (error.how, error.is_fault) == (state, is_fault)


def outcome(slurm, job: int, *result: object) -> None:
    """What submitit leaves when a job has ended."""
    (slurm.study.workers / f"{job}_0_result.pkl").write_bytes(pickle.dumps(result))


def test_a_job_that_the_queue_has_forgotten_is_known_by_its_result(queue, slurm):
    queue.put(1, "RUNNING|None")
    future = slurm.submit(task())
    eventually(lambda: queue.lines("asked"))
    outcome(slurm, 1, "success", {"done": []})
    (queue.folder / "states" / "1").unlink()
    assert future.result(timeout=60) == {"done": []}


def test_a_worker_that_failed_outside_of_its_jobs_is_lost_and_no_traceback(queue, slurm):
    queue.put(1, "RUNNING|None")
    future = slurm.submit(task())
    eventually(lambda: queue.lines("asked"))
    outcome(slurm, 1, "error", "Traceback\nModuleNotFoundError: No module named 'distillaw'")
    queue.put(1, "COMPLETED|None")
    error = lost(future)
    assert error.is_fault and "outside of its task" in error.how


def test_a_job_is_cancelled_until_the_queue_obeys(queue, slurm):
    queue.put(1, "PENDING|Priority")
    (queue.folder / "deaf").write_text("3")
    killed = task()
    future = slurm.submit(killed)
    slurm.kill(killed)
    error = lost(future)
    assert (error.how, error.is_fault) == ("CANCELLED", False)
    assert queue.lines("cancelled") == ["1", "1", "1"]


def test_a_queue_that_never_obeys_does_not_hold_who_closes(queue, slurm):
    queue.put(1, "RUNNING|None")
    (queue.folder / "deaf").write_text("1000000")
    killed = task()
    future = slurm.submit(killed)
    slurm.kill(killed)
    eventually(lambda: queue.lines("cancelled"))
    slurm.close()
    assert not lost(future).is_fault


# --- Ray ------------------------------------------------------------------------------------------------------


class FakeRay(SimpleNamespace):
    """A cluster whose tasks end as a test says."""

    def __init__(self) -> None:
        kinds = "RayTaskError WorkerCrashedError OutOfMemoryError NodeDiedError TaskCancelledError GetTimeoutError"
        kinds += " LocalRayletDiedError"
        self.exceptions = SimpleNamespace(**{name: type(name, (Exception,), {}) for name in kinds.split()})
        self.ends: list[object] = []

    def init(self, **settings): ...
    def is_initialized(self):
        return False

    def remote(self, **settings):
        return lambda function: SimpleNamespace(remote=lambda order: order)

    def get(self, handle, timeout=None):
        if not self.ends:
            raise self.exceptions.GetTimeoutError("not yet")
        end = self.ends.pop()
        if isinstance(end, str):
            raise getattr(self.exceptions, end)("it ended")
        return end

    def nodes(self):
        return []

    def shutdown(self): ...


@pytest.fixture
def ray(monkeypatch):
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


@pytest.mark.parametrize(
    ("end", "is_fault"),
    [
        ("RayTaskError", True),
        ("WorkerCrashedError", True),
        ("OutOfMemoryError", True),
        ("NodeDiedError", False),
        ("LocalRayletDiedError", False),
        ("TaskCancelledError", False),
    ],
)
def test_a_lost_node_is_nobodys_fault_even_before_its_worker_began(ray, tmp_path, end, is_fault):
    executor = RayExecutor(StudyFolder(tmp_path), 1, WorkerOptions())
    ray.ends = [end]
    error = lost(executor.submit(task()))
    assert end in error.how and error.is_fault is is_fault
    executor.close()


def test_a_task_of_ray_that_never_ends_does_not_hold_who_closes(ray, tmp_path):
    executor = RayExecutor(StudyFolder(tmp_path), 2, WorkerOptions())
    future = executor.submit(task())
    executor.close()
    assert not lost(future).is_fault
    ray.ends = [{"done": []}]


# --- a worker of this machine -----------------------------------------------------------------------------------


class Told:
    """A connection with so many orders, then its end."""

    def __init__(self, *orders: dict) -> None:
        self.orders, self.reports = list(orders), []

    def poll(self, seconds: float) -> bool:
        return True

    def recv_bytes(self) -> bytes:
        if not self.orders:
            raise EOFError
        return json.dumps(self.orders.pop(0)).encode()

    def send_bytes(self, report: bytes) -> None:
        self.reports.append(json.loads(report))


@pytest.fixture
def order(tmp_path, monkeypatch):
    """A task without jobs, of a scheduler that lives."""
    monkeypatch.setattr(worker, "_prepare", lambda threads: None)
    with held(tmp_path / "study", "it") as claim:
        yield {"folder": str(tmp_path / "study"), "name": "one", "holder": claim.token, "threads": 1, "jobs": []}


@pytest.fixture
def served():
    """`_serve` is for a process of its own, and ignores Ctrl-C until that ends."""
    before = signal.getsignal(signal.SIGINT)
    yield worker._serve
    signal.signal(signal.SIGINT, before)


def test_an_error_of_the_disk_is_seen_and_the_end_of_the_scheduler_is_no_error(order, served, monkeypatch):
    def broken(told, worker):
        raise OSError(5, "Input/output error")

    served(order["folder"], "one", Told())
    monkeypatch.setattr(worker, "_train", broken)
    with pytest.raises(OSError, match="Input/output"):
        served(order["folder"], "one", Told(order))


def test_processor_time_is_counted_once_and_imports_are_in_it(order, served, monkeypatch):
    """A process of this machine is the worker's from its start, one of Ray from the task that it is given."""
    clock = iter(range(5, 100, 5))
    monkeypatch.setattr(worker, "time", SimpleNamespace(process_time=lambda: next(clock)))
    monkeypatch.setattr(worker, "_try", lambda jobs, study, worker: {})
    told = Told(order, order)
    served(order["folder"], "one", told)
    assert [report["cpu_seconds"] for report in told.reports] == [5, 5]
    assert [worker.train(json.dumps(order))["cpu_seconds"] for _ in range(2)] == [5, 5]
