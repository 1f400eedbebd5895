"""How far a piece of work is, on stderr: a live bar in a terminal, a plain line now and then in a log, or nothing.

Every verb that takes long uses this, studies too (display.py): amounts done, rate and time left in the same words.
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

if TYPE_CHECKING:
    from rich.progress import Progress


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

    def __init__(self, progress: "Progress", what: str, total: float, unit: str, left: Left | None = None) -> None:
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
            self._progress.update(self._task, left="" if seconds is None else f"{format_seconds(seconds)} left")

    def expect(self, amount: float) -> None:
        """The bar shrinks."""
        self._total += amount
        self._progress.update(self._task, total=self._total)

    def note(self, message: str) -> None:
        """A line above the bar."""
        self._progress.console.print(message, markup=False, highlight=False)
