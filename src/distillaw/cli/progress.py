"""How far a piece of work is, on stderr: a live bar in a terminal, a plain line now and then in a log, or nothing.

Every verb that takes long uses this, studies too: amounts done, rate and time left in the same words.

A study has one meter for all its tokens, in a terminal also a bar per running trunk.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from distillaw.cli.console import live_console, say
from distillaw.quantities import format_count, format_seconds
from distillaw.runs.pace import LOG_SECONDS, Meter, Pace, Telling
from distillaw.sweep.ready import TrunkJob
from distillaw.sweep.scheduler import Display

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


Left: TypeAlias = Callable[[], float | None]
"""Seconds left, by who knows better than the rate so far."""


def say_indented(message: str) -> None:
    """A line of the work in a log."""
    say(f"  {message}")


@contextlib.contextmanager
def metered(what: str, total: float, unit: str, *, quiet: bool = False) -> Iterator[Meter]:
    """A meter for work whose extent is known.

    Args:
        what: a word or two for the bar.
        total: how much there is to do, in units; may grow by `expect`.
        unit: in the plural, e.g. tokens.
        quiet: say nothing.
    """
    if quiet:
        yield Meter()
    elif is_live():
        with live_progress() as progress:
            yield LiveMeter(progress, what, total, unit)
    else:
        yield Telling(what, total, unit, say_indented)


@contextlib.contextmanager
def waiting(what: str, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Signs of life during work of which only its author knows how far it is.

    Args:
        what: what is being done, e.g. fitting.
        quiet: say nothing.

    Yields:
        What takes the lines that the work itself says; a sign of life follows only where it has been silent.
    """
    if quiet:
        yield lambda message: None
    elif is_live():
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
        with Progress(*columns, console=live_console(), transient=True) as progress:
            progress.add_task(what, total=None)
            yield lambda message: progress.console.print(f"  {message}", markup=False, soft_wrap=True)
    else:
        with _Heartbeat(what) as heartbeat:
            yield heartbeat.say


class _Heartbeat:
    """A line in a log whenever nothing was said for LOG_SECONDS."""

    def __init__(self, what: str) -> None:
        self._what, self._ended = what, threading.Event()
        self._began = self._said = time.monotonic()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "_Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def say(self, message: str) -> None:
        """A line of the work."""
        self._said = time.monotonic()
        say_indented(message)

    def _beat(self) -> None:
        while not self._ended.wait(max(0.1, self._said + LOG_SECONDS - time.monotonic())):
            if time.monotonic() - self._said >= LOG_SECONDS:
                self.say(f"{self._what}: {format_seconds(time.monotonic() - self._began)} so far")


def is_live() -> bool:
    """Whether stderr is a terminal that can move its cursor."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def live_progress() -> "Progress":
    """Bars that vanish at the end, with a share, a note and the time left."""
    from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class LeftColumn(TimeRemainingColumn):
        """The task's own word for the time left, where it has one."""

        def render(self, task: "Task") -> "Text":
            own = task.fields.get("left")
            return super().render(task) if own is None else Text(own, style="progress.remaining")

    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:3.0f}%"),
        TextColumn("{task.fields[note]}", markup=False),
        LeftColumn(compact=True),
    ]
    return Progress(*columns, console=live_console(), transient=True, speed_estimate_period=60)


class LiveMeter(Meter):
    """One bar with rate and time left."""

    def __init__(
        self, progress: "Progress", what: str, total: float, unit: str, left: Left | None = None
    ) -> None:
        self._progress, self._unit, self._total, self._left = progress, unit, total, left
        self._task = progress.add_task(what, total=total, note="", left=None if left is None else "")
        self._pace, self._asked = Pace(), 0.0

    def advance(self, amount: float = 1) -> None:
        """The bar grows."""
        self._pace.add(amount)
        rate = self._pace.rate
        note = f"{format_count(rate)} {self._unit}/s" if rate else ""
        self._progress.update(self._task, advance=amount, note=note)
        if self._left is not None and time.monotonic() - self._asked > LOG_SECONDS / 4:
            seconds, self._asked = self._left(), time.monotonic()
            self._progress.update(
                self._task, left="" if seconds is None else f"{format_seconds(seconds)} left"
            )

    def expect(self, amount: float) -> None:
        """The bar shrinks."""
        self._total += amount
        self._progress.update(self._task, total=self._total)

    def note(self, message: str) -> None:
        """A line above the bar."""
        self._progress.console.print(message, markup=False, highlight=False)


@contextlib.contextmanager
def make_display(total_tokens: float, *, quiet: bool, left: Left | None = None) -> Iterator[Display]:
    """The display for a study: live in a terminal, plain lines elsewhere; `left` knows the time, else the rate does."""
    if quiet:
        yield Display()
    elif is_live():
        with live_progress() as progress:
            yield LiveDisplay(progress, total_tokens, left)
    else:
        yield LogDisplay(total_tokens, left)


class MeteredDisplay(Display):
    """One meter for all tokens."""

    def __init__(self, meter: Meter) -> None:
        self._all = meter

    def progressed(self, job: TrunkJob, tokens: int, loss: float | None) -> None:
        """So much more is done."""
        self._all.advance(tokens)

    def failed(self, job: TrunkJob, error: str) -> None:
        """The error stays."""
        self.note(f"failed: {job.trunk.trunk_id}: {error}")

    def expect(self, tokens: float) -> None:
        """There is more to do than was known."""
        self._all.expect(tokens)

    def note(self, message: str) -> None:
        """A line of its own."""
        self._all.note(message)


class LogDisplay(MeteredDisplay):
    """A line when a trunk ends and one every twenty seconds between."""

    def __init__(self, total_tokens: float, left: Left | None = None) -> None:
        super().__init__(Telling("training", total_tokens, "tokens", say_indented, left))

    def finished(self, job: TrunkJob) -> None:
        """One line."""
        budgets = ", ".join(format_count(tokens) for tokens in job.budgets)
        self.note(f"done: {job.trunk.purpose} {job.trunk.trunk_id} at {budgets} tokens")


class LiveDisplay(MeteredDisplay):
    """One bar for the study with tokens/s and the time left, one per running trunk with its loss."""

    def __init__(self, progress: "Progress", total_tokens: float, left: Left | None = None) -> None:
        super().__init__(LiveMeter(progress, "study", total_tokens, "tokens", left))
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def started(self, job: TrunkJob, worker: int) -> None:
        """A bar appears."""
        name = job.trunk.trunk_id.rsplit("-", 1)[0]
        if job.trunk.trunk_id in self._tasks:  # its worker died; another goes on from the checkpoint
            return
        self._tasks[job.trunk.trunk_id] = self._progress.add_task(
            f"{job.trunk.purpose:7s} {name}", total=job.tokens, note="", left=""
        )

    def progressed(self, job: TrunkJob, tokens: int, loss: float | None) -> None:
        """Bars advance."""
        super().progressed(job, tokens, loss)
        note = {} if loss is None else {"note": f"loss {loss:.3f}"}
        self._progress.update(self._tasks[job.trunk.trunk_id], advance=tokens, **note)

    def finished(self, job: TrunkJob) -> None:
        """The bar goes."""
        self._progress.remove_task(self._tasks.pop(job.trunk.trunk_id))

    def failed(self, job: TrunkJob, error: str) -> None:
        """The bar goes, the error stays."""
        self.finished(job)
        super().failed(job, error)
