"""Jobs over a few processes of this machine that live as long as there is work and die with their parent.

Unlike `concurrent.futures`, an interrupt ends them at once: what they do is resumable.
"""

import multiprocessing
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

from distillaw.errors import DistillawError, RunError

J = TypeVar("J")
Beat = Callable[[Any], None]
"""What a job may call with how far it is; it does not return where nobody listens any more."""
Worker = Callable[[Any, Beat], Any]


class Start(Protocol):
    """Made once, sent to every process; picklable."""

    def __call__(self, place: int) -> Worker:
        """Prepare the process with this number, and say what does a job."""


def run_all(
    jobs: Sequence[J], start: Start, *, workers: int, done: Callable[[J, Any], None],
    progressed: Callable[[J, Any], None],
) -> None:  # fmt: skip
    """Do every job, in order, as processes come free.

    Args:
        jobs: picklable.
        start: what each process begins with.
        workers: processes.
        done: called here with each job and its answer as it ends.
        progressed: called here with a job under way and what it told its beat.

    Raises:
        RunError: a process died.
        DistillawError: what a job raised; jobs under way are stopped.
    """
    context = multiprocessing.get_context("spawn")
    links: dict[Connection, tuple[multiprocessing.process.BaseProcess, J | None]] = {}
    waiting = list(jobs)
    try:
        for place in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, start, place), daemon=True)
            process.start()
            theirs.close()
            links[ours] = (process, None)
            _give(links, ours, waiting)
        while any(job is not None for _, job in links.values()):
            busy = [link for link, (_, job) in links.items() if job is not None]
            for link in wait(busy):
                assert isinstance(link, Connection)
                job = links[link][1]
                assert job is not None
                kind, answer = _hear(link, links[link][0], workers)
                if kind == "beat":
                    progressed(job, answer)
                    continue
                done(job, answer)
                _give(links, link, waiting)
    finally:
        for process, _ in links.values():
            process.terminate()
        for process, _ in links.values():
            process.join()


def _give(links: dict, link: Connection, waiting: list) -> None:
    """The next job to a process, or none."""
    job = waiting.pop(0) if waiting else None
    links[link] = (links[link][0], job)
    if job is not None:
        link.send(job)


def _hear(link: Connection, process: multiprocessing.process.BaseProcess, workers: int) -> tuple[str, Any]:
    """(`beat` or `done`, what was said)."""
    try:
        kind, answer = link.recv()
    except (EOFError, ConnectionResetError):
        process.join(5)
        code = process.exitcode or 0
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise RunError(
            f"one of {workers} processes died ({how}), most likely for want of memory; give fewer --workers. What is "
            "finished is kept, the same command continues"
        ) from None
    if kind == "error":
        raise answer
    return kind, answer


def _serve(link: Connection, start: Start, place: int) -> None:
    """The life of a process. Ctrl-C is its parent's business, which ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work: Worker | DistillawError = start(place)
    except DistillawError as error:
        work = error
    while True:
        try:
            job = link.recv()
        except EOFError:
            return
        link.send(_attempt(work, job, lambda value: _beat(link, value)))


def _beat(link: Connection, value: Any) -> None:
    """Say how far the job is; end if the parent is gone, for another run may be at its folder by now."""
    parent = multiprocessing.parent_process()
    if parent is None or not parent.is_alive():
        sys.exit(1)
    link.send(("beat", value))


def _attempt(work: "Worker | DistillawError", job: Any, beat: Beat) -> tuple[str, Any]:
    if isinstance(work, DistillawError):
        return "error", work
    try:
        return "done", work(job, beat)
    except DistillawError as error:
        return "error", error
    except Exception as error:  # whatever a library raises must reach the user, not die with this process
        return "error", RunError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
