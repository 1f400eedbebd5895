"""Progress on stderr: a live bar in a terminal, a line now and then in a log file, nothing when asked."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from distillaw.quantities import format_count, format_seconds
from distillaw.sweep.jobs import Job
from distillaw.sweep.outcome import Display

LOG_SECONDS = 20.0


def say(message: str, *, quiet: bool = False) -> None:
    """One line on stderr."""
    if not quiet:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()


class GrowingDisplay(Display, Protocol):
    """A display for work whose extent shows as it goes."""

    def expect(self, tokens: float) -> None:
        """So many tokens more than was known."""


@contextlib.contextmanager
def make_display(total_tokens: float, *, quiet: bool) -> Iterator[GrowingDisplay]:
    """The display for a study: live in a terminal, plain lines elsewhere."""
    if quiet:
        yield QuietDisplay()
    elif sys.stderr.isatty():
        with _progress() as progress:
            yield LiveDisplay(progress, total_tokens)
    else:
        yield LogDisplay(total_tokens)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.percentage:3.0f}%"),
        TextColumn("{task.fields[note]}"), TimeRemainingColumn(compact=True),
        console=Console(stderr=True), transient=True, speed_estimate_period=60,
    )  # fmt: skip


class Pace:
    """Tokens per second since training was first heard of: starting workers and loading teachers is no part of it."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._tokens = 0

    def add(self, tokens: int) -> None:
        """So many were trained since the last call; those of the first came before the clock."""
        if self._began is None:
            self._began = time.monotonic()
        else:
            self._tokens += tokens

    @property
    def rate(self) -> float | None:
        """Tokens per second; None until there is something to count, and a second to count it in."""
        if self._began is None or not self._tokens:
            return None
        elapsed = time.monotonic() - self._began
        return self._tokens / elapsed if elapsed > 1 else None


class QuietDisplay:
    """Says nothing but failures, which are printed at the end anyway."""

    def started(self, job: Job, worker: int) -> None:
        """Ignored."""

    def progressed(self, job: Job, tokens: int, loss: float | None) -> None:
        """Ignored."""

    def finished(self, job: Job) -> None:
        """Ignored."""

    def failed(self, job: Job, error: str) -> None:
        """Ignored."""

    def note(self, message: str) -> None:
        """Ignored."""

    def expect(self, tokens: float) -> None:
        """Ignored."""


class LiveDisplay:
    """One bar for the study, one per running trunk, with tokens/s, loss and time left."""

    def __init__(self, progress: Progress, total_tokens: float) -> None:
        self._progress = progress
        self._all = progress.add_task("study", total=total_tokens, note="")
        self._tasks: dict[str, TaskID] = {}
        self._pace = Pace()

    def started(self, job: Job, worker: int) -> None:
        """A bar appears."""
        name = job.trunk.trunk_id.rsplit("-", 1)[0]
        if job.trunk.trunk_id in self._tasks:  # its worker died; another goes on from the checkpoint
            return
        self._tasks[job.trunk.trunk_id] = self._progress.add_task(
            f"{job.trunk.purpose:7s} {name}", total=job.tokens, note=""
        )

    def progressed(self, job: Job, tokens: int, loss: float | None) -> None:
        """Bars advance."""
        self._pace.add(tokens)
        rate = self._pace.rate
        self._progress.update(
            self._all, advance=tokens, note=f"{format_count(rate)} tokens/s" if rate else ""
        )
        note = {} if loss is None else {"note": f"loss {loss:.3f}"}
        self._progress.update(self._tasks[job.trunk.trunk_id], advance=tokens, **note)

    def finished(self, job: Job) -> None:
        """The bar goes."""
        self._progress.remove_task(self._tasks.pop(job.trunk.trunk_id))

    def failed(self, job: Job, error: str) -> None:
        """The bar goes, the error stays."""
        self.finished(job)
        self.note(f"failed: {job.trunk.trunk_id}: {error}")

    def expect(self, tokens: float) -> None:
        """There is more to do than was known."""
        total = self._progress.tasks[0].total or 0.0
        self._progress.update(self._all, total=total + tokens)

    def note(self, message: str) -> None:
        """A line above the bars."""
        self._progress.console.print(message, markup=False, highlight=False)


class LogDisplay:
    """A line when a trunk ends and one every twenty seconds between."""

    def __init__(self, total_tokens: float) -> None:
        self._total, self._tokens, self._pace = total_tokens, 0, Pace()
        self._began = self._said = time.monotonic()

    def started(self, job: Job, worker: int) -> None:
        """Nothing: the end says enough."""

    def progressed(self, job: Job, tokens: int, loss: float | None) -> None:
        """A line now and then."""
        self._tokens += tokens
        self._pace.add(tokens)
        now, rate = time.monotonic(), self._pace.rate
        if rate is not None and now - self._said > LOG_SECONDS:
            self._said = now
            left = format_seconds(max(0.0, self._total - self._tokens) / rate)
            say(f"  {format_seconds(now - self._began)}: {format_count(self._tokens)} of about "
                f"{format_count(self._total)} tokens, {format_count(rate)} tokens/s, about {left} left")  # fmt: skip

    def finished(self, job: Job) -> None:
        """One line."""
        budgets = ", ".join(format_count(tokens) for tokens in job.budgets)
        say(f"  done: {job.trunk.purpose} {job.trunk.trunk_id} at {budgets} tokens")

    def failed(self, job: Job, error: str) -> None:
        """One line."""
        say(f"  failed: {job.trunk.trunk_id}: {error}")

    def expect(self, tokens: float) -> None:
        """There is more to do than was known; the clock starts with the first of it."""
        self._total += tokens
        if not self._tokens:
            self._began = self._said = time.monotonic()

    def note(self, message: str) -> None:
        """One line."""
        say(f"  {message}")
