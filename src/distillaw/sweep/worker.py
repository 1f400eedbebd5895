"""What trains a task, wherever it runs: a process of this machine, a Slurm job, a task of Ray.

A worker stops cleanly, checkpoint saved, when a signal asks it to (Slurm warns so before it takes a node away), when
its record in workers/ is removed, and when the scheduler that sent it holds the study no more. A killed one is simply
replaced, since everything it knew is on disk.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillaw.errors import DistillawError, RunError
from distillaw.runs.config import from_table
from distillaw.runs.lock import LOCK, Claim, HolderWatch, make_claim, record_of, wait_for_files
from distillaw.runs.store import StudyFolder
from distillaw.sweep.ready import TrunkJob

if TYPE_CHECKING:
    from distillaw.models.parallel import Ranks

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""One thread per worker unless it is given more; read when torch is imported."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
"""What asks a worker to save and leave: the usual one, and the one that Slurm sends ahead of a time limit."""
IDLE_SECONDS = 0.5
"""How soon an idle worker of this machine heeds a signal."""
WATCH_SECONDS = 0.1
"""How often a worker of several processes looks at them."""
LAST_SECONDS = 5.0
"""How long the others may take to end after one has died, so that who died first is named."""
RANK = "rank"


def train(order: str) -> dict[str, Any]:
    """Train a task (`sweep.executor.TrainingTask.order`) in this process, as a worker of its own.

    Returns:
        `done`: runs that it finished; `failed`: run -> error; `cpu_seconds` since the task before, imports included;
        `why` it left early, empty if it did not; `died`: which of its processes did, and how, empty if none.
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
    died, of_ranks = "", sum(os.times()[2:4])
    with contextlib.suppress(StopTraining):
        if not worker.is_to_leave() and told.get("processes", 1) > 1:
            died = _watch(told, worker)
            states = {run_id: study.run(run_id) for run_id in missing}
            failed = {key: run.failure()[0] for key, run in states.items() if run.state() == "failed"}
        elif not worker.why:
            failed = _try(jobs, study, worker)
    left = study.unfinished(missing)
    done = [run_id for run_id in missing if run_id not in left]
    before, worker.counted = worker.counted, time.process_time()
    spent = worker.counted - before + sum(os.times()[2:4]) - of_ranks
    return {"done": done, "failed": failed, "cpu_seconds": spent, "why": worker.why, "died": died}


def _watch(told: dict[str, Any], worker: _Worker) -> str:
    """Have a task trained by several processes of this machine; how the first of them that died did, else empty.

    They are asked to save and leave when this one is, and none outlives it.
    """
    world = told["processes"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    known = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(world):
            variables = {key: str(value) for key, value in (known | {"RANK": rank, "LOCAL_RANK": rank}).items()}
            command = [sys.executable, "-m", "distillaw.sweep.worker", told["folder"], told["name"], RANK]
            # the order comes by a pipe: how long a command line may be is the machine's to say
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, env=os.environ | variables, start_new_session=True
            )
            ranks.append(process)
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # one that has died is seen below
                pipe.write(json.dumps(told | {"parent": os.getpid()}).encode())
        is_asked, until = False, float("inf")
        while any(rank.poll() is None for rank in ranks) and time.monotonic() < until:
            if any(rank.returncode for rank in ranks):
                until = min(until, time.monotonic() + LAST_SECONDS)
            if worker.is_to_leave() and not is_asked:
                is_asked = True
                for rank in ranks:
                    rank.terminate()
            time.sleep(WATCH_SECONDS)
        codes = [rank.returncode for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    # one that was killed is named before those that only lost it
    ended = sorted((code, rank) for rank, code in enumerate(codes) if code)
    if not ended:
        return ""
    code, rank = ended[0]
    return f"rank {rank} of {world} " + (
        f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    )


def _rank(order: str) -> None:
    """One of several processes that train a task together, until it is done or the worker asks for the end."""
    told = json.loads(order)
    _end_with(told["parent"])
    _prepare(max(1, told["threads"] // told["processes"]))
    from distillaw.models.parallel import join_ranks
    from distillaw.runs.execution import Execution
    from distillaw.train.loop import StopRequest, StopTraining

    jobs = [from_table(TrunkJob, job, "job") for job in told["jobs"]]
    with StopRequest(lambda tokens, loss: None) as request:
        with join_ranks(Execution(sharding=told["sharding"])) as ranks, contextlib.suppress(StopTraining):
            _try(jobs, StudyFolder(Path(told["folder"])), request, ranks)


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when the worker that started it is gone: its task goes to another."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit("the worker is gone")


def _try(
    jobs: list[TrunkJob], study: StudyFolder, report: Callable[[int, float], None], ranks: "Ranks | None" = None
) -> dict[str, str]:
    """Train; what failed is marked so in its folder. Returns run -> error."""
    from distillaw.models.parallel import is_lost_peer
    from distillaw.train.loop import StopTraining

    failed: dict[str, str] = {}
    try:
        diverged = _train_trunks(jobs, study, report, ranks)
    except StopTraining:
        raise
    except (DistillawError, MemoryError, OSError) as error:
        for job in jobs:
            failed |= study.fail(job.run_ids, str(error) or type(error).__name__)
    except Exception as error:  # a defect of ours: the trace goes to the worker's log, the study goes on
        if ranks and is_lost_peer(error):  # nothing of the runs
            raise
        traceback.print_exc()
        for job in jobs:
            failed |= study.fail(job.run_ids, f"{type(error).__name__}: {error} (trace in {study.workers})")
    else:
        for job in jobs:
            if job.trunk in diverged:
                failed |= study.fail(job.run_ids, str(diverged[job.trunk]), diverged=True)
    return failed


def _train_trunks(
    jobs: list[TrunkJob], study: StudyFolder, report: Callable[[int, float], None], ranks: "Ranks | None"
) -> dict:
    import torch

    from distillaw.models.parallel import Ranks
    from distillaw.train.trunk import train_trunks

    _wait_for_inputs(jobs, study)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted: dict = {}
    for job in jobs:  # a trunk may come as two jobs, the grid's budgets and a held-out one
        wanted[job.trunk] = (*wanted.get(job.trunk, ()), *job.budgets)
    return train_trunks(wanted, study, ranks=ranks or Ranks(device=device), report=report)


def _wait_for_inputs(jobs: list[TrunkJob], study: StudyFolder) -> None:
    """Wait until text and teachers are here: another machine wrote them, and NFS may show them late."""
    teachers = {job.trunk.teacher_run for job in jobs if not job.trunk.teacher_fingerprint}
    files = [study.run(run_id).path / "result.json" for run_id in teachers if run_id]
    if late := wait_for_files([study.data / "manifest.json", *files]):
        raise RunError(
            f"{late[0]} is not here, though the scheduler sees it: is {study.path} one folder, shared between machines?"
        )


if __name__ == "__main__":
    if sys.argv[3] == RANK:
        _rank(sys.stdin.read())
    else:
        _serve(sys.argv[1], sys.argv[2], Connection(int(sys.argv[3])))
